"""Runs that a killed stack left: they end when the next stack starts, and free their slots."""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed

from infra.errors import BusyError
from infra.files import exclusive_lock
from infra.registry import Registry
from infra.settings import read_settings

_MESSAGE = "The stack stopped during this run. The next run skips completed steps."


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
            Registry(settings).end_active_runs()
            return count
    except BusyError:
        return _settle([StateType.PENDING])


def _settle(types: list[StateType]) -> int:
    active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=active)
        for run in runs:
            was_cancelled = run.state_type == StateType.CANCELLING
            ended: State[None] = Cancelled(message=_MESSAGE) if was_cancelled else Crashed(message=_MESSAGE)
            inside = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            for task_run in client.read_task_runs(flow_run_filter=inside):
                if task_run.state is None or not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, ended, force=True)
            client.set_flow_run_state(run.id, ended, force=True)
    return len(runs)
