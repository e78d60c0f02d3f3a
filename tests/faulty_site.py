"""The built-in site with a rate limit, faults and changed pages, which records every request.

with faulty_site(titles=60, rate=20, faults=0.2) as site:
    collect(site.url)
site.requests
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from infra.local.site.invented_titles import PosterState, invented_titles
from infra.local.site.server import SmallSite

KINDS = ("500", "503", "cut", "half")


@dataclass
class Request:
    """A request. `moment` is the time of its response on the monotonic clock."""

    moment: float
    path: str
    status: int


@dataclass
class FaultySite:
    """The settings and requests of a running server. The settings may change while it runs.

    `rate` is that of a token bucket (requests per second). Only two may come at once, so that slow machines are
    refused some, too. For the share `faults` of all paths, the first two responses are faulty. `change` is applied to
    each page. Paths in `redirects` redirect to another path: the real site redirects to the current season in place of
    seasons that it lacks.
    """

    site: SmallSite
    rate: float = 0
    faults: float = 0
    seed: int = 0
    change: Callable[[str], str] = str
    redirects: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    _tokens: float = 0
    _then: float = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """The URL of the site."""
        return self.site.base_url

    def fault(self, path: str) -> str | None:
        """The fault of the first two responses for a path; None if there is none."""
        rng = random.Random(f"{self.seed} {path}")
        return rng.choice(KINDS) if rng.random() < self.faults and path != "/robots.txt" else None

    def allows(self) -> bool:
        """Whether a request is within the limit."""
        if not self.rate:
            return True
        with self._lock:
            now = time.monotonic()
            self._tokens = min(2, self._tokens + (now - self._then) * self.rate)
            self._then = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True

    def count(self, path: str) -> int:
        """The number of requests for a path."""
        return sum(request.path == path for request in self.requests)


@contextmanager
def faulty_site(titles: int = 60, seed: int = 0, rate: float = 0, faults: float = 0) -> Iterator[FaultySite]:
    """Serve the site on loopback inside the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    invented = [
        replace(title, poster=PosterState.DRAWN) if title.poster is PosterState.BROKEN else title
        for title in invented_titles(titles, seed)
    ]  # a poster that is always broken would be retried with growing waits
    small = SmallSite(invented, seed, f"http://127.0.0.1:{server.server_address[1]}")
    server.site = FaultySite(small, rate, faults, seed)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.site  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        site: FaultySite = self.server.site  # type: ignore[attr-defined]
        path = urlsplit(self.path).path
        if not site.allows():
            return self._respond(429, b"Too Many Requests", **{"Retry-After": "1"})
        if target := site.redirects.get(path):
            return self._respond(303, b"", Location=f"{site.url}{target}")
        fault = site.fault(path) if site.count(path) < 2 else None
        status, content_type, body = site.site.response(path)
        if content_type.startswith("text/html"):
            body = site.change(body.decode()).encode()
        if fault in ("500", "503"):
            return self._respond(int(fault), b"Error", **{"Retry-After": "0"})
        if fault == "half":
            return self._respond(int(status), body[: len(body) // 2], **{"Content-Type": content_type})
        etag = f'"{hash(body)}"'
        if status == 200 and self.headers.get("If-None-Match") == etag:
            return self._respond(304, b"", ETag=etag)
        self._respond(int(status), body, cut=fault == "cut", ETag=etag, **{"Content-Type": content_type})

    def _respond(self, status: int, body: bytes, cut: bool = False, **headers: str) -> None:
        self.server.site.requests.append(  # type: ignore[attr-defined]
            Request(time.monotonic(), urlsplit(self.path).path, status)
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 3] if cut else body)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        pass
