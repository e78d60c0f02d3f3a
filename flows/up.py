"""The command `up`: adds the scheduled deployment, TensorBoard and the web page to the local stack."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort

from flows import automations
from flows.deployments import FULL_NAME, NOTE, Edit, read_edits
from flows.parameters import RetrainParameters
from flows.schedule import machine_timezone
from infra.cloud_run import CloudRun
from infra.disk import disk_full, is_full
from infra.local.processes import claim_port
from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import Settings, environment_variable, read_settings
from tasks.rollouts import name_of

_POLL_SECONDS = 1
_SCHEDULING_SECONDS = 15  # Prefect plans the next runs some seconds after a deployment is written
_DEPLOYMENT = "Deployment"


def keep_up(
    stack: Stack,
    workspace: Path,
    parameters: RetrainParameters,
    tensorboard_port: int,
    page_port: int,
    schedule: Sequence[str],
) -> None:
    """Start TensorBoard, the page and the deployment in a running stack, print all addresses and wait for Ctrl-C.

    `schedule` holds the options of `flows.deployments` for the schedule. A run that is active at the end stops before
    the services that it needs.

    Raises:
        StackError: a port is taken, or a process ended unexpectedly.
    """
    tensorboard_port = claim_port(tensorboard_port, "TensorBoard", "--tensorboard-port")
    page_port = claim_port(page_port, "the page", "--page-port")
    logs = workspace / "tensorboard"
    logs.mkdir(exist_ok=True)
    python, loopback, settings = sys.executable, "127.0.0.1", read_settings()
    start = stack.processes.start
    began, note, page_url = time.time(), workspace / NOTE, f"http://{loopback}:{page_port}/anime"
    start(
        _DEPLOYMENT,
        [python, "-m", "flows.deployments", "--parameters", parameters.model_dump_json(), *schedule],
        {**stack.environment, environment_variable("page_url"): page_url},
        ready=lambda: read_edits(note, began) is not None,
        folder=workspace,  # Prefect imports from its working folder first
    )
    start(
        "TensorBoard",
        [
            *(python, "-m", "infra.local.tensorboard_server", "--logdir", str(logs), "--reload_multifile", "true"),
            *("--host", loopback, "--port", str(tensorboard_port)),
        ],
        stack.environment,
        f"http://{loopback}:{tensorboard_port}/",
        is_viewer=True,
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
            "TRUSTED_HOSTS": f"{loopback},localhost",
        },
        f"http://{loopback}:{page_port}/healthz",
        folder=workspace,  # so does gunicorn
        is_viewer=True,
    )
    try:
        stack.processes.wait_ready()
        print(
            f"All services are running. Their data is in {workspace}, their logs are in {workspace / 'logs'}.\n"
            f"  Prefect      {stack.prefect_url}   (start a run: Deployments, retrain, Run)\n"
            f"  MLflow       {Registry(settings).runs_url}\n"
            f"  TensorBoard  http://{loopback}:{tensorboard_port}\n"
            f"  Function     {stack.function_url or 'not created yet: start again after the first run'}"
            "   (available once a model is live)\n"
            f"  Page         {page_url}\n"
            f"{_live_model(parameters.collection_name)}",
            *_about_deployment(read_edits(note, began) or []),
            *_about_notifications(settings, automations.edited_automations(workspace / automations.NOTE)),
            "Press Ctrl-C to stop.",
            sep="\n",
            flush=True,
        )
        warned = False
        while True:
            stack.processes.check()
            if is_full(workspace) and not warned:
                print(f"Warning: {disk_full(OSError(), workspace)}", file=sys.stderr, flush=True)
            warned = is_full(workspace)
            time.sleep(_POLL_SECONDS)
    finally:
        stack.processes.stop(_DEPLOYMENT)


def _live_model(collection: str) -> str:
    """A sentence about the model that has the function's traffic."""
    settings = read_settings(collection)
    live = CloudRun(settings).live()
    if live is None:
        return "Model: none is live yet. Start a run in Prefect to train the first one."
    since = f"{live.created.astimezone():%Y-%m-%d %H:%M}" if live.created else "an unknown time"
    return f"Model: {name_of(live)} is live, deployed {since}."


def _about_deployment(edits: Sequence[Edit]) -> list[str]:
    """Lines about the site, the schedule and a person's edits."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(FULL_NAME)
        parameters = RetrainParameters.model_validate(deployment.parameters["parameters"])
        schedule = _schedule(client, deployment)
    lines = [f"The deployment reads {parameters.source_url}.", f"Schedule: {schedule}."]
    shown = [(edit, _show(edit.name, edit.value), _show(edit.name, edit.replaced)) for edit in edits]
    if kept := [f"  {edit.name}: {value} (this command would set {ours})" for edit, value, ours in shown if edit.kept]:
        lines += ["Edited in Prefect, and kept:", *kept]
    if lost := [f"  {edit.name}: {value} (now {ours})" for edit, value, ours in shown if not edit.kept]:
        lines += ["Edited in Prefect, but no longer valid:", *lost]
    return lines


def _about_notifications(settings: Settings, edited: Sequence[str]) -> list[str]:
    """Lines about which notifications are sent, without the addresses."""
    unset = {name: f"none, because {environment_variable(name)} is not set" for name in ("notify_url", "ping_url")}
    sent = "failed runs, promotions and rollbacks" if settings.notify_url else unset["notify_url"]
    lines = [
        f"Messages to the webhook: {sent}.",
        f"Ping: {'after each successful run' if settings.ping_url else unset['ping_url']}.",
    ]
    if edited:
        lines.append(f"Automations edited in Prefect, and kept: {', '.join(edited)}.")
    return lines


def _show(name: str, value: Any) -> str:
    if name != "schedule":
        return json.dumps(value, ensure_ascii=False)
    schedules = [DeploymentScheduleCreate.model_validate(each) for each in value]
    return ", ".join(_words(each.schedule) + ("" if each.active else " (paused)") for each in schedules) or "none"


def _schedule(client: SyncPrefectClient, deployment: DeploymentResponse) -> str:
    """The deployment's schedules in words, with the next run."""
    active = [each.schedule for each in deployment.schedules if each.active]
    if deployment.paused or not active:
        return "paused in Prefect" if deployment.schedules else "none"
    words = ", ".join(_words(each) for each in active)
    scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    deadline = time.monotonic() + _SCHEDULING_SECONDS
    while time.monotonic() < deadline:
        runs = client.read_flow_runs(
            flow_run_filter=scheduled,
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        )
        for due in (run.expected_start_time for run in runs if run.auto_scheduled):
            if due is not None:
                return f"{words}; next run {next_run(due, active[0])}"
        time.sleep(_POLL_SECONDS / 4)
    return words


def next_run(due: datetime, schedule: Any) -> str:
    """The time of a run on the clocks of its schedule's time zone. Intervals have none: then it is the machine's."""
    zone = schedule.timezone if isinstance(schedule, CronSchedule) and schedule.timezone else machine_timezone()
    shown = f"{datetime.fromtimestamp(due.timestamp(), ZoneInfo(zone)):%A, %Y-%m-%d %H:%M}"
    return shown if isinstance(schedule, CronSchedule) else f"{shown} in time zone {zone}"


def _words(schedule: Any) -> str:
    if isinstance(schedule, CronSchedule):
        return f"{schedule.cron!r} in time zone {schedule.timezone}"
    if isinstance(schedule, IntervalSchedule):
        return f"every {schedule.interval.total_seconds():g} s"
    return "a recurrence rule"
