"""What makes a function a step: a Prefect task that is tried again where that may help, and that says when the
work was done before."""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from infra.settings import read_settings

logger = logging.getLogger("tasks")
Parameters = ParamSpec("Parameters")
Record = TypeVar("Record")


def step(name: str) -> Callable[[Callable[Parameters, Record]], Callable[Parameters, Record]]:
    """Make a function a retryable Prefect task; called in a flow it returns its record, or raises its error.

    Prefect's own result cache is off: a step is done when its manifest is in the store.
    """

    def decorate(work: Callable[Parameters, Record]) -> Callable[Parameters, Record]:
        waits_seconds = read_settings().retry_delay_seconds
        as_task: Any = task(
            name=name,
            retries=len(waits_seconds),
            retry_delay_seconds=waits_seconds,
            retry_condition_fn=may_be_retried,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(work)

        @functools.wraps(work)
        def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Record:
            # Prefect hands a state with a name of its own ("Reused") to the flow as it is.
            record: Record = as_task(*args, **kwargs, return_state=True).result()
            return record

        return call

    return decorate


def may_be_retried(task: "Task[Any, Any]", run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed step may be tried again: what its exception's type says, else not."""
    error = state.result(raise_on_failure=False)
    return bool(getattr(error, "retryable", False))


def reused(record: Record, what: str) -> Record:
    """The record of a step that was done before, in a state that says so; to be returned by the step."""
    logger.info("Reused: %s.", what)
    state: Any = Completed(name="Reused", message=f"Reused: {what}.", data=record)
    return state  # type: ignore[no-any-return]
