"""Reporters for the log (terminal and Prefect UI) and for MLflow."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from infra.registry import Registry
from ml.poster_sheet import poster_sheet
from ml.reporting import NullReporter, Reporter
from tasks.artifacts import ProgressBars

logger = logging.getLogger("tasks")


class ProgressLog(NullReporter):
    """Reports the progress of a step with its rate and remaining time, at most every few seconds.

    It goes to the log, and to a progress bar in Prefect for each kind of work.
    """

    def __init__(self, every_seconds: float = 5, bars: ProgressBars | None = None) -> None:
        self._every_seconds = every_seconds
        self._bars = bars or ProgressBars()
        self._first: dict[str, tuple[float, int]] = {}
        self._logged: dict[str, float] = {}

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        if parameters:
            logger.info("%s: %s", name, ", ".join(f"{key} {_short(value)}" for key, value in parameters.items()))
        yield ProgressLog(self._every_seconds, self._bars)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        now = time.monotonic()
        if done == 0 or what not in self._first:
            self._first[what], self._logged[what] = (now, done), -math.inf
        if done < total and now - self._logged[what] < self._every_seconds:
            return
        self._logged[what] = now
        began, done_before = self._first[what]
        # Work that was done before the first call took an unknown time, so it does not count towards the rate.
        rate = (done - done_before) / (now - began) if now > began else 0.0
        parts = [f"{rate:.1f}{f' {unit}' if unit else ''} per second"] if rate else []
        if rate and done < total:
            parts.append(f"{(total - done) / rate:.0f} s left")
        sentence = f"{what}: {done} of {total}" + (f" ({', '.join(parts)})" if parts else "")
        logger.info("%s", sentence)
        self._bars.show(what, done, total, sentence)


class MlflowReporter(NullReporter):
    """Logs each run as a nested MLflow run with its parameters, curves, pictures and final figures."""

    def __init__(self, registry: Registry, run_id: str) -> None:
        self._registry = registry
        self._run_id = run_id
        self._nested: dict[str, str] = {}

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        if not parameters and name in self._nested:  # MLflow accepts metrics for a run that has ended
            yield MlflowReporter(self._registry, self._nested[name])
            return
        with self._registry.run(name, parameters, parent=self._run_id) as run_id:
            self._nested[name] = run_id
            yield MlflowReporter(self._registry, run_id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._registry.log_metrics(self._run_id, values, step)

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        self._registry.log_image(self._run_id, name, poster_sheet(images, captions))

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        # The run has its parameters from the start, and MLflow refuses to set them twice.
        self._registry.log_metrics(self._run_id, metrics)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
