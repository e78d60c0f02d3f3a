"""The deployments in the Prefect UI: `retrain` (weekly), `collect` (daily), `train` and `rollback`.

Serve them until Ctrl-C with: python -m flows.deployments --cron "0 4 * * 1"

Values of `retrain` and the schedule of `collect` that a person edits in Prefect stay: deployment.json and
collect-deployment.json in the workspace have what this command last wrote, and a value on the server that differs from
it is a person's. `collect` and `train` have the parameters of `retrain`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.context import refresh_global_settings_context
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from flows import automations
from flows.parameters import RetrainParameters
from flows.prefect_access import separate_password
from flows.retrain import collect, retrain
from flows.rollback import rollback
from flows.schedule import DAILY, WEEKLY, check_schedule, machine_timezone
from infra.files import write_bytes
from infra.settings import read_settings
from serving.bundle.redaction import redact_logs
from tasks.rollouts import promote_command
from tasks.table.configuration import TableConfig

NAME = "retrain"
FULL_NAME = f"{retrain.name}/{NAME}"
NOTE, _COLLECT_NOTE = "deployment.json", "collect-deployment.json"
_ONE_RUN = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
_ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)  # intervals are counted from here, so that a restart does not move them


@dataclass(frozen=True)
class Edit:
    """A value that a person changed in Prefect, and that of the command. It is kept unless it is no longer valid."""

    name: str
    value: Any
    replaced: Any
    kept: bool = True


def deployment(
    parameters: RetrainParameters, schedules: Sequence[DeploymentScheduleCreate] = (), paused: bool = False
) -> RunnerDeployment:
    """Return the deployment `retrain/retrain`. A run that becomes due during another run is cancelled.

    Without this limit, many runs would be due at once on a laptop that was asleep for weeks.
    """
    created = retrain.to_deployment(
        name=NAME,
        parameters={"parameters": parameters.model_dump(mode="json")},
        schedules=list(schedules),
        paused=paused,
        concurrency_limit=_ONE_RUN,
        tags=[parameters.collection_name],
        description="Read the site, download posters, train, compare, and deploy the new model if it is better than "
        "the live one. Completed steps are skipped. Each run has an artifact `summary`.",
    )
    assert isinstance(created, RunnerDeployment)  # Prefect returns a coroutine only inside an event loop
    return created


def train_deployment(parameters: RetrainParameters) -> RunnerDeployment:
    """Return the deployment `retrain/train`: a run from what was collected last."""
    values = parameters.model_copy(
        update={"crawl": False, "table": TableConfig(), "collection": parameters.collection_name}
    )
    created = retrain.to_deployment(
        name="train",
        parameters={"parameters": values.model_dump(mode="json")},
        concurrency_limit=_ONE_RUN,
        tags=[parameters.collection_name],
        description="Train on what was collected last, without a request to the site, and deploy the new model if it "
        "is better than the live one. It waits for a run that is working.",
    )
    assert isinstance(created, RunnerDeployment)
    return created


def collect_deployment(parameters: RetrainParameters, timezone: str, note: Path) -> RunnerDeployment:
    """Create or update the deployment `collect/collect`, daily, without a person's edits, and write the note.

    A table has no schedule, because it is read as it was uploaded.

    Args:
        parameters: the default parameters of a run.
        timezone: that of the schedule.
        note: the file with the schedule that was last written.
    """
    daily = DeploymentScheduleCreate(schedule=CronSchedule(cron=DAILY, timezone=timezone))
    wanted, chosen = _values({}, [] if parameters.table.catalogue else [daily], False), dict[str, Any]()
    if found := _find(f"{collect.name}/{collect.name}"):
        written = {"paused": False, **_read_written(note)}
        chosen = {each.name: each.value for each in _edits(wanted, written, _values({}, found.schedules, found.paused))}
    chosen = wanted | chosen
    created = collect.to_deployment(
        name=collect.name,
        parameters={"parameters": parameters.model_dump(mode="json")},
        schedules=[DeploymentScheduleCreate.model_validate(each) for each in chosen["schedule"]],
        paused=chosen["paused"],
        concurrency_limit=_ONE_RUN,
        tags=[parameters.collection_name],
        description="Read the pages of the site that are due, such as that of the running season, and download new "
        "posters, without training. It is cancelled while another run is working.",
    )
    assert isinstance(created, RunnerDeployment)
    created.apply()
    write_bytes(note, json.dumps({"written": wanted}, indent=2).encode())
    return created


def rollback_deployment(collection: str) -> RunnerDeployment:
    """Return the deployment `rollback/rollback` for a collection. Its runs wait for no other run."""
    created = rollback.to_deployment(
        name=rollback.name,
        parameters={"version": "", "collection": collection},
        tags=[collection],
        description="Serve an earlier model again, within seconds, and hold it: later runs replace nothing until "
        f"{promote_command(collection)}, or a run that you start with promote: always.",
    )
    assert isinstance(created, RunnerDeployment)
    return created


def interval_schedule(seconds: float) -> CronSchedule | IntervalSchedule:
    """A schedule of runs with so many seconds between them.

    It is in UTC: with another time zone, Prefect plans some runs twice after clocks have changed.
    """
    return IntervalSchedule(interval=timedelta(seconds=seconds), anchor_date=_ANCHOR, timezone="UTC")


def write_deployment(
    parameters: RetrainParameters,
    schedule: CronSchedule | IntervalSchedule,
    note: Path,
    create_others: Callable[[RetrainParameters], Sequence[RunnerDeployment]],
) -> list[RunnerDeployment]:
    """Create or update the deployment on the server, without a person's edits, then others, and write the note.

    Args:
        parameters: the default parameters of a run.
        schedule: when runs start.
        note: the file with what was last written. It is written last, because `up` waits for it.
        create_others: creates the other deployments from the parameters with a person's edits.
    """
    wanted = _values(parameters.model_dump(mode="json"), [DeploymentScheduleCreate(schedule=schedule)], False)
    chosen, values, edits = _from_values(wanted), wanted, list[Edit]()
    for edit in _edits(wanted, _read_written(note), _read_server()):
        edited = values | {edit.name: edit.value}
        try:
            chosen, values = _from_values(edited), edited
        except ValidationError:  # a newer version of this package no longer accepts a person's value
            edit = replace(edit, kept=False)
        edits.append(edit)
    chosen.apply()
    others = create_others(RetrainParameters.model_validate(chosen.parameters["parameters"]))
    content = {"written": wanted, "edits": [vars(edit) for edit in edits], "time": time.time()}
    write_bytes(note, json.dumps(content, indent=2).encode())
    return [chosen, *others]


def read_edits(note: Path, since: float) -> list[Edit] | None:
    """A person's edits of the deployment; None if it was not written after `since`, in seconds since the epoch."""
    try:
        content = json.loads(note.read_text())
        return [Edit(**edit) for edit in content["edits"]] if content["time"] >= since else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_written(note: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(note.read_text())["written"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _read_server() -> dict[str, Any]:
    """The values of the deployment on the server; empty if there is none."""
    found = _find(FULL_NAME)
    return _values(found.parameters.get("parameters", {}), found.schedules, found.paused) if found else {}


def _find(name: str) -> DeploymentResponse | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment_by_name(name)
        except ObjectNotFound:
            return None


def _edits(wanted: Mapping[str, Any], written: Mapping[str, Any], server: Mapping[str, Any]) -> list[Edit]:
    return [
        Edit(name, server[name], value)
        for name, value in wanted.items()
        if name in written and name in server and server[name] not in (written[name], value)
    ]


def _values(
    parameters: Mapping[str, Any], schedules: Sequence[DeploymentScheduleCreate | DeploymentSchedule], paused: bool
) -> dict[str, Any]:
    """A deployment as JSON values by name; `train.epochs` is a parameter's name."""
    times = [each.model_dump(mode="json", include={"schedule", "active", "parameters"}) for each in schedules]
    return {**_flat(parameters), "schedule": times, "paused": paused}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _from_values(values: Mapping[str, Any]) -> RunnerDeployment:
    """The deployment with the values of `_values`.

    Raises:
        ValidationError: a value is invalid.
    """
    parameters: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        inner = parameters
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    schedules = [DeploymentScheduleCreate.model_validate(each) for each in parameters.pop("schedule")]
    return deployment(paused=parameters.pop("paused"), schedules=schedules, parameters=RetrainParameters(**parameters))


def main() -> None:
    """Serve the deployments until the process ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", default="{}", help="default parameters of a run, as JSON")
    parser.add_argument("--cron", default=WEEKLY, help="schedule in cron's format (default: Mondays at 4)")
    parser.add_argument("--interval-seconds", type=float, help="seconds between scheduled runs, instead of --cron")
    parser.add_argument(
        "--timezone",
        default=machine_timezone(),
        help="time zone of --cron and of the daily collect; default: %(default)s",
    )
    args = parser.parse_args()
    redact_logs()
    separate_password()
    refresh_global_settings_context()  # Prefect has read its settings already
    check_schedule(args.cron, args.timezone)
    if args.interval_seconds:
        schedule = interval_schedule(args.interval_seconds)
    else:
        schedule = CronSchedule(cron=args.cron, timezone=args.timezone)
    parameters, settings = RetrainParameters.model_validate_json(args.parameters), read_settings()

    def create_others(chosen: RetrainParameters) -> list[RunnerDeployment]:
        others = [
            collect_deployment(chosen, args.timezone, settings.workspace / _COLLECT_NOTE),
            train_deployment(chosen),
            rollback_deployment(chosen.collection_name),
        ]
        names = [NAME, *(each.name for each in others)]
        automations.write_automations(settings.notify_url, names, settings.workspace / automations.NOTE)
        return others

    serve(*write_deployment(parameters, schedule, settings.workspace / NOTE, create_others), pause_on_shutdown=False)


if __name__ == "__main__":
    main()
