"""A stand-in for the deployed function, whose responses a test sets, and the page in a real browser.

The browser is Chromium or Chrome. Without one the tests skip, or fail if ANIME_GENRE_REQUIRE_BROWSER=1.
"""

import base64
import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page
from werkzeug.serving import make_server

from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import invented_titles
from serving.web.app import create_app
from tests.browser import chromium_browser

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def genre(number: int, name: str, probability: float, threshold: float) -> dict[str, object]:
    return {
        "id": number,
        "name": name,
        "probability": probability,
        "threshold": threshold,
        "predicted": probability >= threshold,
    }


PREDICTION = {
    "genres": [
        genre(1, "Action", 0.83, 0.4),
        genre(24, "Sci-Fi", 0.61, 0.45),
        genre(2, "Adventure", 0.34, 0.36),
        genre(36, "Slice of Life", 0.02, 0.3),
    ],
    "model": {
        "version": "3",
        "sha256": SHA256,
        "dataset_date": "2026-11-23",
        "explains": True,
        "collection": "built-in",
    },
    "timing_ms": {"fetch": 0.1, "decode": 4.2, "infer": 28.0, "total": 33.0},
}


def interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": round(value - half, 3), "high": round(value + half, 3)}


def genre_figures(number: int, name: str, posters: int, f1: float, half: float) -> dict[str, object]:
    return {
        "id": number,
        "name": name,
        "posters": posters,
        "f1": interval(f1, half),
        "average_precision": 0.4,
        "threshold": 0.3,
    }


CARD = """# Genres of an anime from its poster

Network: frozen-kernel (squeezenet1_1). Input: a poster squashed to 256 x 256 pixels. Output: a probability a genre.

## Compared on the validation part

| network | weighted F1 | macro F1 | micro F1 | mAP |
| :-- | --: | --: | --: | --: |
| frozen-kernel | 0.471 | 0.310 | 0.480 | 0.333 |
| recipe | 0.422 | 0.250 | 0.451 | 0.280 |

## Intended use

To suggest genres for a poster where nobody has named them yet, to sort and to browse. Not to decide about people,
titles or money without someone looking.

## Limits

- A poster shows a genre imperfectly.
- Rare genres are learned from few posters and are often missed.
"""

FIGURES = {
    "part": "validation",
    "posters": 1210,
    "dataset": {"key": "0" * 64, "posters": {"test": 1135, "train": 4700, "validation": 1210}},
    "weighted_f1": interval(0.471, 0.03),
    "mean_average_precision": interval(0.333, 0.025),
    "genres": [
        genre_figures(36, "Slice of Life", 60, 0.38, 0.08),
        genre_figures(1, "Action", 410, 0.66, 0.03),
        genre_figures(24, "Sci-Fi", 190, 0.52, 0.05),
        genre_figures(2, "Adventure", 240, 0.44, 0.05),
        genre_figures(4, "Comedy", 520, 0.61, 0.03),
        genre_figures(8, "Drama", 230, 0.41, 0.06),
        genre_figures(14, "Horror", 24, 0.27, 0.16),
        genre_figures(47, "Gourmet", 0, 0.0, 0.0),
    ],
    "confusions": [
        {"missed": "Sci-Fi", "given": "Action", "posters": 31},
        {"missed": "Drama", "given": "Comedy", "posters": 52},
    ],
}

DEPLOYMENT = {
    "version": "3",
    "bundle_sha256": SHA256,
    "live_since": "2026-11-24T04:31:07+00:00",
    "previous_version": "2",
    "collection": "myanimelist",
    "snapshot_date": "2026-11-23",
    "posters": FIGURES["dataset"]["posters"],
    "figures": {"test/weighted_f1": 0.462, "test/macro_f1": 0.301},
}

MODEL = {"model": PREDICTION["model"], "card": CARD, "figures": FIGURES, "deployment": DEPLOYMENT}


def heat_map(size: int = 64, x: float = 0.55, y: float = 0.45) -> str:
    """Two warm spots on a transparent background, as a data: URL of an RGBA PNG."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    heat = np.exp(-(((columns - x) / 0.22) ** 2) - ((rows - y) / 0.18) ** 2)
    heat += 0.6 * np.exp(-(((columns - 0.2) / 0.12) ** 2) - ((rows - 0.2) / 0.1) ** 2)
    heat = np.clip(heat, 0, 1)
    pixels = np.stack([0 * heat + 255, 220 - 190 * heat, 60 * (1 - heat), 215 * heat], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def fetched_poster() -> str:
    """The small picture of a named poster, as a data: URL of a JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(poster_jpeg(invented_titles(20)[4])).decode()


@dataclass
class StandInFunction:
    """Responds to every POST with `status` and `body`, and explains the requested genre.

    It waits `seconds`, and as long as `answers` is cleared.

    With the heat map of a named poster comes its picture, unless `is_old`. GET /model gets `model_status` and `model`.
    The other fields record the requests.
    """

    url: str = ""
    status: int = 200
    body: Any = field(default_factory=lambda: PREDICTION)
    model_status: int = 200
    model: Any = field(default_factory=lambda: dict(MODEL))
    content_type: str = "application/json"
    seconds: float = 0.0
    answers: threading.Event = field(default_factory=threading.Event)
    no_map_because: str | None = None
    is_old: bool = False
    posters: list[bytes] = field(default_factory=list)
    explained: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def response(self, explain: str | None, named: bool) -> Any:
        if explain is None or self.status != 200:
            return self.body
        genre = next(each for each in self.body["genres"] if explain in (str(each["id"]), each["name"]))
        explanation = {"genre": {"id": genre["id"], "name": genre["name"]}}
        if named and not self.is_old:
            explanation["poster"] = fetched_poster()
        if self.no_map_because:
            return {**self.body, "explanation": {**explanation, "image": None, "reason": self.no_map_because}}
        return {**self.body, "explanation": {**explanation, "image": heat_map()}}


@contextmanager
def stand_in(context: ssl.SSLContext | None = None) -> Iterator[StandInFunction]:
    function = StandInFunction()
    function.answers.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            function.posters.append(self.rfile.read(int(self.headers["Content-Length"])))
            function.headers.append(dict(self.headers))
            explain = parse_qs(urlsplit(self.path).query).get("explain", [None])[0]
            function.explained.append(explain)
            named = self.headers["Content-Type"] == "application/json"
            self.reply(function.status, function.response(explain, named))

        def do_GET(self) -> None:
            function.headers.append(dict(self.headers))
            self.reply(function.model_status if self.path == "/model" else 404, function.model)

        def reply(self, status: int, content: Any) -> None:
            time.sleep(function.seconds)
            function.answers.wait(60)
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", function.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A page that stopped waiting has closed the connection."""

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium_browser() as running:
        yield running


@pytest.fixture
def page_url(function: StandInFunction) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, create_app(function.url), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/anime"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(browser: Browser, page_url: str) -> Iterator[Callable[..., Page]]:
    """Opens the page in a browser. The page must not log errors or send requests to other servers."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def note(what: str, ours: bool) -> None:
        if not ours:
            complaints.append(what)

    def open_page(script: str = "", **options: Any) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, "reduced_motion": "reduce", **options}
        )
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        page.on("pageerror", lambda error: note(str(error), False))
        # The browser itself logs failed requests.
        page.on("console", lambda message: note(message.text, message.text.startswith("Failed to load resource")))
        own = (page_url.removesuffix("/anime"), "blob:", "data:")
        page.on("request", lambda request: note(request.url, request.url.startswith(own)))
        page.goto(page_url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(opened: Callable[..., Page]) -> Page:
    """The open page on a wide screen with the light theme."""
    return opened()


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    file = tmp_path / "poster.jpg"
    file.write_bytes(poster_jpeg(invented_titles(20)[3]))
    return file
