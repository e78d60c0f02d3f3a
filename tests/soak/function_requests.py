"""Generates valid and invalid requests to the function from a seed, each with its expected response.

A valid request sends a poster in one of the supported ways. The expected probabilities are those of
`serving.bundle.model.Model` in this process. An invalid request has an expected status and, if only one is possible,
an expected error code.
"""

import base64
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from serving.bundle.model import Model

JSON = "application/json"
TOLERANCE = 1e-5
BOUNDARY = "e2f1a0b9c8d7"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
MEDIA_TYPES = {"jpg": "image/jpeg"} | {suffix: f"image/{suffix}" for suffix in ("png", "webp", "avif", "gif")}
LARGEST_BATCH = 32


@dataclass(frozen=True)
class Request:
    """A request and its expected response.

    `expected` names the posters whose predictions the response must contain; in a batch also error codes. `code` is
    the expected error code, if only one is possible.
    """

    kind: str
    body: bytes = b""
    content_type: str | None = None
    method: str = "POST"
    path: str = "/"
    chunked: bool = False
    statuses: tuple[int, ...] = (200,)
    code: str | None = None
    expected: tuple[str, ...] = ()
    top: int | None = None
    explained: str | None = None

    @property
    def good(self) -> bool:
        """Whether the request must succeed."""
        return self.statuses == (200,)


class Posters:
    """Image files by their names in the bucket, and the model's predictions for them."""

    def __init__(self, files: Mapping[str, bytes], model: Model) -> None:
        self.files = dict(files)
        self.names = sorted(self.files)
        self.genres = [genre.name for genre in model.manifest.genres]
        self.probabilities = {
            name: {genre.name: genre.probability for genre in model.predict([data])[0]}
            for name, data in self.files.items()
        }

    @classmethod
    def read(cls, folder: Path, bundle: Path) -> "Posters":
        """Read the files of a folder, which the bucket holds as posters/NAME."""
        files = {f"posters/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())}
        return cls(files, Model.load(bundle))


def draw_posters(count: int, seed: int = 0) -> dict[str, bytes]:
    """Small generated pictures in every supported format, by their names in the bucket."""
    files = {}
    for number in range(count):
        suffix = list(MEDIA_TYPES)[number % len(MEDIA_TYPES)]
        rng = np.random.default_rng((seed, number))
        blocks = Image.fromarray(rng.integers(0, 256, (4, 3, 3), dtype=np.uint8))
        size = tuple(int(side) for side in rng.integers((90, 120), (240, 330)))
        picture = blocks.resize(size, Image.Resampling.BICUBIC)
        if suffix in ("png", "webp") and number % 2:
            picture.putalpha(Image.linear_gradient("L").resize(size))
        files[f"posters/{number}.{suffix}"] = encoded(picture, suffix)
    return files


def encoded(picture: Image.Image, suffix: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = BytesIO()
    picture.save(buffer, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


def form(*files: bytes, name: str = "poster") -> bytes:
    """A multipart body with these files."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}{number}"; filename="{number}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + data
        + b"\r\n"
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def base64_of(data: bytes) -> str:
    """An image in base64."""
    return base64.b64encode(data).decode()


class Requests:
    """Generates requests. The same seed and number give the same request."""

    def __init__(self, posters: Posters, bucket: str, size_limit_bytes: int, seed: int = 0) -> None:
        self._posters = posters
        self._bucket = bucket
        self._size_limit_bytes = size_limit_bytes
        self._seed = seed

    def numbered(self, number: int) -> Request:
        """The request with this number. Every tenth is invalid; the kinds of invalid requests take turns."""
        rng = random.Random(f"{self._seed}:{number}")
        if number % 10 == 9:
            return self.bad[number // 10 % len(self.bad)](rng)
        (draw,) = rng.choices([draw for draw, _ in self.good], [weight for _, weight in self.good])
        return draw(rng)

    @cached_property
    def good(self) -> list[tuple[Callable[[random.Random], Request], float]]:
        """The kinds of valid requests, and their weights."""
        return [
            (self._single("raw", lambda name, data: Request("", data, MEDIA_TYPES[name.rpartition(".")[2]])), 8),
            (self._single("octets", lambda name, data: Request("", data, "application/octet-stream")), 2),
            (self._single("chunked", lambda name, data: Request("", data, "image/jpeg", chunked=True)), 1),
            (self._single("form", lambda name, data: Request("", form(data), FORM)), 4),
            (self._single("base64", lambda name, data: self._json("", {"image": base64_of(data)})), 4),
            (self._single("name", lambda name, data: self._json("", {"name": name})), 2),
            (self._single("address", lambda name, data: self._json("", {"name": f"gs://{self._bucket}/{name}"})), 1),
            (self._batch, 1),
            (self._mixed_batch, 1),
            (self._top, 1),
            (self._explained, 1),
            (self._page, 1),
        ]

    @cached_property
    def bad(self) -> list[Callable[[random.Random], Request]]:
        """The kinds of invalid requests."""
        return [
            self._malformed_json,
            self._malformed_base64,
            self._malformed_form,
            self._malformed_query,
            self._large_batch,
            self._unknown_name,
            self._odd_name,
            self._unknown_page,
            self._forbidden_host,
            self._forbidden_bucket,
            self._no_image,
            self._no_known_content,
            self._truncated,
            self._too_many_pixels,
            self._too_large,
            self._wrong_method,
        ]

    def _draw(self, rng: random.Random) -> tuple[str, bytes]:
        name = rng.choice(self._posters.names)
        return name, self._posters.files[name]

    def _single(self, kind: str, make: Callable[[str, bytes], Request]) -> Callable[[random.Random], Request]:
        """A kind of request with one poster: `make` gets its name and content."""

        def draw(rng: random.Random) -> Request:
            name, data = self._draw(rng)
            return replace(make(name, data), kind=kind, expected=(name,))

        return draw

    def _batch(self, rng: random.Random) -> Request:
        names = rng.sample(self._posters.names, rng.randint(1, min(8, len(self._posters.names))))
        instances = [{"image": base64_of(self._posters.files[name])} for name in names]
        return self._json("batch", {"instances": instances}, expected=tuple(names))

    def _mixed_batch(self, rng: random.Random) -> Request:
        """A batch in which some posters are invalid."""
        (first, data), (second, _) = self._draw(rng), self._draw(rng)
        instances = [
            ({"image": base64_of(data)}, first),
            ({"name": second}, second),
            ({"name": "posters/none.jpg"}, "no_such_poster"),
            ({"image": base64_of(b"not an image")}, "unsupported_format"),
            ({"image": base64_of(data[: len(data) // 2])}, "unusable_image"),
            ({"name": f"gs://{self._bucket}-2/{first}"}, "forbidden_bucket"),
        ]
        rng.shuffle(instances)
        expected = tuple(each for _, each in instances)
        return self._json("mixed batch", {"instances": [instance for instance, _ in instances]}, expected=expected)

    def _top(self, rng: random.Random) -> Request:
        name, data = self._draw(rng)
        top = rng.randint(1, len(self._posters.genres) + 2)
        return Request("top", data, "image/jpeg", path=f"/?top={top}", expected=(name,), top=top)

    def _explained(self, rng: random.Random) -> Request:
        name, data = self._draw(rng)
        genre = self._posters.genres[0]
        path = f"/?explain={rng.choice((genre, genre.lower(), genre.upper()))}"
        return Request("explained", data, "image/jpeg", path=path, expected=(name,), explained=genre)

    def _page(self, rng: random.Random) -> Request:
        path = rng.choice(("/", "/health", "/healthz", "/model", "/openapi.json"))
        return Request("page", method="GET", path=path)

    def _malformed_json(self, rng: random.Random) -> Request:
        name, data = self._draw(rng)
        bodies: tuple[object, ...] = (
            *({}, [], [name], None, {"image": 5}),
            *({"name": value} for value in (5, "", "x" * 2000, None, f"gs://{self._bucket}/")),
            *({"instances": value} for value in ({}, name, [], [name, 5])),
        )
        texts = [json.dumps(body).encode() for body in bodies]
        texts += [b"", b"{", b'{"name": "posters', b"\xff\xfe\x00", b"[" * 100_000, data]
        body = rng.choice(texts)
        # A batch may also report an error per instance.
        statuses = (200, 400) if body.startswith(b'{"instances": [') and len(body) > 17 else (400,)
        return Request("malformed JSON", body, JSON, statuses=statuses)

    def _malformed_base64(self, rng: random.Random) -> Request:
        text = rng.choice(("%%%", "é" * 40, "A", base64_of(self._draw(rng)[1])[:-2] + "*="))
        return self._json("malformed base64", {"image": text}, statuses=(400,))

    def _malformed_form(self, rng: random.Random) -> Request:
        _, data = self._draw(rng)
        bodies = (
            (b"junk", FORM),
            (form(data), "multipart/form-data"),
            (form(data), "multipart/form-data; boundary=another"),
            (form(data, data), FORM),
            (form(), FORM),
        )
        body, kind = rng.choice(bodies)
        return Request("malformed form", body, kind, statuses=(400,))

    def _malformed_query(self, rng: random.Random) -> Request:
        _, data = self._draw(rng)
        query = rng.choice(("top=0", "top=-1", "top=many", "top=1e9", "explain=No+such+genre"))
        statuses = (400, 404) if query.startswith("explain") else (400,)
        return Request("malformed query", data, "image/jpeg", path=f"/?{query}", statuses=statuses)

    def _large_batch(self, rng: random.Random) -> Request:
        instances = [{"name": self._draw(rng)[0]}] * (LARGEST_BATCH + rng.randint(1, 100))
        return self._json("large batch", {"instances": instances}, statuses=(400, 413))

    def _unknown_name(self, rng: random.Random) -> Request:
        body = {"name": f"posters/none-{rng.randint(0, 999)}.jpg"}
        return self._json("unknown name", body, statuses=(404,), code="no_such_poster")

    def _odd_name(self, rng: random.Random) -> Request:
        """Names that JSON allows but a bucket does not, or that have a meaning in URLs or on a terminal."""
        name = rng.choice(("\ud800.jpg", "posters/\ud83d", "a\x00b.jpg", "a\r\nHost: b", "\u202e", "%2e%2e", "?a=b#c"))
        return self._json("odd name", {"name": name}, statuses=(400, 404))

    def _unknown_page(self, rng: random.Random) -> Request:
        path = rng.choice(("/nothing", "/model/none", "/../etc/passwd", "/%00"))
        return Request("unknown page", method=rng.choice(("GET", "POST")), path=path, statuses=(404,))

    def _forbidden_host(self, rng: random.Random) -> Request:
        name = rng.choice(
            (
                "https://example.com/poster.jpg",
                "https://127.0.0.1/poster.jpg",
                "https://169.254.169.254/computeMetadata/v1/",
                "https://metadata.google.internal/poster.jpg",
                "https://[::1]/poster.jpg",
            )
        )
        return self._json("forbidden host", {"name": name}, statuses=(403,), code="forbidden_host")

    def _forbidden_bucket(self, rng: random.Random) -> Request:
        body = {"name": f"gs://{self._bucket}-{rng.randint(0, 9)}/{self._draw(rng)[0]}"}
        return self._json("forbidden bucket", body, statuses=(403,), code="forbidden_bucket")

    def _no_image(self, rng: random.Random) -> Request:
        data = rng.choice((b"not an image", b"<html>404</html>", b"%PDF-1.7\n", rng.randbytes(500)))
        return Request("no image", data, "image/png", statuses=(415,), code="unsupported_format")

    def _no_known_content(self, rng: random.Random) -> Request:
        kind = rng.choice(("text/plain", "application/xml", "video/mp4", None))
        return Request("no known content", self._draw(rng)[1], kind, statuses=(415,), code="unsupported_content")

    def _truncated(self, rng: random.Random) -> Request:
        name, data = self._draw(rng)
        cut = data[: rng.randint(len(data) // 3, len(data) * 9 // 10)]
        kind = MEDIA_TYPES[name.rpartition(".")[2]]
        return Request("truncated", cut, kind, statuses=(422,), code="unusable_image")

    def _too_many_pixels(self, rng: random.Random) -> Request:
        return Request("too many pixels", self._bomb, "image/png", statuses=(413, 422))

    @cached_property
    def _bomb(self) -> bytes:
        return encoded(Image.new("1", (8000, 8000)), "png")

    def _too_large(self, rng: random.Random) -> Request:
        data = self._zeros
        if rng.random() < 0.5:
            return Request("too large", form(data), FORM, statuses=(413,), code="too_large")
        chunked = rng.random() < 0.3
        return Request("too large", data, "image/jpeg", chunked=chunked, statuses=(413,), code="too_large")

    @cached_property
    def _zeros(self) -> bytes:
        return bytes(self._size_limit_bytes + 2)

    def _wrong_method(self, rng: random.Random) -> Request:
        path, methods = rng.choice((("/", ("PUT", "DELETE", "PATCH")), ("/healthz", ("POST",)), ("/model", ("PUT",))))
        return Request("wrong method", method=rng.choice(methods), path=path, statuses=(405,))

    def _json(self, kind: str, body: object, **expected: object) -> Request:
        return Request(kind, json.dumps(body).encode(), JSON, **expected)  # type: ignore[arg-type]


def fault_of(request: Request, status: int, body: bytes, posters: Posters) -> str | None:
    """The fault in a response; None if there is none."""
    response = f"{request.kind} {request.method} {request.path}: {status} {body[:200]!r}"
    if status not in request.statuses:
        return f"{response}, expected {request.statuses}"
    try:
        document = json.loads(body)
    except ValueError:
        return f"{response} is not JSON"
    if status != 200:
        return fault_of_error(document, request.code, response)
    if not request.expected:
        return None
    try:
        if json.loads(request.body).get("instances") if request.content_type == JSON else False:
            return _fault_of_batch(document, request, posters, response)
        if request.explained and document["explanation"]["genre"]["name"] != request.explained:
            return f"{response} explains a genre other than {request.explained}"
        return _fault_of_genres(document["genres"], request.expected[0], request.top, posters, response)
    except (KeyError, TypeError, IndexError) as error:
        return f"{response} has an unexpected shape: {error!r}"


def fault_of_error(document: object, code: str | None, response: str) -> str | None:
    """The fault in an error response; None if there is none."""
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict) or not {"code", "message"} <= error.keys():
        return f"{response} does not name its error"
    if code is not None and error["code"] != code:
        return f"{response}, expected the code {code}"
    return None


def _fault_of_batch(document: dict, request: Request, posters: Posters, response: str) -> str | None:
    predictions = document["predictions"]
    if len(predictions) != len(request.expected):
        return f"{response} has {len(predictions)} predictions for {len(request.expected)} instances"
    for prediction, expected in zip(predictions, request.expected, strict=True):
        if expected in posters.probabilities:
            fault = _fault_of_genres(prediction["genres"], expected, request.top, posters, response)
        else:
            fault = fault_of_error(prediction, expected, f"{response}: {prediction}")
        if fault:
            return fault
    return None


def _fault_of_genres(genres: list[dict], poster: str, top: int | None, posters: Posters, response: str) -> str | None:
    expected = posters.probabilities[poster]
    count = len(expected) if top is None else min(top, len(expected))
    best = sorted(expected.values(), reverse=True)[:count]
    probabilities = [genre["probability"] for genre in genres]
    if len(genres) != count:
        return f"{response} has {len(genres)} genres, not {count}"
    if any(not math.isclose(genre["probability"], expected[genre["name"]], abs_tol=TOLERANCE) for genre in genres):
        return f"{response} is not the model's prediction for {poster}: {expected}"
    if any(not math.isclose(one, other, abs_tol=TOLERANCE) for one, other in zip(probabilities, best, strict=True)):
        return f"{response} does not start with the most probable genres"
    return None
