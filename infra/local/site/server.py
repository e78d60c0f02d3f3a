"""The server of the small site: season pages, detail pages, posters and robots.txt on 127.0.0.1.

`python -m infra.local.site` runs `SmallSiteServer` as a process; tests run it in a thread (tests/small_site.py).
"""

import re
import sys
from collections.abc import Sequence
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from infra.errors import StackError
from infra.local.same_origin import SameOriginHandler
from infra.local.site import drawing, pages
from infra.local.site.invented_titles import InventedTitle, PosterState, invented_titles
from serving.bundle.files import sha256_of

ROBOTS = b"User-agent: *\nDisallow: /ownlist/\n"
HTML, JPEG, GIF, TEXT = "text/html; charset=UTF-8", "image/jpeg", "image/gif", "text/plain; charset=UTF-8"


class SmallSite:
    """The content of each path. A poster is drawn at its first request and then kept (10 MB for 600 posters)."""

    def __init__(self, titles: Sequence[InventedTitle], seed: int, base_url: str) -> None:
        self.base_url = base_url
        self.seed = seed
        self.titles = titles
        self.by_id = {title.mal_id: title for title in self.titles}
        self.by_poster_path = {pages.poster_path(title): title for title in self.titles}
        self.seasons = {season for title in self.titles for season in title.pages}
        self.drawn: dict[str, bytes] = {}

    def response(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """The status, content type and body for a path."""
        if path == "/robots.txt":
            return HTTPStatus.OK, TEXT, ROBOTS
        if path == "/images/qm_50.gif":
            return HTTPStatus.OK, GIF, drawing.question_mark_gif()
        if path.startswith("/images/"):
            return self._poster(path)
        season = re.fullmatch(r"/anime/season/(\d{4})/(\w+)", path)
        if season and "-".join(season.groups()) in self.seasons:
            return self._html(pages.season_page(self.titles, "-".join(season.groups()), self.base_url))
        detail = re.fullmatch(r"/anime/(\d+)(/[^/]*)?", path)
        if detail and int(detail[1]) in self.by_id:
            return self._html(pages.detail_page(self.by_id[int(detail[1])], self.base_url))
        return HTTPStatus.NOT_FOUND, HTML, pages.not_found_page(self.base_url).encode()

    def _html(self, text: str) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, HTML, text.encode()

    def _poster(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        title = self.by_poster_path.get(path)
        if title is None or title.poster in (PosterState.MISSING, PosterState.PLACEHOLDER):
            return HTTPStatus.NOT_FOUND, TEXT, b"404 Not Found\n"
        # Without a lock, two threads may draw the same poster, but both draw the same bytes.
        if path not in self.drawn:
            draw = drawing.broken_jpeg if title.poster is PosterState.BROKEN else drawing.poster_jpeg
            self.drawn[path] = draw(title, self.seed)
        return HTTPStatus.OK, JPEG, self.drawn[path]


class SmallSiteServer(ThreadingHTTPServer):
    """The site on a port of 127.0.0.1; 0 chooses a free one.

    Raises:
        StackError: the port is taken or not allowed.
        ValueError: `titles` is less than 20.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # a collector opens many connections at once

    def __init__(self, titles: int = 600, seed: int = 0, port: int = 0) -> None:
        invented = invented_titles(titles, seed)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise StackError(
                f"The small site cannot listen on 127.0.0.1:{port} ({error}). Choose another port."
            ) from error
        self.base_url = f"http://127.0.0.1:{self.server_address[1]}"
        self.site = SmallSite(invented, seed, self.base_url)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; print other errors as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(SameOriginHandler):
    server: SmallSiteServer
    protocol_version = "HTTP/1.1"
    server_version = "small-site"
    timeout = 60  # seconds until an idle connection is closed
    wbufsize = -1  # one packet for head and body: a second one would wait for the acknowledgement of the first
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        status, content_type, body = self.server.site.response(urlsplit(self.path).path)
        etag = f'"{sha256_of(body)[:16]}"'
        if status is HTTPStatus.OK and self.headers.get("If-None-Match") == etag:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        self.send_response(status)
        self.send_header("ETag", etag)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, because the demo prints its own progress."""
