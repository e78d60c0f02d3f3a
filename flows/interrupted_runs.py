"""Runs that a killed process left: they end when the next stack or the next run starts, and free their slots."""

import os

from prefect.client.orchestration import get_client
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
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed

from infra.errors import BusyError
from infra.files import exclusive_lock
from infra.local.stack import running_stack_environment
from infra.registry import Registry
from infra.settings import read_settings

_PIPELINES = ["retrain", "collect"]  # the flows whose runs hold the workspace's lock
WAITING = "waiting"
"""The tag of a run that waits for another one."""
_MESSAGE = "The run was interrupted. The next run skips completed steps."


def settle_interrupted_runs() -> int:
    """End the runs that cannot be running, with their task runs and MLflow runs, and return the number of flow runs.

    In a stack that has just started no run is active, but the server still has some in a state such as "Running" or
    "Pending", and each of them holds a slot of the deployment. A run of another process holds the workspace's lock:
    then only runs that have not begun are ended.
    """
    settings = read_settings()
    try:
        with exclusive_lock(settings.workspace):
            count = _settle([StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
            _settle_task_runs()
            Registry(settings).end_active_runs()
            return count
    except BusyError:
        return _settle([StateType.PENDING])


def settle_earlier_runs(own: str | None) -> None:
    """End the runs that were killed while the workspace's stack went on, but not the run `own`.

    The caller holds the workspace's lock, so that other runs of its flows were killed or wait for it. A rollback needs
    no lock. If the services belong to no stack of the workspace, runs of other machines may be active, and nothing is
    done.
    """
    settings = read_settings()
    stack = running_stack_environment(settings.workspace)
    if stack is None or stack["PREFECT_API_URL"] != os.environ.get("PREFECT_API_URL"):
        return
    _settle([StateType.RUNNING, StateType.CANCELLING], own, _PIPELINES)  # a pending one may be about to begin
    Registry(settings).end_active_runs()


def _settle(types: list[StateType], own: str | None = None, flows: list[str] | None = None) -> int:
    active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    with get_client(sync_client=True) as client:
        of_flows = FlowFilter(name=FlowFilterName(any_=flows)) if flows else None
        runs = client.read_flow_runs(flow_filter=of_flows, flow_run_filter=active)
        for run in [run for run in runs if str(run.id) != own and not (flows and WAITING in run.tags)]:
            was_cancelled = run.state_type == StateType.CANCELLING
            ended: State[None] = Cancelled(message=_MESSAGE) if was_cancelled else Crashed(message=_MESSAGE)
            inside = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for task_run in client.read_task_runs(flow_run_filter=inside):
                if task_run.state is None or not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, ended, force=True)
            client.set_flow_run_state(run.id, ended, force=True)
    return len(runs)


def _settle_task_runs() -> None:
    """End the task runs that are still active, although no flow run is: their flow run ended without them."""
    active = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    left = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=active)))
    with get_client(sync_client=True) as client:
        for task_run in client.read_task_runs(task_run_filter=left):
            client.set_task_run_state(task_run.id, Crashed(message=_MESSAGE), force=True)
