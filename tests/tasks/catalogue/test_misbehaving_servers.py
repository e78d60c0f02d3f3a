"""The collector with a server that misbehaves in one way: status, body, headers or framing of one or all responses.

Each run ends after few requests, with the correct catalogue and posters or with one short sentence.
"""

import asyncio
import gzip
import io
import re
import socket
import socketserver
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from serving.bundle.errors import AnimeGenreError
from serving.bundle.files import sha256_of
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.crawl.client import SiteClient
from tasks.errors import PageLayoutError, SeasonError, SiteBlocked, SiteError, SiteUnavailable
from tasks.myanimelist.source import MyAnimeList

pytestmark = pytest.mark.stack

SEASON, PAGE = "2010-fall", "/anime/season/2010/fall"
ODD = "9"  # the title whose poster is odd
GOOD = ["1", "2", "3"]
LONG = 300_000  # bytes of a body or header that no message may show


def jpeg(number: int) -> bytes:
    picture = Image.effect_noise((60, 90), 80).convert("RGB")
    picture.paste((number, number, number), (0, 0, 10, 10))
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    return stream.getvalue()


PICTURES = {id: jpeg(int(id)) for id in [*GOOD, ODD]}
PICTURE = PICTURES[ODD]


def season_page(ids: Sequence[str]) -> bytes:
    cards = "".join(
        f'<div class="seasonal-anime js-anime-type-1"><a class="link-title" href="/anime/{id}/a">Title {id}</a>'
        f'<div class="genres" id="{id}"><a href="/anime/genre/4/c">Comedy</a></div>'
        f'<div class="image"><img src="/images/anime/{id}.jpg"></div></div>'
        for id in ids
    )
    head = "<html><head><title>Fall 2010 - Anime</title></head><body>"
    return f'{head}<div class="seasonal-anime-list">{cards}</div></body></html>'.encode()


def response(
    status: str = "200 OK", body: bytes = b"", *headers: str, length: int | None = None, chunked: bool = False
) -> bytes:
    """The bytes of a response. Its Content-Length is `length`, or none at all if this is negative."""
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif length >= 0:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def redirect(target: str, status: str = "302 Found") -> bytes:
    return response(status, b"", f"Location: {target}")


class Server(socketserver.ThreadingTCPServer):
    """Sends `responses` by path, as they are, and closes the connection. Other paths are as on a good site."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.responses: dict[str, bytes | Callable[[socket.socket], None]] = {}
        self.ids: Sequence[str] = [*GOOD, ODD]
        self.requests: list[str] = []

    def response(self, path: str) -> bytes | Callable[[socket.socket], None]:
        name = path.removeprefix("/images/anime/").removesuffix(".jpg")
        if path in self.responses:
            return self.responses[path]
        if path == PAGE:
            return response(body=season_page(self.ids))
        return response(body=PICTURES[name]) if name in PICTURES else response("404 Not Found")

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that close the connection early are expected."""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.request.recv(65536)
            if not data:
                return
            head += data
        path = head.split(b" ")[1].decode()
        assert isinstance(self.server, Server)
        self.server.requests.append(path)
        what = self.server.response(path)
        if callable(what):
            what(self.request)
        else:
            self.request.sendall(what)
            self.request.shutdown(socket.SHUT_WR)
            while self.request.recv(65536):  # closing with unread data would reset the connection
                pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setitem(SiteClient.__init__.__kwdefaults__, "first_wait_seconds", 0.001)
    server.responses, server.ids, server.requests = {}, [*GOOD, ODD], []
    return server


def collect(site: Server, folder: Path, timeout_seconds: float = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Catalogue and posters of one run; its errors have short messages."""
    with Collector(
        folder, MyAnimeList(site.url), CollectConfig(details=0, timeout_seconds=timeout_seconds)
    ) as collector:
        try:
            catalogue = asyncio.run(collector.read_catalogue(SEASON))
            collector.replace_last_good(SEASON, catalogue)
            posters = asyncio.run(collector.download_posters(catalogue))
        except AnimeGenreError as error:
            assert len(str(error)) < 600 and all(map(str.isprintable, str(error).splitlines()))
            raise
    assert posters["reason"].str.len().max() < 300
    return catalogue, posters


Odd = tuple[bytes | Callable[[socket.socket], None], str, str, int]
"""What the server sends for a poster, the status and a part of the reason in the result, and the most requests."""


def check_odd_posters(
    site: Server, folder: Path, odd_with: Callable[[bytes], Mapping[str, Odd]], timeout_seconds: float = 5
) -> None:
    """One run records each odd poster as expected and downloads the good ones among them.

    `odd_with` returns all kinds of odd posters of a picture; the picture of each kind is another one. There is a good
    poster for each odd one, as failures of most posters of a host in a row stop the run.
    """
    kinds = {str(100 + 2 * number): kind for number, kind in enumerate(odd_with(PICTURE))}
    pictures = {str(number): jpeg(number) for number in range(100, 100 + 2 * len(kinds))}
    odd = {id: odd_with(pictures[id])[kind] for id, kind in kinds.items()}
    site.ids = [*pictures]
    site.responses |= {
        f"/images/anime/{id}.jpg": odd[id][0] if id in odd else response(body=picture)
        for id, picture in pictures.items()
    }
    catalogue, posters = collect(site, folder, timeout_seconds)
    assert list(catalogue["id"]) == site.ids
    found = posters.set_index("id")
    assert set(found.loc[[id for id in pictures if id not in odd], "status"]) == {"new"}
    for id, kind in kinds.items():
        _, status, reason, most_requests = odd[id]
        assert found["status"][id] == status, (kind, found["reason"][id])
        assert re.search(reason, found["reason"][id]), (kind, found["reason"][id])
        assert 1 <= site.requests.count(f"/images/anime/{id}.jpg") <= most_requests, kind
    for id in found.index[found["status"] == "new"]:
        sha256 = sha256_of((folder / "posters" / f"{id}.jpg").read_bytes())
        assert found["sha256"][id] == sha256 == sha256_of(pictures[id]), kinds.get(id)
    elsewhere = sum(not path.startswith(("/images/anime/", "/robots.txt", PAGE)) for path in site.requests)
    assert elsewhere <= sum(most_requests for _, _, _, most_requests in odd.values())


def check_second_run(site: Server, folder: Path) -> None:
    """A second run requests nothing and settles nothing else."""
    settled, requests = pd.read_csv(folder / "posters.csv")["status"].replace("new", "present"), len(site.requests)
    assert list(collect(site, folder)[1]["status"]) == list(settled)
    assert len(site.requests) == requests


NOTICE = b"<!DOCTYPE html><html><head><title>Hotlinking is not allowed</title></head><body>no</body></html>"
# A page of the site's theme, with its forms.
THEMED = NOTICE.replace(b"<body>", b'<body><div class="cf-turnstile"></div><div class="g-recaptcha"></div>')
AKAMAI = b"<html><title>Access Denied</title>Reference #18.2 https://errors.edgesuite.net/18.2</html>"
LONG_NOTICE = b"<html><title>" + b"x" * LONG + b"</title>"
DENIED = b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

STATUSES = {
    "204 No Content": ("refused", 1),
    "206 Partial Content": ("refused", 1),
    "226 IM Used": ("refused", 1),
    "300 Multiple Choices": ("refused", 1),
    "301 Moved Permanently": ("refused", 1),  # without Location
    "304 Not Modified": ("refused", 1),
    "400 Bad Request": ("refused", 1),
    "401 Unauthorized": ("refused", 1),
    "402 Payment Required": ("refused", 1),
    "403 Forbidden": ("missing", 1),
    "404 Not Found": ("missing", 1),
    "405 Method Not Allowed": ("refused", 1),
    "406 Not Acceptable": ("refused", 1),
    "408 Request Timeout": ("failed", 4),
    "410 Gone": ("missing", 1),
    "418 I'm a teapot": ("refused", 1),
    "425 Too Early": ("failed", 4),
    "451 Unavailable For Legal Reasons": ("refused", 1),
    "500 Internal Server Error": ("failed", 4),
    "502 Bad Gateway": ("failed", 4),
    "504 Gateway Timeout": ("failed", 4),
    "520 Unknown": ("failed", 4),
    "999 Request denied": ("failed", 4),
    f"404 {'Not Found ' * 2000}": ("missing", 1),
}


def test_poster_with_any_status_is_recorded_after_few_requests(site: Server, tmp_path: Path) -> None:
    odd: dict[str, Odd] = {}
    for status, (expected, most_requests) in STATUSES.items():
        body = b"" if status[:3] in ("204", "304") else THEMED
        odd[status[:40]] = (response(status, body), expected, status[:8], most_requests)
    check_odd_posters(site, tmp_path, lambda _: odd)


def bodies(picture: bytes) -> dict[str, tuple[bytes, str, str, int]]:
    return {
        "image": (picture, "new", "", 1),
        "half an image": (picture[: len(picture) // 2], "broken", "damaged or truncated", 4),
        "nothing": (b"", "broken", r"empty \(0 bytes\)", 4),
        "a page": (NOTICE, "broken", 'page with the title "Hotlinking is not allowed" instead', 1),
        "a page with forms": (THEMED, "broken", 'page with the title "Hotlinking is not allowed" instead', 1),
        "a long title": (LONG_NOTICE, "broken", 'page with the title "x{79}…"', 1),
        "long text": (b"x" * LONG, "broken", 'text, "x{79}…"', 1),
        "XML": (DENIED, "broken", "page without a title", 1),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'><title>Logo</title></svg>", "broken", "Logo", 1),
        "JSON": (b'{"error": "quota exceeded"}', "broken", "quota exceeded", 1),
        "noise": (bytes(range(256)) * 40, "broken", "not a JPEG", 4),
        "a pixel": (b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;", "broken", "1 x 1", 1),
    }  # fmt: skip


def test_poster_with_any_body_is_an_image_or_broken(site: Server, tmp_path: Path) -> None:
    check_odd_posters(
        site,
        tmp_path,
        lambda picture: {kind: (response(body=body), *rest) for kind, (body, *rest) in bodies(picture).items()},
    )
    check_second_run(site, tmp_path)


def deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


BOMB = gzip.compress(bytes(30_000_000))


def headers(picture: bytes) -> dict[str, Odd]:
    return {
        "64 KB": (response("200 OK", picture, f"Set-Cookie: {'a' * 65_000}"), "new", "", 1),
        "500 headers": (response("200 OK", picture, *(f"X-{n}: {n}" for n in range(500))), "new", "", 1),
        "300 KB": (response("200 OK", picture, f"Set-Cookie: {'a' * LONG}"), "failed", "invalid response", 4),
        "an ETag that is not text": (response("200 OK", picture, 'ETag: "\xff\xfe"'), "new", "", 1),
        "wrong type": (response("200 OK", picture, "Content-Type: text/html"), "new", "", 1),
        "gzip": (response("200 OK", gzip.compress(picture), "Content-Encoding: gzip"), "new", "", 1),
        "x-gzip": (response("200 OK", gzip.compress(picture), "Content-Encoding: X-GZIP"), "new", "", 1),
        "gzip twice": (
            response("200 OK", gzip.compress(gzip.compress(picture)), "Content-Encoding: gzip"), "new", "", 1
        ),
        "gzip without a word": (response("200 OK", gzip.compress(picture)), "new", "", 1),
        "no gzip": (response("200 OK", picture, "Content-Encoding: gzip"), "new", "", 1),
        "half of gzip": (response("200 OK", gzip.compress(picture)[:900]), "failed", "damaged body", 4),
        "a bomb": (response("200 OK", BOMB, "Content-Encoding: gzip"), "refused", "larger than 20 MB", 1),
        "deflate": (response("200 OK", zlib.compress(picture), "Content-Encoding: deflate"), "new", "", 1),
        "raw deflate": (response("200 OK", deflate(picture), "Content-Encoding: deflate"), "new", "", 1),
        "brotli": (response("200 OK", picture, "Content-Encoding: br"), "refused", "'br', which is not supported", 1),
        "utf-8": (response("200 OK", picture, "Content-Encoding: utf-8"), "new", "", 1),
        "a date that overflows": (
            response("500 Error", b"", "Retry-After: Tue, 24 Nov 99999999999 10:00:00 GMT"), "failed", "500 Error", 4
        ),
    }  # fmt: skip


def test_poster_with_any_headers_is_decoded_or_failed(site: Server, tmp_path: Path) -> None:
    check_odd_posters(site, tmp_path, headers)


def drip(connection: socket.socket) -> None:
    """Send a response without an end, one byte at a time."""
    connection.sendall(response(length=1_000_000))
    for _ in range(12):
        connection.sendall(b"\xff")
        time.sleep(0.06)


def stall(connection: socket.socket) -> None:
    time.sleep(0.2)


def framings(picture: bytes) -> dict[str, Odd]:
    return {
        "chunked": (response(body=picture, chunked=True), "new", "", 1),
        "until the connection closes": (response(body=picture, length=-1), "new", "", 1),
        "line feeds only": (b"HTTP/1.1 200 OK\nContent-Length: %d\n\n%s" % (len(picture), picture), "new", "", 1),
        "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + picture, "new", "", 1),
        "interim responses": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + response(body=picture), "new", "", 1),
        "too short": (response(body=picture, length=len(picture) + 9), "failed", "connection failed", 4),
        "too long": (response(body=picture + b"x" * LONG, length=len(picture)), "failed", "invalid response", 4),
        "two lengths": (response("200 OK", picture, "Content-Length: 5"), "failed", "invalid response", 4),
        "no number": (response("200 OK", picture, "Content-Length: many", length=-1), "failed", "invalid response", 4),
        "broken chunks": (
            response("200 OK", b"zz\r\n", "Transfer-Encoding: chunked", length=-1),
            "failed",
            "invalid",
            4,
        ),
        "chunks cut": (response(body=picture, chunked=True)[:-5], "failed", "connection failed", 4),
        "a header without a colon": (response("200 OK", picture, "nonsense"), "failed", "invalid response", 4),
        "a header with NUL": (response("200 OK", picture, "X: a\0b"), "failed", "invalid response", 4),
        "no HTTP": (b"220 FTP server ready\r\n", "failed", "invalid response", 4),
        "a bare page": (NOTICE * 100, "failed", "invalid response", 4),
        "HTTP/2": (b"HTTP/2 200 OK\r\n\r\n", "failed", "invalid response", 4),
        "status 99": (response("99 Odd", picture), "failed", "invalid response", 4),
        "half a header": (b"HTTP/1.1 200 OK\r\nContent-Le", "failed", "connection failed", 4),
        "no byte": (b"", "failed", "connection failed", 4),
    }


def slowly(body: bytes) -> Callable[[socket.socket], None]:
    """Sends a response in 13 parts, which takes longer than six timeouts."""

    def send(connection: socket.socket) -> None:
        head, size = response(length=len(body)), len(body) // 12
        for part in [head, *(body[start : start + size] for start in range(0, len(body), size))]:
            connection.sendall(part)
            time.sleep(0.06)

    return send


def silences(picture: bytes) -> dict[str, Odd]:
    return {
        "silence": (stall, "failed", "timeout", 4),
        "drops": (drip, "failed", "timeout", 4),
        "slow": (slowly(picture), "new", "", 4),
    }


def test_poster_with_any_framing_is_complete_or_failed(site: Server, tmp_path: Path) -> None:
    check_odd_posters(site, tmp_path, framings)


def test_poster_that_takes_too_long_for_its_size_is_failed(site: Server, tmp_path: Path) -> None:
    check_odd_posters(site, tmp_path, silences, timeout_seconds=0.1)


TARGETS = {
    "/images/anime/100.jpg": ("redirected", "redirects more than 3 times", 4),
    "http://[::1": ("redirected", r"redirects to 'http://\[::1'", 1),
    "gopher://a.test/": ("redirected", "not a valid URL", 1),
    "javascript:alert(1)": ("redirected", "not a valid URL", 1),
    "mailto:me@a.test": ("redirected", "not a valid URL", 1),
    "": ("redirected", "redirects more than 3 times", 4),
    "http://127.0.0.1:99999/": ("refused", "not a valid URL", 1),
    f"ftp://{'x' * 50_000}": ("redirected", "not a valid URL", 1),
    "/images/qm_50.gif": ("placeholder", "redirects to .*/qm_50.gif", 1),
    "/nowhere\xff .jpg": ("missing", "404", 2),
    "/moved.jpg": ("new", "", 2),
}


def test_poster_that_redirects_anywhere_is_recorded(site: Server, tmp_path: Path) -> None:
    def odd_with(picture: bytes) -> dict[str, Odd]:
        site.responses["/moved.jpg"] = response(body=picture)  # that of the last kind, which is moved
        return {target[:40]: (redirect(target), *rest) for target, rest in TARGETS.items()}

    check_odd_posters(site, tmp_path, odd_with)
    check_second_run(site, tmp_path)


CHALLENGE = b'<html><iframe id="main-iframe" src="/_Incapsula_Resource?CWUDNSAI=23&incident_id=7"></iframe></html>'
# Of all posters: the error or the status of all posters, a part of the message, and how often they are requested.
ALL: dict[str, tuple[bytes, type[SiteError] | str, str, int]] = {
    "a page": (response(body=THEMED), SiteBlocked, "Hotlinking is not allowed", 20 + 3),
    "a very long page": (response(body=LONG_NOTICE), SiteBlocked, "x{79}…", 20 + 3),
    "text": (response(body=b"quota exceeded"), SiteBlocked, "quota exceeded", 20 + 3),
    "a challenge": (response(body=CHALLENGE), SiteBlocked, "captcha", 1 + 3),
    "a challenge with 503": (response("503 Busy", CHALLENGE), SiteBlocked, "captcha", 1 + 3),
    "403": (response("403 Forbidden", THEMED), SiteBlocked, "403 Forbidden: the site refuses this", 3 + 3),
    "403 of Akamai": (response("403 Forbidden", AKAMAI), SiteBlocked, "403 Forbidden: the site refuses this", 3 + 3),
    "403 and Retry-After": (response("403 Forbidden", NOTICE, "Retry-After: 9"), SiteBlocked, "403 Forbidden", 1 + 3),
    "403 with AccessDenied": (response("403 Forbidden", DENIED), "missing", "access denied", 40),
    "404": (response("404 Not Found", CHALLENGE), "missing", "404", 40),
    "401": (response("401 Unauthorized", NOTICE), SiteError, "401", 20 + 3),
    "451": (response("451 Legal", NOTICE), SiteError, "451", 20 + 3),
    "429 for hours": (response("429 Slow down", b"", "Retry-After: 7200"), SiteBlocked, "429", 1 + 3),
    "500": (response("500 Error", LONG_NOTICE), SiteUnavailable, "500 Error", 4 * (20 + 3)),
    "empty": (response(), SiteError, "empty", 4 * (20 + 3)),
    "half": (response(body=PICTURE[:900]), SiteError, "truncated", 4 * (20 + 3)),
    "too long": (response(body=PICTURE + NOTICE, length=9), SiteUnavailable, "Content-Length", 4 * (20 + 3)),
    "loops": (redirect("/images/anime/100.jpg"), SiteError, "redirects more than 3", 4 * (20 + 3)),
    "login": (redirect("/login"), SiteBlocked, "Hotlinking", 2 * (20 + 3)),
    "one image": (redirect("/images/anime/1.jpg"), "placeholder", "redirect", 2 * 40),
}


@pytest.mark.parametrize("kind", ALL)
def test_host_that_misbehaves_for_all_posters_is_blocked_or_its_posters_are_recorded(
    site: Server, tmp_path: Path, kind: str
) -> None:
    what, expected, message, most_requests = ALL[kind]
    site.ids = [str(number) for number in range(100, 140)]
    site.responses = {f"/images/anime/{id}.jpg": what for id in site.ids} | {"/login": response(body=NOTICE)}
    if isinstance(expected, str):
        _, posters = collect(site, tmp_path)
        assert Counter(posters["status"]) == {expected: 40}
        assert posters["reason"].str.contains(message).all()
    else:
        with pytest.raises(expected, match=message) as caught:
            collect(site, tmp_path)
        assert type(caught.value) is expected or expected is SiteError
    assert 1 <= sum(path not in ("/robots.txt", PAGE) for path in site.requests) <= most_requests
    # Nothing is settled by a row of failures: once the host is as it should be, all posters are there.
    if not isinstance(expected, str):
        pictures = {f"/images/anime/{id}.jpg": response(body=jpeg(int(id))) for id in site.ids}
        site.responses = dict(pictures)
        with Collector(tmp_path, MyAnimeList(site.url), CollectConfig(details=0)) as collector:
            for memory in collector.ledger.hosts.all().values():
                collector.ledger.hosts.put(type(memory)(memory.host))
        _, posters = collect(site, tmp_path)
        assert Counter(posters["status"]) == {"new": 40}
        assert "No request is sent" not in (tmp_path / "posters.csv").read_text()


WHOLE = season_page([*GOOD, ODD])
PAGES: dict[str, tuple[bytes, type[AnimeGenreError] | None, str, int]] = {
    "gzip": (response("200 OK", gzip.compress(WHOLE), "Content-Encoding: gzip"), None, "", 1),
    "x-gzip": (response("200 OK", gzip.compress(WHOLE), "Content-Encoding: x-gzip"), None, "", 1),
    "gzip without a word": (response("200 OK", gzip.compress(WHOLE)), None, "", 1),
    "64 KB of headers": (response("200 OK", WHOLE, f"Content-Security-Policy: {'a' * 65_000}"), None, "", 1),
    "many headers": (response("200 OK", WHOLE, *(f"X-{n}: {n}" for n in range(500))), None, "", 1),
    "an ETag that is not text": (response("200 OK", WHOLE, 'ETag: "\xff"', "Last-Modified: \xfe"), None, "", 1),
    "chunked": (response(body=WHOLE, chunked=True), None, "", 1),
    "moved": (redirect("/there", "301 Moved"), None, "", 2),
    "too long": (response(body=WHOLE + b"x" * LONG, length=len(WHOLE)), SiteUnavailable, "longer than its Content", 4),
    "much too long": (response(body=WHOLE * 100, length=7), SiteUnavailable, "longer than its Content-Length", 4),
    "cut": (response(body=WHOLE[:400]), PageLayoutError, "cut short", 4),
    "empty": (response(), PageLayoutError, "empty", 4),
    "blank": (response(body=b" \r\n"), PageLayoutError, "empty", 4),
    "login": (response(body=NOTICE), PageLayoutError, "no list of titles", 1),
    "JSON": (response(body=b'{"error": "moved"}'), PageLayoutError, "</html>, is missing", 4),
    "a challenge": (response(body=CHALLENGE), SiteBlocked, "captcha", 1),
    "403": (response("403 Forbidden", NOTICE), SiteBlocked, r"403 Forbidden\.$", 1),
    "403 of Akamai": (response("403 Forbidden", AKAMAI), SiteBlocked, r"403 Forbidden\.$", 1),
    "503 with a captcha": (response("503 Busy", THEMED), SiteBlocked, "503 Busy, with a captcha", 1),
    "a captcha": (response(body=THEMED), SiteBlocked, "200 OK, with a captcha", 1),
    "a denial": (response(body=AKAMAI), SiteBlocked, "200 OK, with a page that denies access", 1),
    "401 with forms": (response("401 Unauthorized", THEMED), SiteError, "401 Unauthorized, which is not expected", 1),
    "403 with AccessDenied": (response("403 Forbidden", DENIED), SiteBlocked, "403 Forbidden", 1),
    "404": (response("404 Not Found", THEMED + b"x" * LONG), SeasonError, "has no page of 2010-fall", 1),
    "500": (response(f"500 {'Error ' * 9000}", LONG_NOTICE), SiteUnavailable, "500 Error", 4),
    "a loop": (redirect(PAGE), SiteError, "redirects more than 3 times", 4),
    "an address that is none": (redirect("http://[::1"), SiteError, "redirects to 'http", 1),
    "a bomb": (response("200 OK", BOMB), SiteError, "larger than 20 MB", 1),
    "no HTTP": (b"x" * LONG, SiteUnavailable, "is not HTTP", 4),
}


@pytest.mark.parametrize("kind", PAGES)
def test_page_with_any_response_is_read_or_named_in_a_sentence(site: Server, tmp_path: Path, kind: str) -> None:
    what, expected, message, most_requests = PAGES[kind]
    site.responses = {PAGE: what, "/there": response(body=WHOLE)}
    if expected is None:
        catalogue, posters = collect(site, tmp_path)
        assert list(catalogue["id"]) == [*GOOD, ODD]
        assert Counter(posters["status"]) == {"new": 4}
    else:
        with pytest.raises(expected, match=message):
            collect(site, tmp_path)
        assert not (tmp_path / "catalogue.csv").exists()
    assert sum(path in (PAGE, "/there") for path in site.requests) == most_requests


@pytest.mark.parametrize(
    "robots",
    [
        response(body=NOTICE),
        response(body=b"\xff\0" * LONG),
        response("403 Forbidden", NOTICE),
        response("206 Partial", b"User-agent: *"),
        redirect("/robots.txt"),
        redirect("http://[::1"),
        response("200 OK", gzip.compress(b"User-agent: *\nDisallow: /admin\n", mtime=0)),
    ],
    ids=["a page", "noise", "403", "206", "a loop", "an address that is none", "gzip"],
)
def test_robots_txt_that_cannot_be_read_forbids_nothing(site: Server, tmp_path: Path, robots: bytes) -> None:
    site.responses["/robots.txt"] = robots
    _, posters = collect(site, tmp_path)
    assert Counter(posters["status"]) == {"new": 4}
    assert len(site.requests) <= 2 * 4 + 1 + 4
