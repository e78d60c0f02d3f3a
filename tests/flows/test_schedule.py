"""Schedules where clocks change, as Prefect's scheduler computes them and `up` shows them; that of `collect`."""

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule as ClientCronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule

from flows import deployments
from flows.deployments import collect_deployment, interval_schedule, read_edits, write_deployment
from flows.parameters import RetrainParameters
from flows.up import next_run
from tasks.table.configuration import TableConfig

pytestmark = pytest.mark.stack


async def due_dates(schedule: CronSchedule | IntervalSchedule, first: datetime, days: int) -> list[datetime]:
    """What the scheduler plans if it looks every 20 minutes. It plans equal dates once."""
    looks = [first + timedelta(minutes=20) * number for number in range(days * 72)]
    planned = {date.astimezone(UTC) for look in looks for date in await schedule.get_dates(n=3, start=look)}
    return sorted(date for date in planned if first <= date < first + timedelta(days=days))


@pytest.mark.parametrize(
    ("cron", "timezone", "first", "shown"),
    [  # spring: 2:30 does not exist; autumn: it exists twice
        ("30 2 * * *", "Europe/Berlin", "2027-03-27", ["27 02:30", "28 01:30", "29 02:30"]),
        ("30 2 * * *", "Europe/Berlin", "2027-10-30", ["30 02:30", "31 02:30", "01 02:30"]),
        ("30 2 * * *", "America/New_York", "2027-03-13", ["13 02:30", "14 01:30", "15 02:30"]),
        ("30 1 * * *", "America/New_York", "2027-11-06", ["06 01:30", "07 01:30", "08 01:30"]),
        ("0 4 * * 1", "Europe/London", "2027-03-27", ["29 04:00"]),
    ],
)
async def test_cron_schedule_neither_doubles_nor_drops_a_run_when_clocks_change(
    cron: str, timezone: str, first: str, shown: list[str]
) -> None:
    midnight = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo(timezone))
    dates = await due_dates(CronSchedule(cron=cron, timezone=timezone), midnight, days=3)
    assert [next_run(date, ClientCronSchedule(cron=cron, timezone=timezone))[-8:] for date in dates] == shown


@pytest.mark.parametrize("hours", [1, 24])
@pytest.mark.parametrize("first", ["2027-03-27", "2027-10-30"])
async def test_interval_schedule_keeps_its_interval_when_clocks_change(first: str, hours: int) -> None:
    midnight = datetime.fromisoformat(first).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    written = interval_schedule(hours * 3600).model_dump(mode="json")
    dates = await due_dates(IntervalSchedule.model_validate(written), midnight, days=3)
    seconds = {later.timestamp() - date.timestamp() for date, later in pairwise(dates)}
    assert seconds == {hours * 3600}


def test_next_run_is_shown_on_the_clocks_of_its_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = datetime(2027, 3, 28, 0, 30, tzinfo=UTC)
    berlin = ClientCronSchedule(cron="30 2 * * *", timezone="Europe/Berlin")
    assert next_run(gap, berlin) == "Sunday, 2027-03-28 01:30"
    assert next_run(gap + timedelta(hours=1), berlin) == "Sunday, 2027-03-28 03:30"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert next_run(gap, interval_schedule(60)) == "Sunday, 2027-03-28 09:30 in time zone Asia/Tokyo"


def replaced_server(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All deployments that were applied, the last of which is found on the server."""
    server: list[Any] = [None]
    monkeypatch.setattr(deployments, "_find", lambda name: server[-1])
    monkeypatch.setattr(RunnerDeployment, "apply", lambda written: server.append(written))
    return server


def test_edit_that_is_no_longer_valid_is_named_and_the_others_also_go_for_collect_and_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, note, began = replaced_server(monkeypatch), tmp_path / "note.json", time.time()
    weekly, created = ClientCronSchedule(cron="0 4 * * 1", timezone="UTC"), list[RetrainParameters]()

    def start() -> RunnerDeployment:
        def create_others(chosen: RetrainParameters) -> list[RunnerDeployment]:
            created.append(chosen)
            return []

        return write_deployment(RetrainParameters(), weekly, note, create_others)[0]

    parameters = start().parameters["parameters"]
    edited = {**parameters, "seasons": "1990-winter..now", "train": {**parameters["train"], "epochs": -1}}
    server.append(server[-1].model_copy(update={"parameters": {"parameters": edited}, "paused": True}))
    again = start()
    assert again.paused and created[-1].seasons == again.parameters["parameters"]["seasons"] == "1990-winter..now"
    assert created[-1].train == created[0].train
    edits = {edit.name: edit for edit in read_edits(note, began) or []}
    assert {name: edit.kept for name, edit in edits.items()} == {"seasons": True, "train.epochs": False, "paused": True}


def test_daily_schedule_of_collect_follows_the_command_unless_a_person_edited_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = replaced_server(monkeypatch)

    def start(timezone: str, **parameters: Any) -> list[tuple[str, str]]:
        written = collect_deployment(RetrainParameters(**parameters), timezone, tmp_path / "note.json")
        return [(each.schedule.cron, each.schedule.timezone) for each in written.schedules]

    assert start("UTC", table=TableConfig(catalogue="gs://bucket/films.csv")) == []
    assert start("UTC") == [("0 2 * * *", "UTC")]
    assert start("Asia/Tokyo") == [("0 2 * * *", "Asia/Tokyo")]
    edited = DeploymentScheduleCreate(schedule=ClientCronSchedule(cron="0 5 * * *", timezone="UTC"))
    server.append(server[-1].model_copy(update={"schedules": [edited], "paused": True}))
    assert start("Asia/Tokyo") == start("UTC") == [("0 5 * * *", "UTC")] and server[-1].paused
