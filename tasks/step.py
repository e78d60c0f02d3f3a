"""Steps: Prefect tasks that are retried after temporary errors, and that report when their result is reused."""

import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Completed

from infra.disk import disk_errors
from infra.errors import ServiceUnavailable, failure
from infra.settings import read_settings
from serving.bundle.errors import AnimeGenreError

logger = logging.getLogger("tasks")
_SILENCE_SECONDS = 8.0
Parameters = ParamSpec("Parameters")
Record = TypeVar("Record")


def step(name: str) -> Callable[[Callable[Parameters, Record]], Callable[Parameters, Record]]:
    """Make a function a retryable Prefect task. In a flow, a call returns its record or raises its exception.

    Prefect's result cache is off: a step is complete when its manifest is in the store. A step whose disk is full
    raises DiskFull, whatever failed because of it, and is not retried.
    """

    def decorate(work: Callable[Parameters, Record]) -> Callable[Parameters, Record]:
        waits_seconds = read_settings().retry_delay_seconds

        @functools.wraps(work)
        def on_disk(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Record:
            with disk_errors(read_settings().workspace), no_silence(name):
                return work(*args, **kwargs)

        as_task: Any = task(
            name=name,
            task_run_name=name,
            retries=len(waits_seconds),
            retry_delay_seconds=waits_seconds,
            retry_condition_fn=is_retryable,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(on_disk)

        @functools.wraps(work)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Record:
            # A call without return_state returns a state with a custom name ("Reused") instead of its record.
            record: Record = as_task(*args, **kwargs, return_state=True).result()
            return record

        return call

    return decorate


@contextmanager
def no_silence(name: str, seconds: float = _SILENCE_SECONDS) -> Iterator[None]:
    """Repeat the last line of the log, or the block's name, with its age, whenever it logs nothing for `seconds`."""
    last = _LastLine(name)
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds / 8):
            now = time.monotonic()
            if now - last.shown >= seconds:
                logger.info("%s (%.0f s)", last.message, now - last.logged, extra={"repeated": True})

    # Prefect finds the run that a line belongs to in the context.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(repeat,), daemon=True)
    loggers = [logging.getLogger(name) for name in ("tasks", "ml", "infra")]
    for each in loggers:
        each.addHandler(last)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for each in loggers:
            each.removeHandler(last)


class _LastLine(logging.Handler):
    """Remembers the last line and when it was logged; `shown` is when it was logged or repeated."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message
        self.logged = self.shown = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.shown = time.monotonic()
        if not hasattr(record, "repeated"):
            self.message, self.logged = record.getMessage().partition("\n")[0], self.shown


def is_retryable(task: "Task[Any, Any]", run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step is retried: the `retryable` of its exception, False for other exceptions."""
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "retryable", False))


def retried(work: Callable[[], Record]) -> Record:
    """Do work outside a step. Like a step, it is retried after temporary errors, except those of a full disk."""

    def on_disk() -> Record:
        with disk_errors(read_settings().workspace):
            return work()

    for wait_seconds in read_settings().retry_delay_seconds:
        try:
            return on_disk()
        except AnimeGenreError as error:
            if not error.retryable:
                raise
            logger.warning("%s It is retried in %g s.", error, wait_seconds)
            time.sleep(wait_seconds)
    return on_disk()


@contextmanager
def prefect_errors() -> Iterator[None]:
    """Raise ServiceUnavailable, which is retryable, if Prefect does not answer in the block."""
    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
            raise
        raise failure(ServiceUnavailable, "The Prefect server does not answer", error) from error


def run_name() -> str:
    """The name of the flow run, with the beginning of its id: two runs of one day may have the same name."""
    return f"{flow_run.name} ({str(flow_run.id)[:8]})"


def is_scheduled() -> bool:
    """Whether a schedule started the flow run, not a person."""
    with prefect_errors(), get_client(sync_client=True) as client:
        return bool(client.read_flow_run(flow_run.id).auto_scheduled)


def reused(record: Record, what: str) -> Record:
    """A state "Reused" with the record, for a step to return whose result is already in the store."""
    logger.info("Reused: %s.", what)
    state: Any = Completed(name="Reused", message=f"Reused: {what}.", data=record)
    return state  # type: ignore[no-any-return]
