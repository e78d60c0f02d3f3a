"""A reverse proxy that makes faults: what a service does not answer, a step has to survive."""

import http.client
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Fault:
    """Requests whose line contains `matching` are answered `status`: so many of them, for so long from the first."""

    matching: str
    seconds: float = math.inf
    times: float = math.inf
    status: int = 503
    began: float | None = None
    met: int = 0


@dataclass
class FaultProxy:
    """A reverse proxy in front of a local server; faults are added to `faults`."""

    url: str
    faults: list[Fault] = field(default_factory=list)

    def strikes(self, request_line: str) -> Fault | None:
        """The fault that a request meets."""
        for fault in self.faults:
            if fault.matching in request_line:
                fault.began = fault.began or time.monotonic()
                if fault.met < fault.times and time.monotonic() - fault.began < fault.seconds:
                    fault.met += 1
                    return fault
        return None


@contextmanager
def fault_proxy(target: str, *faults: Fault) -> Iterator[FaultProxy]:
    """A proxy in front of the server at `target`, with these faults."""
    server = _Server(("127.0.0.1", 0), _handler(target))
    server.proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}", list(faults))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    proxy: FaultProxy
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that gave up are part of the game."""


def _handler(target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            assert isinstance(self.server, _Server)
            if fault := self.server.proxy.strikes(f"{self.command} {self.path}"):
                self._answer(fault.status, [("Content-Type", "text/plain")], b"fault")
                return
            connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in {"connection", "transfer-encoding"}}
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
            connection.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            length = next((v for n, v in headers if n.lower() == "content-length"), str(len(body)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _forward

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
