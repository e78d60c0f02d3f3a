"""The record of all requests and their outcomes, in one SQLite file that survives a kill at any moment.

    ledger = Ledger(workspace / "ledger.sqlite")
    ledger.pages.put(PageVisit(url, checked=time.time(), sha256=...))
    ledger.pages.get(url)

Each kind of entry has a table with one column per field. The first field is the key.
"""

import logging
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from serving.bundle.files import sha256_of
from tasks.errors import LedgerError, excerpt

logger = logging.getLogger("tasks")

FILE = "ledger.sqlite"

# Stored names (columns of the database, keys of the bucket's JSON files) that differ from the names of the fields.
_STORED_NAMES = {"id": "mal_id", "suspect": "doubtful", "learned": "learnt", "blocked_until": "not_before"}
# File systems allow 255 bytes, of which the ending and the name of the temporary file need 18.
_LONGEST_NAME, _KEPT_OF_NAME = 237, 100
_CLOCK_SECONDS = 3600  # by how much the clocks of two machines may differ
_LONGEST_BLOCK_SECONDS = 7 * 86_400.0  # of a Retry-After header
_DIGITS = 18  # an integer with more digits may not fit into a column


@dataclass(frozen=True)
class PageVisit:
    """The last request for a page, at `checked` (seconds since 1970).

    `sha256` names the kept page (see `KeptPages`), None if the site has no such page. A `suspect` page failed the
    comparison with the last good catalogue, or is older than the last request, so the next crawl re-fetches it.
    """

    url: str
    checked: float
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    suspect: bool = False

    @property
    def was_missing(self) -> bool:
        """Whether the site did not have the page at the last request, so that the kept page is older."""
        return self.etag == ""

    @property
    def was_unreadable(self) -> bool:
        """Whether the page could not be read at the last request, so that the kept page is older."""
        return self.last_modified == ""

    def unreadable(self, checked: float) -> "PageVisit":
        """The visit after a request at `checked` to which the site sent a page that could not be read.

        The columns have no place to note this, so it is an empty Last-Modified.
        """
        return PageVisit(self.url, checked, self.sha256, last_modified="", suspect=True)

    def missing(self, checked: float) -> "PageVisit":
        """The visit after a request at `checked` to which the site had no such page.

        One such response does not discard the kept page, but the second in a row does. The columns have no place to
        note the first, so it is an empty ETag.
        """
        if self.sha256 is None or self.was_missing:
            return PageVisit(self.url, checked)
        return PageVisit(self.url, checked, self.sha256, etag="", suspect=True)


@dataclass(frozen=True)
class PosterVisit:
    """The last request for the poster of the title `id`.

    `status` is "here" (there is a file with that sha256), "missing", "placeholder", "redirected", "broken", "refused",
    "failed", or "explicit" (the title became explicit, and its file is deleted). `reason` says why `url` has no poster.
    If it has one, `reason` is the URL that `url` redirects to, or None. With another status than "here", `sha256` is
    that of the file of an earlier address, which is still used.
    """

    id: str
    url: str
    checked: float
    status: str
    sha256: str | None = None
    reason: str | None = None

    @property
    def target(self) -> str | None:
        """The URL of the file, if `url` redirects to it."""
        return self.reason if self.status == "here" else None

    @property
    def why_no_file(self) -> str | None:
        """Why `url` has no poster, if it has none."""
        return self.reason if self.status != "here" else None

    @property
    def is_withdrawn(self) -> bool:
        """Whether nobody may keep the file any longer."""
        return self.status == "explicit"


@dataclass(frozen=True)
class HostMemory:
    """What is known about a host.

    `ceiling` is the number of requests per second that it tolerates, learned at the time `learned`. It is not
    contacted before `blocked_until`, for that `reason`, and asked for a pause until `held_until`.
    """

    host: str
    ceiling: float = math.inf
    learned: float = 0
    blocked_until: float = 0
    reason: str = ""
    held_until: float = 0

    def merged(self, other: "HostMemory") -> "HostMemory":
        """The knowledge of two ledgers combined: the latest ceiling, the latest block and the latest pause."""
        blocked = max(self, other, key=lambda memory: memory.blocked_until)
        learned = max(self, other, key=lambda memory: memory.learned)
        held_until = max(self.held_until, other.held_until)
        return replace(blocked, ceiling=learned.ceiling, learned=learned.learned, held_until=held_until)

    def believable(self) -> "HostMemory":
        """This memory, with its block cut to the longest possible one: otherwise the clock was ahead."""
        return replace(self, blocked_until=min(self.blocked_until, time.time() + _LONGEST_BLOCK_SECONDS))


@dataclass(frozen=True)
class Crawl:
    """The last crawl of a site, from its first page to its last poster.

    `finished` is None while the crawl is running, and after it was killed.
    """

    site: str
    started: float
    finished: float | None = None


Entry = TypeVar("Entry", bound="PageVisit | PosterVisit | HostMemory | Crawl")
Visit = TypeVar("Visit", bound="PageVisit | PosterVisit")


def believable(checked: float) -> float:
    """The time of a visit, or 0 if it is in the future: the clock was ahead then, and nobody knows the time."""
    return checked if checked <= time.time() + _CLOCK_SECONDS else 0.0


def to_stored(entry: PageVisit | PosterVisit | HostMemory | Crawl) -> dict[str, Any]:
    """The values of an entry by their stored names."""
    return {_stored_name(name): _stored_value(name, value) for name, value in asdict(entry).items()}


def from_stored(kind: type[Entry], stored: Mapping[str, Any]) -> Entry:
    """The entry with these stored values."""
    names = [field.name for field in fields(kind)]
    values = {name: stored[_stored_name(name)] for name in names if _stored_name(name) in stored}
    return kind(**values | ({"id": str(values["id"])} if "id" in values else {}))


def poster_name(title_id: str) -> str:
    """The name of the file with a title's poster; characters that are unsafe in file names are percent-encoded.

    A name that is too long for a file system is its beginning and a hash.
    """
    name = quote(title_id, safe="")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_KEPT_OF_NAME]}-{sha256_of(title_id.encode())}"
    return f"{name}.jpg"


def _stored_name(name: str) -> str:
    return _STORED_NAMES.get(name, name)


def _stored_value(name: str, value: Any) -> Any:
    """The value as stored: ids that are plain numbers are integers."""
    is_number = name == "id" and value.isdecimal() and len(value) <= _DIGITS and str(int(value)) == value
    return int(value) if is_number else value


class Table(Generic[Entry]):
    """All entries of one kind by their key. Entries that were `put` survive a kill."""

    def __init__(self, database: sqlite3.Connection, kind: type[Entry]) -> None:
        self._database = database
        self.kind = kind
        self._key = fields(kind)[0].name
        self._columns = [_stored_name(field.name) for field in fields(kind)]
        key, *others = self._columns
        columns = ", ".join([f"{key} PRIMARY KEY", *others])
        database.execute(f"CREATE TABLE IF NOT EXISTS {kind.__name__} ({columns}) WITHOUT ROWID")
        self._select("LIMIT 1")  # fails if the table has other columns

    def get(self, key: str) -> Entry | None:
        """The entry with this key, None if there is none."""
        found = self._select(f"WHERE {self._columns[0]} = ?", _stored_value(self._key, key))
        return found[0] if found else None

    def all(self) -> dict[str, Entry]:
        """All entries by their key."""
        return {self.key_of(entry): entry for entry in self._select("")}

    def key_of(self, entry: Entry) -> str:
        """The key of an entry."""
        return str(getattr(entry, self._key))

    def put(self, *entries: Entry) -> None:
        """Write entries; each replaces the entry with the same key.

        Raises:
            LedgerError: the file cannot be written.
        """
        marks = ", ".join("?" * len(self._columns))
        insert = f"INSERT OR REPLACE INTO {self.kind.__name__} VALUES ({marks})"
        try:
            with self._database:
                self._database.executemany(insert, [tuple(to_stored(entry).values()) for entry in entries])
        except sqlite3.Error as error:
            raise LedgerError(f"The ledger cannot be written: {excerpt(error)}. Is the disk full?") from error

    def _select(self, where: str, *values: object) -> list[Entry]:
        query = f"SELECT {', '.join(self._columns)} FROM {self.kind.__name__} {where}"
        return [
            from_stored(self.kind, dict(zip(self._columns, row, strict=True)))
            for row in self._database.execute(query, values)
        ]


class Visits(Table[Visit]):
    """Visits of pages or of posters."""

    def merge(self, others: Iterable[Visit]) -> None:
        """Take over the visits of another ledger that are newer or unknown here, or that are suspect only there."""
        known = self.all()

        def is_better(visit: Visit) -> bool:
            here = known.get(self.key_of(visit))
            if here is None:
                return True
            checked_here, checked = believable(here.checked), believable(visit.checked)
            if checked_here != checked:
                return checked_here < checked
            return isinstance(visit, PageVisit) and visit.suspect

        self.put(*filter(is_better, others))


class Ledger:
    """The ledger in a file, or in memory if `path` is None. A damaged file is moved aside, and a new one is started.

    Raises:
        LedgerError: the file cannot be opened, or is a ledger of another version.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _move_aside_if_damaged(path)
        try:
            self._database = sqlite3.connect(path or ":memory:")
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            # With a write-ahead log, a write is one append: it does not wait for the disk, and a kill loses nothing.
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
        """Close the file. Entries are safe without it."""
        self._database.close()


def _unusable(path: Path | None, error: sqlite3.Error) -> LedgerError:
    return LedgerError(f"The ledger {path} cannot be used: {excerpt(error)}. Move it away to start a new one.")


def _move_aside_if_damaged(path: Path) -> None:
    """Rename a damaged file, which is named in a warning. The next crawl requests again what only it knew."""
    if not path.is_file():
        return
    if damage := _damage(path):
        aside = path.with_name(f"{path.name}.damaged")
        logger.warning(
            "The ledger %s is damaged: %s. It is moved to %s, and a new one is started.", path, damage, aside
        )
        path.replace(aside)
        for ending in ("-wal", "-shm"):
            path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)


def _damage(path: Path) -> str:
    """What is damaged in a database, "" if nothing is."""
    if not path.stat().st_size:
        return "it is empty"
    try:
        with closing(sqlite3.connect(path)) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            return "" if found == "ok" else found.splitlines()[-1]
    except sqlite3.OperationalError:
        return ""  # it cannot be opened, or is locked, which is no damage
    except sqlite3.DatabaseError as error:
        return str(error)
