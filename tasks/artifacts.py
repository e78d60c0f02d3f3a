"""Artifacts in Prefect: tables, texts, links and progress of a step; and events. They have no credentials of addresses.

They only show what a step has done. If one cannot be written, a warning is logged and the step goes on. The key of a
step's artifact begins with the number of the step, because Prefect lists the artifacts of a run in no useful order, and
the local one by key. The flow's own artifact, `summary`, has no number: Prefect lists it above those of the steps.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from serving.bundle.redaction import redacted

logger = logging.getLogger("tasks")

_STEPS = ("scrape", "download posters", "preprocess", "train", "evaluate", "register", "upload", "redeploy")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, for `show_text`."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def show_text(key: str, text: str, description: str) -> None:
    """Show a text in Markdown."""
    _try(key, lambda: create_markdown_artifact(redacted(text), key=_numbered(key), description=description))


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Show a table with one mapping of columns to values per row. A table without rows is not shown."""
    if rows:
        table = [
            {column: redacted(cell) if isinstance(cell, str) else cell for column, cell in row.items()} for row in rows
        ]
        _try(key, lambda: create_table_artifact(table, key=_numbered(key), description=description))


def show_link(key: str, url: str, description: str) -> None:
    """Show a link."""
    _try(key, lambda: create_link_artifact(redacted(url), key=_numbered(key), description=description))


def send_event(name: str, about: str, payload: Mapping[str, str | None]) -> None:
    """Send an event, for Prefect's automations. `about` is the id of what it is about."""
    content = {key: redacted(value) if value else value for key, value in payload.items()}
    _try(name, lambda: emit_event(name, {"prefect.resource.id": about}, payload=content))


class ProgressBars:
    """One progress bar for each kind of work of a step."""

    def __init__(self) -> None:
        self._ids: dict[str, UUID] = {}

    def show(self, what: str, done: int, total: int, sentence: str) -> None:
        """Draw or move the bar of `what`; `sentence` is its description."""
        percent = 100 * done / total if total else 100.0
        if what in self._ids:
            _try(what, lambda: update_progress_artifact(self._ids[what], percent, sentence))
            return
        key = "".join(letter if letter.isalnum() else "-" for letter in what.lower())
        created = _try(what, lambda: create_progress_artifact(percent, _numbered(key), sentence))
        if isinstance(created, UUID):
            self._ids[what] = created


def _numbered(key: str) -> str:
    """The key with the number of the running step, such as `5-evaluation`."""
    run = TaskRunContext.get()
    name = run.task.name if run else ""
    # "redeploy champion" is the last step in a run that keeps the champion.
    return next((f"{number}-{key}" for number, step in enumerate(_STEPS, 1) if name.startswith(step)), key)


def _try(name: str, write: Callable[[], object]) -> object:
    """What `write` returns; None if Prefect fails, or if there is neither a run nor a server."""
    if not PREFECT_API_URL.value() and TaskRunContext.get() is None and FlowRunContext.get() is None:
        return None  # Prefect would start a server
    try:
        return write()
    except Exception as error:  # Prefect's errors have no common base class
        logger.warning("Prefect does not show %s: %s.", name, str(error).partition("\n")[0])
        return None
