"""What the function measures of a request, and the line about it in the log.

A line is one JSON object, as Cloud Logging reads it (https://cloud.google.com/logging/docs/structured-logging). It has
no picture, and no name or address of a poster. `anime-genre monitor` reads these lines.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import flask
import numpy as np
from numpy.typing import NDArray

from .response_types import Timing, to_json
from .shared_load import LoadError

_STAGES = ("fetch", "decode", "infer")
_SHORT_HASH = 8  # characters of a bundle's sha256, as in all other logs
_DIGITS = 2


@dataclass
class Measurements:
    """What is measured of one request: the stages fetch, decode and infer, and its posters.

    A batch adds up the time of its posters. `posters` is how many the request has, 0 until it has been read.
    `predictions` are those for the log, and `refusals` counts the error codes of the posters, or that of the request.
    """

    posters: int = 0
    predictions: list[dict[str, object]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    _start: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.perf_counter() - start

    def timing(self) -> Timing:
        """Milliseconds per stage, and in total until now."""
        seconds = {**self._seconds, "total": time.perf_counter() - self._start}
        return Timing(**{name: round(value * 1000, 1) for name, value in seconds.items()})

    def add_prediction(
        self, size: tuple[int, int], pixels: NDArray[np.uint8], genres: Sequence[str], probabilities: Sequence[float]
    ) -> None:
        """Add what the log says about one poster.

        Args:
            size: width and height of its file's picture, in pixels.
            pixels: what the network gets, uint8 [3, S, S]. The log has their mean, from 0 (black) to 1 (white).
            genres: the names of the model's genres, and the probability of each.
        """
        rounded = {name: round(value, _DIGITS) for name, value in zip(genres, probabilities, strict=True)}
        brightness = int(pixels.sum()) / pixels.size / 255  # twice as fast as `mean`
        self.predictions.append(
            {
                "width": size[0],
                "height": size[1],
                "brightness": round(brightness, _DIGITS),
                "probabilities": rounded,
            }
        )


def write_line(
    request: flask.Request,
    path: str,
    request_id: str,
    status: int,
    measured: Measurements,
    for_operator: Mapping[str, str],
) -> None:
    """Write the line about a request to stdout.

    Args:
        request: the request.
        path: which of the function's addresses it asks for. Its own path may be a poster's name.
        request_id: what the response calls it.
        status: the HTTP status of the response.
        measured: what was measured.
        for_operator: further members for errors that a person must repair.
    """
    line: dict[str, object] = {
        "severity": "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO",
        "message": f"{request.method} {path} {status}",
        "request_id": request_id,
        "method": request.method,
        "path": path,
        "status": status,
        "milliseconds": to_json(measured.timing()),
        "model_version": os.environ.get("MODEL_VERSION"),
        "bundle": os.environ.get("BUNDLE_SHA256", "")[:_SHORT_HASH],
        "posters": measured.posters,
        "predictions": measured.predictions,
        "refusals": measured.refusals,
        **for_operator,
    }
    project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    if project and "X-Cloud-Trace-Context" in request.headers:
        line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{request_id}"
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def stack_trace(error: BaseException) -> str:
    """Where an error was raised, and its type. Its message is left out, because it may contain a poster's name."""
    if isinstance(error, LoadError):
        return error.stack_trace
    before = error.__cause__ or error.__context__
    earlier = stack_trace(before) if before else ""
    return f"{earlier}{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}\n"
