"""A service that only records what it gets, such as a webhook or a dead man's switch."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SILENT_SECONDS = 1.0


@dataclass(frozen=True)
class Received:
    """A request with its content type and its body."""

    method: str
    path: str
    content_type: str | None
    body: bytes


@dataclass
class Sink:
    """A server on this machine. It responds to /500 with this status, to /silent after a second, and else with 200."""

    url: str
    received: list[Received] = field(default_factory=list)


@contextmanager
def running_sink() -> Iterator[Sink]:
    """Run a sink inside the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            sink.received.append(Received(self.command, self.path, self.headers["Content-Type"], body))
            if self.path == "/silent":
                time.sleep(SILENT_SECONDS)
                return
            self.send_response(500 if self.path == "/500" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Sink(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
