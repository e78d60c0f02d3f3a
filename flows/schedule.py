"""The schedule of the deployment: cron's format and time zone, checked before anything starts."""

import os
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo

from infra.errors import ConfigurationError

WEEKLY, DAILY = "0 4 * * 1", "0 2 * * *"


def machine_timezone() -> str:
    """The IANA name of this machine's time zone, from TZ or /etc/localtime; UTC if neither names one."""
    link = os.path.realpath("/etc/localtime")
    for name in (os.environ.get("TZ", "").lstrip(":"), link.partition("/zoneinfo/")[2]):
        if _is_timezone(name):
            return name
    return "UTC"


def check_schedule(cron: str, timezone: str) -> None:
    """Check a schedule before the services start.

    Raises:
        ConfigurationError: the time zone is unknown, or the schedule is not in cron's format or never due.
    """
    if not _is_timezone(timezone):
        raise ConfigurationError(
            f"Unknown time zone for --timezone: {timezone!r}. Name one such as Europe/Berlin or UTC."
        )
    if cron == WEEKLY:
        return
    croniter: Any = import_module("prefect._vendor.croniter")  # what Prefect's own check uses
    try:
        if len(cron.split()) != 5:  # croniter also reads seconds and words such as @daily
            raise ValueError
        croniter.croniter(cron).get_next()
    except ValueError:  # CroniterError is one
        raise ConfigurationError(
            f"Invalid --cron: {cron!r}. Give minute, hour, day, month and weekday, such as {WEEKLY!r} for Mondays at 4."
        ) from None


def _is_timezone(name: str) -> bool:
    try:
        return bool(name) and ZoneInfo(name) is not None
    except (KeyError, ValueError, OSError):  # not found; not a name; a folder
        return False
