"""Reporters for the log (terminal and Prefect UI) and for MLflow."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from infra.registry import Registry
from ml.poster_sheet import poster_sheet
from ml.reporting import NullReporter, Reporter

logger = logging.getLogger("tasks")


class ProgressLog(NullReporter):
    """Logs the progress of a step with its rate and remaining time, at most every few seconds."""

    def __init__(self, every_seconds: float = 5) -> None:
        self._every_seconds = every_seconds
        self._started: dict[str, float] = {}
        self._logged: dict[str, float] = {}

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        if parameters:
            logger.info("%s: %s", name, ", ".join(f"{key} {_short(value)}" for key, value in parameters.items()))
        yield ProgressLog(self._every_seconds)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        now = time.monotonic()
        if done == 0 or what not in self._started:
            self._started[what] = self._logged[what] = now
        seconds = now - self._started[what]
        if done < total and now - self._logged[what] < self._every_seconds:
            return
        self._logged[what] = now
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        logger.info("%s: %d of %d (%.1f%s per second%s)", what, done, total, rate, f" {unit}" if unit else "", left)


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
