"""The bucket's copy of the crawl state, so that a worker with an empty disk requests nothing twice."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.store import Store, crc32c_of_file
from serving.bundle.files import sha256_of_file
from serving.bundle.wording import counted
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import (
    Entry,
    Ledger,
    PageVisit,
    PosterVisit,
    Table,
    Visit,
    Visits,
    from_stored,
    poster_name,
    to_stored,
)

logger = logging.getLogger("tasks")
_PAGE_VISITS, _POSTER_VISITS, _HOSTS = "page-visits.json", "poster-visits.json", "hosts.json"


def poster_key(title_id: str) -> str:
    """The object key of a title's poster."""
    return f"posters/{poster_name(title_id)}"


def stored_posters(store: Store) -> dict[str, str | None]:
    """The sha256 of each poster that the bucket has now, by the title's id; None for titles without one."""

    def parse(content: bytes) -> dict[str, str | None]:
        visits = (from_stored(PosterVisit, stored) for stored in json.loads(content))
        return {visit.id: visit.sha256 for visit in visits}

    return store.read_parsed(_POSTER_VISITS, parse) or {}


class CrawlMirror:
    """Mirrors a ledger with its kept pages and its folder of posters in the bucket.

    Each method is a context manager. Before the block it merges the bucket's state into the local one. After the
    block it writes the local state to the bucket, even if the block raises. Files are copied only if the other side
    lacks them, and the bucket lists only files that it has. Files that are missing or damaged in the bucket are
    uploaded again, or re-fetched from the site. Posters of titles that became explicit are deleted from the bucket.
    """

    def __init__(self, store: Store, ledger: Ledger, kept: KeptPages, posters: Path) -> None:
        self._store = store
        self._ledger = ledger
        self._kept = kept
        self._posters = posters

    @contextmanager
    def hosts(self) -> Iterator[None]:
        """Mirror what is known about hosts: all workers and collections avoid a host that blocked one of them."""
        store, table = self._store.whole_bucket(), self._ledger.hosts
        here = {host: memory.believable() for host, memory in table.all().items()}
        stored = (memory.believable() for memory in _read(store, _HOSTS, table))
        table.put(*(here | {memory.host: memory.merged(here.get(memory.host, memory)) for memory in stored}).values())
        try:
            yield
        finally:
            _write(store, _HOSTS, table.all().values())

    @contextmanager
    def pages(self) -> Iterator[None]:
        """Mirror page visits and kept pages."""

        def path(visit: PageVisit) -> Path:
            return self._kept.path(str(visit.sha256))

        def is_here(visit: PageVisit) -> bool:
            return self._kept.has(str(visit.sha256))

        with self._visits(_PAGE_VISITS, "pages", self._ledger.pages, path, is_here):
            yield

    @contextmanager
    def posters(self) -> Iterator[None]:
        """Mirror poster visits and posters."""

        def path(visit: PosterVisit) -> Path:
            return self._posters / poster_name(visit.id)

        def is_here(visit: PosterVisit) -> bool:
            return path(visit).exists() and sha256_of_file(path(visit)) == visit.sha256

        with self._visits(_POSTER_VISITS, "posters", self._ledger.posters, path, is_here):
            yield

    @contextmanager
    def _visits(
        self,
        name: str,
        folder: str,
        table: Visits[Visit],
        path: Callable[[Visit], Path],
        is_here: Callable[[Visit], bool],
    ) -> Iterator[None]:
        """Mirror a table of visits as the object `name`, and their files in `folder`.

        `path` is the local file of a visit, and `is_here` says whether it is there with the visit's content.
        """
        known = _read(self._store, name, table)
        table.merge(known)
        stored = self._store.checksums(f"{folder}/")

        def files(visits: Iterable[Visit]) -> dict[str, Path]:
            return {f"{folder}/{path(visit).name}": path(visit) for visit in visits}

        def is_lost(visit: Visit) -> bool:
            """Whether the object is missing, or differs from an intact file."""
            [(key, file)] = files([visit]).items()
            return key not in stored or (file.is_file() and crc32c_of_file(file) != stored[key] and is_here(visit))

        lost = {table.key_of(visit): visit for visit in known if visit.sha256 and is_lost(visit)}
        in_bucket = {table.key_of(visit): visit.sha256 for visit in known if table.key_of(visit) not in lost}

        def is_in_bucket(visit: Visit) -> bool:
            return in_bucket.get(table.key_of(visit)) == visit.sha256

        with_file = [visit for visit in table.all().values() if visit.sha256]
        missing = [visit for visit in with_file if is_in_bucket(visit) and not is_here(visit)]
        self._store.download(files(missing))
        for visit in missing:
            if not is_here(visit):  # the object is damaged
                lost[table.key_of(visit)] = visit
                del in_bucket[table.key_of(visit)]
        if lost:
            here = sum(map(is_here, lost.values()))
            logger.warning(
                "Missing or damaged in the bucket: %s. Uploaded again: %d. The others are re-fetched if needed.",
                *(counted(len(lost), folder.removesuffix("s")), here),
            )
        try:
            yield
        finally:
            visits = table.all()
            new = {
                key: visit
                for key, visit in visits.items()
                if visit.sha256 and not is_in_bucket(visit) and is_here(visit)
            }
            self._store.upload(files(new.values()))
            withdrawn = (visit for visit in visits.values() if isinstance(visit, PosterVisit) and visit.is_withdrawn)
            for object_key in files(withdrawn).keys() & stored.keys():
                self._store.delete(object_key)
            # A visit whose file has gone since, such as a poster of an explicit title, is not listed.
            listed = [v for key, v in visits.items() if not v.sha256 or is_in_bucket(v) or key in new]
            nowhere = lost.keys() - {table.key_of(visit) for visit in listed}
            if nowhere:
                count = counted(len(nowhere), folder.removesuffix("s"))
                logger.warning("Without any copy, and now unknown: %s, such as %s.", count, min(nowhere))
            _write(self._store, name, listed)


def _read(store: Store, name: str, table: Table[Entry]) -> list[Entry]:
    def parse(content: bytes) -> list[Entry]:
        return [from_stored(table.kind, stored) for stored in json.loads(content)]

    return store.read_parsed(name, parse) or []


def _write(store: Store, name: str, entries: Iterable[Entry]) -> None:
    store.write(name, json.dumps([to_stored(entry) for entry in entries]).encode())
