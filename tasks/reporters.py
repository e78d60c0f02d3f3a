"""Reporters for the log (terminal and Prefect UI) and for MLflow."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.disk import check_space
from infra.errors import InfraError, ServiceUnavailable
from infra.registry import Registry
from ml.poster_sheet import poster_sheet
from ml.reporting import NullReporter, Reporter
from tasks.artifacts import ProgressBars
from tasks.crawl.traffic import duration

logger = logging.getLogger("tasks")

_LEAST_SECONDS = 10.0  # a rate is measured over at least this time
_TIMEOUT_SECONDS = 5.0  # how long a training waits for MLflow
_PAUSE_SECONDS = 60.0  # between two such waits


class _Work:
    """Work of one kind: how much was done at which time.

    Its rate is that of the last half of its time: the first batches are slow, and other programs come and go.
    """

    def __init__(self, began: float, done_before: int) -> None:
        # Work that was done before the first call took an unknown time, so it does not count towards the rate.
        self.began = self.shown = began
        self._recent = deque([(began, done_before)])

    def rate(self, now: float, done: int) -> float:
        """Work per second, 0 if it is not known yet."""
        recent, half = self._recent, now - max((now - self.began) / 2, _LEAST_SECONDS)
        recent.append((now, done))
        while recent[1][0] <= half:
            recent.popleft()
        since, done_then = recent[0]
        return (done - done_then) / (now - since) if now > since else 0.0


class ProgressLog(NullReporter):
    """Reports the progress of a step with its rate and remaining time, at most every few seconds.

    It goes to the log, and to a progress bar in Prefect for each kind of work. A step whose disk is full ends here.
    """

    def __init__(
        self,
        workspace: Path,
        every_seconds: float = 5,
        clock: Callable[[], float] = time.monotonic,
        bars: ProgressBars | None = None,
    ) -> None:
        self._workspace = workspace
        self._every_seconds = every_seconds
        self._clock = clock
        self._bars = bars or ProgressBars()
        self._work: dict[str, _Work] = {}

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        if parameters:
            logger.info("%s: %s", name, ", ".join(f"{key} {_short(value)}" for key, value in parameters.items()))
        yield ProgressLog(self._workspace, self._every_seconds, self._clock, self._bars)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        """Log the progress, unless it was logged less than `every_seconds` ago.

        Raises:
            DiskFull: the workspace's disk is full.
        """
        now = self._clock()
        work = self._work.get(what)
        if work is None or done == 0:
            work = self._work[what] = _Work(now, done)
        if done < total and now - work.shown < self._every_seconds:
            return
        work.shown = now
        check_space(self._workspace)
        rate = work.rate(now, done)
        parts = [f"{rate:.1f}{f' {unit}' if unit else ''} per second"] if rate else []
        if rate and done < total:
            parts.append(f"{duration((total - done) / rate)} left")
        sentence = f"{what}: {done} of {total}" + (f" ({', '.join(parts)})" if parts else "")
        logger.info("%s", sentence)
        self._bars.show(what, done, total, sentence)


class MlflowReporter(NullReporter):
    """Logs each run as a nested MLflow run with its parameters, curves, pictures and final figures.

    Training does not depend on them. While MLflow fails, they wait in memory, a warning says so once, and MLflow is
    tried again once a minute.
    """

    def __init__(self, registry: Registry, run_id: str | None, queue: "_Queue | None" = None) -> None:
        self._registry = registry.with_timeout(_TIMEOUT_SECONDS)
        self._run_id = run_id  # None until MLflow has the run
        self._queue = queue or _Queue()
        self._nested: dict[str, MlflowReporter] = {}

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        if not parameters and name in self._nested:  # MLflow accepts metrics for a run that has ended
            yield self._nested[name]
            return
        nested = self._nested[name] = MlflowReporter(self._registry, None, self._queue)
        self._queue.add(lambda: nested._start(name, parameters, self._run_id))
        try:
            yield nested
        except BaseException:
            nested._end("FAILED")
            raise
        nested._end("FINISHED")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._log(lambda run_id: self._registry.log_metrics(run_id, values, step))

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        sheet = poster_sheet(images, captions)
        self._log(lambda run_id: self._registry.log_image(run_id, name, sheet))

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        # The run has its parameters from the start, and MLflow refuses to set them twice.
        self._log(lambda run_id: self._registry.log_metrics(run_id, metrics))

    def close(self) -> None:
        """Try to log what is still waiting, once. What fails then is lost."""
        self._queue.close()

    def _start(self, name: str, parameters: Mapping[str, object], parent: str | None) -> None:
        self._run_id = self._registry.start_run(name, parameters, parent)

    def _end(self, status: str) -> None:
        self._log(lambda run_id: self._registry.end_run(run_id, status))

    def _log(self, call: Callable[[str], None]) -> None:
        self._queue.add(lambda: call(self._run_id) if self._run_id else None)


class _Queue:
    """Calls of MLflow, made in order. While one fails temporarily, all later ones wait."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._paused_until = -math.inf
        self._failing = False

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        if time.monotonic() >= self._paused_until:
            self._make_calls()

    def close(self) -> None:
        self._make_calls()
        if self._calls:
            logger.warning("Curves, pictures or ends of runs of this training are missing in MLflow.")

    def _make_calls(self) -> None:
        while self._calls:
            try:
                self._calls[0]()
            except ServiceUnavailable as error:
                if not self._failing:
                    logger.warning("%s The training goes on, and its curves are logged later.", error)
                self._failing, self._paused_until = True, time.monotonic() + _PAUSE_SECONDS
                return
            except InfraError as error:
                logger.warning("MLflow lacks a part of the training's curves: %s", error)
            self._calls.popleft()
        if self._failing:
            logger.info("MLflow is available again, and has the training's curves.")
            self._failing = False


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
