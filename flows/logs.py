"""What a run says: its packages' progress is heard, and a known failure is told in one sentence."""

import logging

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from infra.local.stack import LOGGED_PACKAGES
from serving.bundle.errors import AnimeGenreError


def speak_clearly(flow: "Flow[..., object]", flow_run: FlowRun, state: State) -> None:
    """A hook of flows, when they start: Prefect would keep other packages' loggers at warnings."""
    for name in LOGGED_PACKAGES.split(","):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """The message of the project's own errors, and of a full disk, is enough; a traceback would bury it."""
    if record.exc_info and isinstance(record.exc_info[1], AnimeGenreError | OSError):
        record.exc_info = None
    return True
