"""A stand-in for the deployed function, on a real loopback port, that answers what a test tells it to."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def genre(number: int, name: str, probability: float, threshold: float) -> dict[str, object]:
    return {
        "id": number,
        "name": name,
        "probability": probability,
        "threshold": threshold,
        "predicted": probability >= threshold,
    }


ANSWER = {
    "genres": [
        genre(1, "Action", 0.83, 0.4),
        genre(24, "Sci-Fi", 0.61, 0.45),
        genre(2, "Adventure", 0.34, 0.36),
        genre(36, "Slice of Life", 0.02, 0.3),
    ],
    "model": {"version": "3", "sha256": SHA256, "dataset_date": "2026-11-23"},
}


@dataclass
class StandInFunction:
    """Answers every POST with `status` and `body`, after `seconds`; remembers what it was sent."""

    url: str = ""
    status: int = 200
    body: Any = field(default_factory=lambda: ANSWER)
    content_type: str = "application/json"
    seconds: float = 0.0
    posters: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def stand_in(context: ssl.SSLContext | None = None) -> Iterator[StandInFunction]:
    function = StandInFunction()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            function.posters.append(self.rfile.read(int(self.headers["Content-Length"])))
            function.headers.append(dict(self.headers))
            time.sleep(function.seconds)
            body = function.body if isinstance(function.body, bytes) else json.dumps(function.body).encode()
            self.send_response(function.status)
            self.send_header("Content-Type", function.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A page that gave up waiting has closed the connection."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        function.url = f"{'https' if context else 'http'}://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield function
        server.shutdown()
        thread.join()


@pytest.fixture
def function() -> Iterator[StandInFunction]:
    with stand_in() as running:
        yield running


@pytest.fixture
def encrypted_function() -> Callable[[ssl.SSLContext], Any]:
    return stand_in
