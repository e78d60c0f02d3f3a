"""A reverse proxy that injects faults between a step and a service."""

import http.client
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.google_roles import Caller

_NOT_FORWARDED = {"connection", "transfer-encoding", "host"}  # services answer only to their own address


@dataclass
class Fault:
    """The first `times` requests whose line contains `matching` get `status`, for `seconds` after the first one."""

    matching: str
    seconds: float = math.inf
    times: float = math.inf
    status: int = 503
    started: float | None = None
    hits: int = 0


@dataclass
class FaultProxy:
    """A reverse proxy in front of a local server. Faults may be added to `faults`. No `caller` may do everything."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    caller: Caller | None = None

    def fault_of(self, request_line: str) -> Fault | None:
        """The fault of a request; None if there is none."""
        for fault in self.faults:
            if fault.matching in request_line:
                fault.started = fault.started or time.monotonic()
                if fault.hits < fault.times and time.monotonic() - fault.started < fault.seconds:
                    fault.hits += 1
                    return fault
        return None


@contextmanager
def fault_proxy(target: str, *faults: Fault, caller: Caller | None = None) -> Iterator[FaultProxy]:
    """Run a proxy with these faults in front of the server at `target`, inside the block."""
    server = _Server(("127.0.0.1", 0), _handler(target))
    server.proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}", list(faults), caller)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
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
        """Ignore clients that closed the connection."""


def _handler(target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            assert isinstance(self.server, _Server)
            proxy, line = self.server.proxy, f"{self.command} {self.path}"
            if fault := proxy.fault_of(line):
                self._respond(fault.status, [("Content-Type", "text/plain")], b"fault")
                return
            if proxy.caller and (refusal := proxy.caller.refusal(line)):
                self._respond(403, [("Content-Type", "application/json")], refusal)
                return
            connection = http.client.HTTPConnection(urlsplit(target).netloc, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_FORWARDED}
            connection.request(self.command, self.path, body, kept)
            response = connection.getresponse()
            self._respond(response.status, response.getheaders(), response.read())
            connection.close()

        def _respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
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
