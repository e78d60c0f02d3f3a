"""What was asked of the site and what came of it: one sqlite file, sound after a kill at any moment.

    ledger = Ledger(workspace / "ledger.sqlite")
    ledger.pages.put(PageVisit(url, checked=time.time(), sha256=...))
    ledger.pages.get(url)

A table for each kind of entry, with a column for each of its fields; the first one is the key.
"""

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from tasks.errors import LedgerError

FILE = "ledger.sqlite"


@dataclass(frozen=True)
class PageVisit:
    """The last time that a page was asked for. `checked` is that moment, in seconds since 1970.

    `sha256` names the page as kept (`KeptPages`), None where the site has none. `doubtful`: what came did not
    stand the comparison with the last good catalogue and is asked for again as soon as may be.
    """

    url: str
    checked: float
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class PosterVisit:
    """The last time that a title's poster was asked for, at `url`.

    `status` is "here" (a file of that sha256), "missing", "broken", "refused" or "failed"; `reason` says why there
    is no file.
    """

    mal_id: int
    url: str
    checked: float
    status: str
    sha256: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class HostMemory:
    """What a host taught us: the pace that it does not mind, learnt at some moment; when it may be asked again, if it
    refused us for a `reason`; and until when it asked to be left alone for a while."""

    host: str
    ceiling: float = math.inf
    learnt: float = 0
    not_before: float = 0
    reason: str = ""
    held_until: float = 0

    def merged(self, other: "HostMemory") -> "HostMemory":
        """What is known from two ledgers: of each lesson the later one."""
        refused, taught = (
            max(self, other, key=lambda memory: memory.not_before),
            max(self, other, key=lambda memory: memory.learnt),
        )
        held_until = max(self.held_until, other.held_until)
        return replace(refused, ceiling=taught.ceiling, learnt=taught.learnt, held_until=held_until)


@dataclass(frozen=True)
class Crawl:
    """The last reading of a site, from its first page to its last poster. `finished` is None while it goes on, or
    where it was killed."""

    site: str
    started: float
    finished: float | None = None


Entry = TypeVar("Entry", bound="PageVisit | PosterVisit | HostMemory | Crawl")

Visit = TypeVar("Visit", bound="PageVisit | PosterVisit")


class Table(Generic[Entry]):
    """The entries of one kind, by their key; what was `put` is there after a kill."""

    def __init__(self, database: sqlite3.Connection, kind: type[Entry]) -> None:
        self._database = database
        self._kind = kind
        self._names = [field.name for field in fields(kind)]
        columns = ", ".join(f"{name} PRIMARY KEY" if name == self._names[0] else name for name in self._names)
        database.execute(f"CREATE TABLE IF NOT EXISTS {kind.__name__} ({columns}) WITHOUT ROWID")
        self._select("LIMIT 1")  # fails where an earlier version of this code made the table

    def get(self, key: object) -> Entry | None:
        """The entry of this key."""
        found = self._select(f"WHERE {self._names[0]} = ?", key)
        return found[0] if found else None

    def all(self) -> dict[Any, Entry]:
        """Every entry by its key."""
        return {getattr(entry, self._names[0]): entry for entry in self._select("")}

    def put(self, *entries: Entry) -> None:
        """Write entries down, each in the place of the one with its key; raises LedgerError where that fails."""
        marks = ", ".join("?" * len(self._names))
        insert = f"INSERT OR REPLACE INTO {self._kind.__name__} VALUES ({marks})"
        try:
            with self._database:
                self._database.executemany(insert, [astuple(entry) for entry in entries])
        except sqlite3.Error as error:
            raise LedgerError(f"The ledger cannot be written: {error}. Is the disk full?") from error

    def _select(self, where: str, *values: object) -> list[Entry]:
        columns = ", ".join(self._names)
        return [
            self._kind(*row)
            for row in self._database.execute(f"SELECT {columns} FROM {self._kind.__name__} {where}", values)
        ]


class Visits(Table[Visit]):
    """Visits of pages or of posters."""

    def adopt(self, visits: Mapping[Any, Visit]) -> None:
        """Take over what another ledger knows: visits later than one's own of the same key, or of keys one has not,
        and the doubt about what both know."""
        mine = self.all()

        def knows_better(key: object, visit: Visit) -> bool:
            own = mine.get(key)
            doubts = getattr(visit, "doubtful", False)
            return own is None or own.checked < visit.checked or (own.checked == visit.checked and doubts)

        self.put(*(visit for key, visit in visits.items() if knows_better(key, visit)))


class Ledger:
    """The ledger in a file, or in memory alone without one.

    Raises:
        LedgerError: the file cannot be opened, or is no ledger.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._database = _connected(path)
        try:
            # With a log beside it, a write is one append: no wait for the disk, and a kill loses nothing.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self.pages = Visits(self._database, PageVisit)
            self.posters = Visits(self._database, PosterVisit)
            self.hosts = Table(self._database, HostMemory)
            self.crawls = Table(self._database, Crawl)
        except sqlite3.Error as error:
            self._database.close()
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._database.close()


def _connected(path: Path | None) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path or ":memory:")
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _unusable(path: Path | None, error: sqlite3.Error) -> LedgerError:
    return LedgerError(f"The ledger {path} cannot be used: {error}. Move it away to begin anew.")
