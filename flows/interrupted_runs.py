"""Runs that a killed process left: they end when the next stack or the next run starts, and free their slots."""

import os
from collections.abc import Callable, Collection
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from infra.errors import BusyError
from infra.files import workspace_lock
from infra.local.stack import running_stack_environment
from infra.registry import Registry
from infra.settings import read_settings

_PIPELINES = ["retrain", "collect"]  # the flows whose runs hold the workspace's lock
_ELSEWHERE = ["train-step"]  # the flow whose runs belong to a worker, which goes on without this stack
_ACTIVE = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_MESSAGE = "The run was interrupted. The next run skips completed steps."


def settle_interrupted_runs() -> None:
    """End the runs that cannot be running, with their task runs and MLflow runs.

    In a stack that has just started no run is active, but the server still has some in a state such as "Running" or
    "Pending", and each of them holds a slot of the deployment. A run of another process holds the workspace's lock:
    then only runs that have not begun are ended. A training on another machine goes on, and the next run follows it.
    """
    settings, elsewhere = read_settings(), _elsewhere()
    try:
        with workspace_lock(settings.workspace):
            _settle(_ACTIVE, lambda run: str(run.id) not in elsewhere)
            _settle_task_runs(elsewhere)
            Registry(settings).end_active_runs(lambda flow_run: flow_run not in elsewhere)
    except BusyError:
        _settle([StateType.PENDING], lambda run: str(run.id) not in elsewhere)


def settle_earlier_runs(run_id: str | None, holder: str | None = None) -> None:
    """End the runs that were killed while the workspace's stack went on, but not the run `run_id`.

    If the services belong to no stack of the workspace, runs of other machines may be active. Prefect itself ends those
    that are silent then (see infra/README.md), and only MLflow runs of ended flow runs are ended here.

    Args:
        run_id: the run that calls this. It holds the workspace's lock.
        holder: the run that held the lock before, and did not release it. Other runs of deployments may be about to
            wait for the lock. Those without a deployment do not wait.
    """
    settings = read_settings()
    stack = running_stack_environment(settings.workspace)
    if stack is None or stack["PREFECT_API_URL"] != os.environ.get("PREFECT_API_URL"):
        with get_client(sync_client=True) as client:
            Registry(settings).end_active_runs(lambda flow_run: flow_run is not None and _has_ended(client, flow_run))
        return
    # One that is pending may be about to begin.
    _settle(
        [StateType.RUNNING, StateType.CANCELLING],
        lambda run: str(run.id) != run_id and (run.deployment_id is None or str(run.id) == holder),
        _PIPELINES,
    )
    elsewhere = _elsewhere()
    Registry(settings).end_active_runs(lambda flow_run: flow_run not in elsewhere)


def _elsewhere() -> set[str]:
    """The ids of the trainings on other machines that are active."""
    with get_client(sync_client=True) as client:
        return {str(run.id) for run in _runs(client, _ACTIVE, _ELSEWHERE)}


def _has_ended(client: SyncPrefectClient, flow_run: str) -> bool:
    """Whether a flow run has ended. One that this server does not know may belong to another server."""
    try:
        state = client.read_flow_run(UUID(flow_run)).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_final()


def _settle(types: list[StateType], is_left: Callable[[FlowRun], bool], flows: list[str] | None = None) -> None:
    with get_client(sync_client=True) as client:
        for run in filter(is_left, _runs(client, types, flows)):
            was_cancelled = run.state_type == StateType.CANCELLING
            ended: State[None] = Cancelled(message=_MESSAGE) if was_cancelled else Crashed(message=_MESSAGE)
            inside = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for task_run in client.read_task_runs(flow_run_filter=inside):
                if task_run.state is None or not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, ended, force=True)
            client.set_flow_run_state(run.id, ended, force=True)


def _runs(client: SyncPrefectClient, types: list[StateType], flows: list[str] | None) -> list[FlowRun]:
    """The runs in states of some types; of all flows if `flows` is None."""
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=flows)) if flows else None,
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
    )


def _settle_task_runs(elsewhere: Collection[str]) -> None:
    """End the task runs that are still active, although their flow run is not: it ended without them."""
    active = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    left = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=active)))
    with get_client(sync_client=True) as client:
        for task_run in client.read_task_runs(task_run_filter=left):
            if str(task_run.flow_run_id) not in elsewhere:
                client.set_task_run_state(task_run.id, Crashed(message=_MESSAGE), force=True)
