"""The command `up`: adds the scheduled deployment, TensorBoard and the web page to the local stack."""

import sys
import time
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.states import Crashed

from flows.parameters import RetrainParameters
from infra.local.processes import claim_port
from infra.local.stack import Stack
from infra.settings import read_settings

_POLL_SECONDS = 1


def keep_up(
    stack: Stack,
    workspace: Path,
    parameters: RetrainParameters,
    tensorboard_port: int,
    page_port: int,
    schedule: list[str],
) -> None:
    """Start TensorBoard, the page and the deployment in a running stack, print all addresses and wait for Ctrl-C.

    Raises:
        StackError: a port is taken, or a process ended unexpectedly.
    """
    tensorboard_port = claim_port(tensorboard_port, "TensorBoard", "--tensorboard-port")
    page_port = claim_port(page_port, "the page", "--page-port")
    logs = workspace / "tensorboard"
    logs.mkdir(exist_ok=True)
    python, loopback, settings = sys.executable, "127.0.0.1", read_settings()
    start = stack.processes.start
    start(
        "TensorBoard",
        [
            *(python, "-m", "tensorboard.main", "--logdir", str(logs), "--reload_multifile", "true"),
            *("--host", loopback, "--port", str(tensorboard_port)),
        ],
        stack.environment,
        f"http://{loopback}:{tensorboard_port}/",
    )
    start(
        "Page",
        [
            *(python, "-m", "gunicorn", "--bind", f"{loopback}:{page_port}", "--threads", "16", "--no-control-socket"),
            "serving.web.app:create_app()",
        ],
        {
            "FUNCTION_URL": stack.function_url,
            "TITLE_NOUN": settings.title_noun,
            "LABEL_NOUN": settings.label_noun,
        },
        f"http://{loopback}:{page_port}/healthz",
    )
    start(
        "Deployment",
        [python, "-m", "flows.deployments", "--parameters", parameters.model_dump_json(), *schedule],
        stack.environment,
        f"{stack.environment['PREFECT_API_URL']}/deployments/name/retrain/retrain",
    )
    mark_interrupted_runs_crashed()
    stack.processes.wait_ready()
    print(
        f"All services are running. Their data is in {workspace}.\n"
        f"  Prefect      {stack.prefect_url}   (start a run: Deployments, retrain, Run)\n"
        f"  MLflow       {stack.mlflow_url}\n"
        f"  TensorBoard  http://{loopback}:{tensorboard_port}\n"
        f"  Function     {stack.function_url}   (available once a model is live)\n"
        f"  Page         http://{loopback}:{page_port}/anime\n"
        f"The deployment reads {parameters.source_url}. Press Ctrl-C to stop.",
        flush=True,
    )
    while True:
        stack.processes.check()
        time.sleep(_POLL_SECONDS)


def mark_interrupted_runs_crashed() -> int:
    """Mark the runs that a killed stack left in state "Running" as crashed, and return their number.

    In a stack that has just started no run is active, but the server still has them in this state.
    """
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=running)
        for run in runs:
            crashed: State[None] = Crashed(
                message="The stack stopped during this run. The next run skips completed steps."
            )
            client.set_flow_run_state(run.id, crashed, force=True)
    return len(runs)
