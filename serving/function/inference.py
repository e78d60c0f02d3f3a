"""From a request's posters to predictions: fetch, decode, run the network."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.errors import AnimeGenreError
from ..bundle.heatmap import data_url, heatmap
from ..bundle.image import decode_with_size, preview
from ..bundle.model import GenrePrediction, GenreThreshold, Model
from .body_limits import reserve_named_poster
from .errors import RequestError, first_names, status_and_code
from .loading import Bundle, model_identity
from .named_posters import MAX_BYTES, fetch_poster
from .request_body import NamedPoster, PosterRequest, parse_instance
from .request_log import Measurements
from .response_types import (
    BatchResponse,
    Explanation,
    Genre,
    InstanceError,
    InstanceErrorDetail,
    PosterPrediction,
    PosterResponse,
)

_FETCH_THREADS = 4  # posters of a batch that are fetched and decoded concurrently
_PREVIEW_SIDE = 480  # pixels
_DECODING_WAIT_SECONDS = 20.0  # for the memory; added to _BATCH_SECONDS, it is less than Cloud Run's 60
_BATCH_SECONDS = 30.0  # the last poster of a batch must start by then; Cloud Run ends a request after 60


@dataclass(frozen=True)
class _Poster:
    """A decoded poster: its pixels, uint8 [3, size, size], and a small JPEG if it was named and `explain` is given.

    `size` is the width and height of its file's picture.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    preview: bytes | None = None


def predict_posters(request: PosterRequest, bundle: Bundle, measured: Measurements) -> PosterResponse | BatchResponse:
    """Predict the genres of a request's posters.

    In a batch each poster has a prediction or an error of its own. Otherwise the error is raised as AnimeGenreError.
    """
    measured.posters = len(request.instances)
    model = bundle.model()
    column = None if request.explain is None else _column(request.explain, model)
    explained = column is not None
    loaded: list[_Poster | InstanceError]
    if request.batch:
        deadline = time.monotonic() + _BATCH_SECONDS
        with ThreadPoolExecutor(min(_FETCH_THREADS, len(request.instances))) as pool:
            loaded = list(
                pool.map(
                    lambda instance: _read_instance(instance, bundle, model, measured, explained, deadline),
                    request.instances,
                )
            )
    else:
        loaded = [_read_poster(request.instances[0], bundle, model, measured, explained)]
    with measured.stage("infer"):
        posters = [each for each in loaded if isinstance(each, _Poster)]
        predictions = iter(_predictions(posters, model, measured, request.top, column))
    measured.refusals.update(each.error.code for each in loaded if isinstance(each, InstanceError))
    results = [each if isinstance(each, InstanceError) else next(predictions) for each in loaded]
    if request.batch:
        return BatchResponse(results, model_identity(model), measured.timing())
    (prediction,) = results
    assert isinstance(prediction, PosterPrediction)
    return PosterResponse(
        genres=prediction.genres,
        explanation=prediction.explanation,
        model=model_identity(model),
        timing_ms=measured.timing(),
    )


def _predictions(
    posters: list[_Poster], model: Model, measured: Measurements, top: int | None, column: int | None
) -> list[PosterPrediction]:
    """The prediction of each poster, with an explanation of the genre in `column` if one is given."""
    if not posters:
        return []
    images = np.stack([poster.pixels for poster in posters])
    maps = None
    if column is not None and model.manifest.explains:
        probabilities, maps = model.explained(images)
    else:
        probabilities = model.probabilities(images)
    names = [genre.name for genre in model.manifest.genres]
    for poster, row in zip(posters, probabilities.tolist(), strict=True):
        measured.add_prediction(poster.size, poster.pixels, names, row)
    return [
        PosterPrediction(
            genres=_genres(model, row, top),
            explanation=None
            if column is None
            else _explanation(model, column, None if maps is None else maps[number, column], posters[number].preview),
        )
        for number, row in enumerate(probabilities)
    ]


def _explanation(
    model: Model, column: int, activation: NDArray[np.float32] | None, preview_jpeg: bytes | None
) -> Explanation:
    genre = Genre(model.manifest.genres[column].id, model.manifest.genres[column].name)
    poster = None if preview_jpeg is None else data_url(preview_jpeg, "image/jpeg")
    if activation is None:
        why = f": {model.manifest.not_explained}" if model.manifest.not_explained else ""
        return Explanation(genre, None, f"This network cannot show where on a poster it sees a genre{why}.", poster)
    return Explanation(genre, data_url(heatmap(activation, model.manifest.preprocessing.size)), poster=poster)


def _read_instance(
    instance: object, bundle: Bundle, model: Model, measured: Measurements, explained: bool, deadline: float
) -> _Poster | InstanceError:
    """A poster of a batch, or its error. The error is not kept as an exception.

    An exception would keep the poster in memory through its traceback.
    """
    try:
        if time.monotonic() > deadline:
            raise RequestError(504, "too_slow", "The other posters of the batch took too long; send fewer.")
        return _read_poster(instance, bundle, model, measured, explained)
    except AnimeGenreError as error:
        return InstanceError(InstanceErrorDetail(*status_and_code(error), str(error)))


def _read_poster(instance: object, bundle: Bundle, model: Model, measured: Measurements, explained: bool) -> _Poster:
    """Fetch a named poster, or take the one that the request holds, and decode it."""
    size = model.manifest.preprocessing.size
    with measured.stage("fetch"):
        poster = parse_instance(instance)
    if not isinstance(poster, NamedPoster):
        return _Poster(*_decode(poster, size, measured))
    with reserve_named_poster():
        with measured.stage("fetch"):
            data = fetch_poster(poster.name, bundle.bucket())
        pixels, file_size = _decode(data, size, measured)
        with measured.stage("decode"), _busy_after_timeout():
            small = preview(data, _PREVIEW_SIDE, _DECODING_WAIT_SECONDS) if explained else None
        return _Poster(pixels, file_size, small)


def _decode(poster: bytes, size: int, measured: Measurements) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    if len(poster) > MAX_BYTES:
        raise RequestError(413, "too_large", f"The poster is larger than {MAX_BYTES // 2**20} MiB.")
    with measured.stage("decode"), _busy_after_timeout():
        return decode_with_size(poster, size, wait_seconds=_DECODING_WAIT_SECONDS)


@contextmanager
def _busy_after_timeout() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise RequestError(503, "busy", "Too many large posters are being decoded; try again.") from error


def _column(explain: str, model: Model) -> int:
    """The column of a genre given by its name or id. Raises RequestError (404) if the model does not know it."""

    def matches(genre: GenreThreshold) -> bool:
        return explain.casefold() == genre.name.casefold() or (genre.id is not None and explain == str(genre.id))

    for column, genre in enumerate(model.manifest.genres):
        if matches(genre):
            return column
    known = first_names([genre.name for genre in model.manifest.genres])
    raise RequestError(404, "unknown_genre", f"The model does not know this genre. It knows {known}.")


def _genres(model: Model, probabilities: NDArray[np.float32], top: int | None) -> list[GenrePrediction]:
    """The `top` most probable genres, most probable first."""
    predictions = [
        genre.decide(probability)
        for genre, probability in zip(model.manifest.genres, probabilities.tolist(), strict=True)
    ]
    return sorted(predictions, key=lambda genre: -genre.probability)[:top]
