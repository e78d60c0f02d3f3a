"""Titles of pages that could not be read: they keep their last good records, and are shown in `unread-titles.csv`."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from serving.bundle.files import atomic_write
from serving.bundle.wording import counted
from tasks.catalogue.catalogue_table import STORED_NAMES, sorted_by_id
from tasks.catalogue.source import Source
from tasks.catalogue.titles import UnreadCard

FILE = "unread-titles.csv"
# What the catalogue has for the title.
KEPT, ELSEWHERE, NONE = "the last good record", "the record of another page", "nothing"
_COLUMNS = ["page", "position", "id", "title", "missing", "catalogue"]
_LINES = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnreadEntry:
    """An entry of a page that could not be read.

    `page` is the page's name and `group` its group. `id` and `title` are those of the title, if they are known.
    `record` says what the catalogue has instead.
    """

    page: str
    group: str
    card: UnreadCard
    id: str = ""
    title: str = ""
    record: str = NONE

    def row(self) -> dict[str, str | int]:
        """The entry as a row of a table."""
        values = (self.page, self.card.position, self.id, self.title, self.card.missing, self.record)
        return dict(zip(_COLUMNS, values, strict=True))

    def sentence(self) -> str:
        """Page, position and what is missing, in one line."""
        return f"Title {self.card.position} of {self.page}: {self.card.missing} The catalogue has {self.record}."


def with_last_records(
    catalogue: pd.DataFrame, unread: Sequence[UnreadEntry], last: pd.DataFrame, source: Source
) -> tuple[pd.DataFrame, list[UnreadEntry]]:
    """The catalogue with the last good records of unread titles, and the entries with what was found.

    An entry without an id is a known title of its page's group that the catalogue lacks, unless there are more such
    titles than entries.
    """
    present, name_of = set(catalogue["id"]), dict(zip(last["id"], last["title"], strict=True))
    found: list[UnreadEntry] = []
    without_id: dict[str, list[UnreadEntry]] = defaultdict(list)
    for entry in unread:
        id = entry.card.id or ""
        if not id:
            without_id[entry.group].append(entry)
        else:
            record = ELSEWHERE if id in present else KEPT if id in name_of else NONE
            found.append(replace(entry, id=id, title=name_of.get(id, ""), record=record))
    groups = source.group_of(last)
    for group, entries in without_id.items():
        taken = present.union(entry.id for entry in found)
        lost = [id for id in last.loc[groups == group, "id"] if id not in taken]
        ids = [*lost, *[""] * len(entries)][: len(entries)] if len(lost) <= len(entries) else [""] * len(entries)
        for entry, id in zip(entries, ids, strict=True):
            found.append(replace(entry, id=id, title=name_of.get(id, ""), record=KEPT if id else NONE))
    kept = last[last["id"].isin({entry.id for entry in found if entry.record == KEPT})]
    return sorted_by_id(pd.concat([catalogue, kept])), found


def log_unread(unread: Sequence[UnreadEntry]) -> None:
    """Log how many titles could not be read, and the first of them."""
    if unread:
        lost = sum(entry.record == NONE for entry in unread)
        logger.warning("%s could not be read; left out: %d (see %s).", counted(len(unread), "title"), lost, FILE)
    for entry in unread[:_LINES]:
        logger.warning("%s", entry.sentence())


def write_unread(unread: Sequence[UnreadEntry], folder: Path) -> None:
    """Write the table of unread titles into a folder; no file if there are none."""
    path = folder / FILE
    if not unread:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as beside:
        table = pd.DataFrame([entry.row() for entry in unread], columns=_COLUMNS).rename(columns=STORED_NAMES)
        table.to_csv(beside, index=False, lineterminator="\n")
