"""Posters in, what is said about them out: fetched, decoded, through the network, and into JSON."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.errors import AnimeGenreError, BundleError, PosterError, PosterFormatError, PosterSizeError, RequestError
from ..bundle.heatmap import as_address, heatmap
from ..bundle.image import decode
from ..bundle.model import GenreThreshold, Model
from .loading import Bundle, identity
from .question import Question, brought_poster
from .reading import named_poster_in_memory
from .sources import MAX_BYTES, named_poster

_FETCHERS = 4  # posters of a batch that are fetched and decoded at a time
_BATCH_SECONDS = 30.0  # to begin with the last poster; Cloud Run ends a request after 60


class Stopwatch:
    """Milliseconds by stage: fetch, decode, infer; of a batch the sum of all its posters."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._lock = threading.Lock()
        self._seconds = {"fetch": 0.0, "decode": 0.0, "infer": 0.0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def milliseconds(self) -> dict[str, float]:
        """By stage, and in total until now."""
        seconds = {**self._seconds, "total": time.perf_counter() - self._start}
        return {name: round(value * 1000, 1) for name, value in seconds.items()}


def refusal(error: AnimeGenreError) -> tuple[int, str]:
    """The HTTP status and the code of what cannot be answered."""
    if isinstance(error, RequestError):
        return error.status, error.code
    if isinstance(error, PosterFormatError):
        return 415, "unsupported_format"
    if isinstance(error, PosterSizeError):
        return 422, "too_many_pixels"
    if isinstance(error, PosterError):
        return 422, "unusable_image"
    return 503, "bundle_error" if isinstance(error, BundleError) else "unavailable"


def answer(question: Question, bundle: Bundle, watch: Stopwatch) -> dict[str, Any]:
    """The answer to a question, as JSON has it.

    Raises AnimeGenreError where there is none; of a batch each poster has an answer or an error of its own.
    """
    model = bundle.model()
    column = None if question.explain is None else _column(question.explain, model)
    if question.batch:
        deadline = time.monotonic() + _BATCH_SECONDS
        with ThreadPoolExecutor(min(_FETCHERS, len(question.instances))) as pool:
            seen = list(pool.map(lambda instance: _seen(instance, bundle, model, watch, deadline), question.instances))
    else:
        seen = [_pixels(question.instances[0], bundle, model, watch)]
    images = [each for each in seen if not isinstance(each, dict)]
    with watch.stage("infer"):
        about_images = iter(_about(images, model, question.top, column))
    predictions = [each if isinstance(each, dict) else next(about_images) for each in seen]
    said = {"predictions": predictions} if question.batch else predictions[0]
    return {**said, "model": identity(model), "timing_ms": watch.milliseconds()}


def _about(images: list[NDArray[np.uint8]], model: Model, top: int | None, column: int | None) -> list[dict[str, Any]]:
    """What is said about each image; with an explanation of the genre of this column, where one is given."""
    if not images:
        return []
    if column is not None and model.manifest.explains:
        probabilities, maps = model.explained(np.stack(images))
    else:
        probabilities, maps = model.probabilities(np.stack(images)), None
    about: list[dict[str, Any]] = [{"genres": _genres(model, row, top)} for row in probabilities]
    if column is not None:
        for row, entry in enumerate(about):
            entry["explanation"] = _explanation(model, column, None if maps is None else maps[row, column])
    return about


def _explanation(model: Model, column: int, places: NDArray[np.float32] | None) -> dict[str, Any]:
    genre = model.manifest.genres[column]
    named = {"id": genre.id, "name": genre.name}
    if places is None:
        reason = "This network cannot show where on a poster it saw a genre."
        return {"genre": named, "image": None, "reason": reason}
    return {"genre": named, "image": as_address(heatmap(places, model.manifest.preprocessing.size))}


def _seen(
    instance: object, bundle: Bundle, model: Model, watch: Stopwatch, deadline: float
) -> NDArray[np.uint8] | dict[str, Any]:
    """The pixels of a poster of a batch, or why there are none, as JSON: an exception would keep it in memory."""
    try:
        if time.monotonic() > deadline:
            raise RequestError(504, "too_slow", "The batch's other posters took too long; send fewer.")
        return _pixels(instance, bundle, model, watch)
    except AnimeGenreError as error:
        status, code = refusal(error)
        return {"error": {"status": status, "code": code, "message": str(error)}}


def _pixels(instance: object, bundle: Bundle, model: Model, watch: Stopwatch) -> NDArray[np.uint8]:
    size = model.manifest.preprocessing.size
    with watch.stage("fetch"):
        poster = brought_poster(instance)
    if poster is not None:
        return _decoded(poster, size, watch)
    assert isinstance(instance, dict)
    with named_poster_in_memory():
        with watch.stage("fetch"):
            poster = named_poster(instance["name"], bundle.bucket())
        return _decoded(poster, size, watch)


def _decoded(poster: bytes, size: int, watch: Stopwatch) -> NDArray[np.uint8]:
    if len(poster) > MAX_BYTES:
        raise RequestError(413, "too_large", f"The poster is larger than {MAX_BYTES // 2**20} MiB.")
    with watch.stage("decode"):
        return decode(poster, size)


def _column(asked: str, model: Model) -> int:
    """The column of a genre by its name or id; RequestError (404) where the model does not know it."""

    def fits(genre: GenreThreshold) -> bool:
        return asked.casefold() == genre.name.casefold() or (genre.id is not None and asked == str(genre.id))

    for column, genre in enumerate(model.manifest.genres):
        if fits(genre):
            return column
    known = ", ".join(genre.name for genre in model.manifest.genres)
    raise RequestError(404, "unknown_genre", f"The model knows no such genre; it knows {known}.")


def _genres(model: Model, probabilities: NDArray[np.float32], top: int | None) -> list[dict[str, Any]]:
    decided = [
        vars(genre.decide(probability))
        for genre, probability in zip(model.manifest.genres, probabilities.tolist(), strict=True)
    ]
    return sorted(decided, key=lambda genre: -float(genre["probability"]))[:top]
