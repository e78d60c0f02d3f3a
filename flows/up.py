"""The stack that stays: deployment with its schedule, TensorBoard and the page, beside the stand-ins."""

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

_POLL_SECONDS = 1


def keep_up(
    stack: Stack,
    workspace: Path,
    parameters: RetrainParameters,
    tensorboard_port: int,
    page_port: int,
    schedule: list[str],
) -> None:
    """Add what people open to a running stack, print the addresses, and stay until Ctrl-C.

    Raises:
        StackError: a port is taken, or a process ended by itself.
    """
    tensorboard_port = claim_port(tensorboard_port, "TensorBoard", "--tensorboard-port")
    page_port = claim_port(page_port, "the page", "--page-port")
    logs = workspace / "tensorboard"
    logs.mkdir(exist_ok=True)
    python, loopback = sys.executable, "127.0.0.1"
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
            *(python, "-m", "gunicorn", "--bind", f"{loopback}:{page_port}", "--threads", "4", "--no-control-socket"),
            "serving.web.app:create_app()",
        ],
        {"FUNCTION_URL": stack.function_url},
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
        f"Everything is up; it lies in {workspace}.\n"
        f"  Prefect      {stack.prefect_url}   (Deployments, retrain: Run, or wait for its schedule)\n"
        f"  MLflow       {stack.mlflow_url}\n"
        f"  TensorBoard  http://{loopback}:{tensorboard_port}\n"
        f"  Function     {stack.function_url}   (answers once a model is live)\n"
        f"  Page         http://{loopback}:{page_port}/anime\n"
        f"The deployment reads {parameters.site_url}. Ctrl-C ends all.",
        flush=True,
    )
    while True:
        stack.processes.check()
        time.sleep(_POLL_SECONDS)


def mark_interrupted_runs_crashed() -> int:
    """Mark the runs that a killed stack left "Running", and return how many there were.

    Nothing can be running yet in a stack that has just started, but the server does not know that.
    """
    running = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=running)
        for run in runs:
            ended: State[None] = Crashed(
                message="The stack was ended while this ran; the next run goes on from what it did."
            )
            client.set_flow_run_state(run.id, ended, force=True)
    return len(runs)
