"""The collector: pages and posters of a site into a folder, politely, and never the same thing twice.

    with Collector(folder, "https://myanimelist.net", CollectConfig(), contact="me@example.org") as collector:
        records = asyncio.run(collector.read_catalogue(parse_seasons("2015-winter..now")))
        collector.replace_last_good("2015-winter..now", records)
        outcomes = asyncio.run(collector.download_posters(records))

The folder then holds the ledger, the kept pages and the posters. Killed at any moment, it goes on where it was.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.catalogue import drift
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.details import add_details
from tasks.catalogue.drift import Measure
from tasks.catalogue.last_good import about_last_good, read_last_good, replace_last_good
from tasks.catalogue.poster_download import PosterOutcome, download_posters, write_outcomes
from tasks.catalogue.scraping import read_seasons
from tasks.catalogue.seasons import Season
from tasks.catalogue.titles import AnimeRecord
from tasks.crawl.client import SiteClient
from tasks.crawl.exclusive_lock import exclusive_lock
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import FILE, Crawl, Ledger
from tasks.crawl.page_reader import PageReader
from tasks.crawl.traffic import Traffic
from tasks.errors import DriftError, EmptyCatalogueError
from tasks.myanimelist.page_addresses import REQUESTS_PER_SECOND, without_csrf_token
from tasks.records import CatalogueRecord

# Posters come from a host that is made for it, and takes more than the site itself.
POSTERS_PER_SECOND = 4.0
_POSTER_CONNECTIONS = 4
# A crawl that was interrupted goes on for so long; later it begins anew.
_CRAWL_SECONDS = 86_400.0
_SHOWN_SECONDS = 5.0


def show_nothing(what: object) -> None:
    """Says nothing."""


class Collector:
    """Reads one site into one folder. `show` is told how far it is, every few seconds and at the end, in a thread;
    `traffics` are the counts of all that was asked.

    Raises:
        LedgerError: the folder's ledger cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        site_url: str,
        config: CollectConfig,
        contact: str | None = None,
        show: Callable[[Traffic], None] = show_nothing,
    ) -> None:
        self.posters = folder / "posters"
        self.kept = KeptPages(folder / "pages")
        self.ledger = Ledger(folder / FILE)
        self.traffics: list[Traffic] = []
        self._folder = folder
        self._site_url = site_url.rstrip("/")
        self._config = config
        self._contact = contact
        self._show = show

    def __enter__(self) -> Self:
        for pattern in (".*.part", "*/.*.part"):
            for half_written in self._folder.glob(pattern):  # by a run that was killed
                half_written.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ledger.close()

    async def read_catalogue(self, seasons: Sequence[Season]) -> list[AnimeRecord]:
        """The titles of the seasons, with what their own pages tell; raises as `read_seasons` and `add_details`."""
        with exclusive_lock(self._site_url):
            started = self._begin()
            async with self._client(self._config.requests_per_second, REQUESTS_PER_SECOND, 1) as client:
                async with self._counted("Season pages", client) as traffic:
                    reader = PageReader(self.ledger, self.kept, client, traffic, without_csrf_token)
                    try:
                        records = await read_seasons(
                            self._site_url, seasons, reader, self.ledger, started, traffic, self._config.refresh
                        )
                    except EmptyCatalogueError:
                        self._doubt()
                        raise
                async with self._counted("Detail pages", client) as traffic:
                    reader = PageReader(self.ledger, self.kept, client, traffic, without_csrf_token)
                    return await add_details(
                        self._site_url, records, self._config.details, reader, self.ledger, started, traffic
                    )

    async def reread_catalogue(self, seasons: Sequence[Season]) -> list[AnimeRecord]:
        """The same from the pages as they were kept, without a request; raises as `read_catalogue`."""
        traffic = Traffic("Kept pages")
        reader = PageReader(self.ledger, self.kept, None, traffic, without_csrf_token)
        records = await read_seasons(self._site_url, seasons, reader, self.ledger, 0, traffic)
        return await add_details(self._site_url, records, 0, reader, self.ledger, 0, traffic)

    async def download_posters(self, records: Sequence[AnimeRecord]) -> list[PosterOutcome]:
        """Posters into the folder `posters`, one outcome a record; raises as `posters.download_posters`.

        With them the crawl is over.
        """
        with exclusive_lock(self._site_url):
            started = self._begin()
            pace = self._config.poster_requests_per_second
            async with (
                self._client(pace, POSTERS_PER_SECOND, _POSTER_CONNECTIONS) as client,
                self._counted("Posters", client) as traffic,
            ):
                outcomes = await download_posters(
                    records, self.posters, client, self.ledger, started, traffic, _POSTER_CONNECTIONS
                )
            write_outcomes(outcomes, self.posters)
            self._finish()
        return outcomes

    def replace_last_good(
        self,
        seasons: str,
        records: Sequence[AnimeRecord],
        show: Callable[[Sequence[Measure]], None] = show_nothing,
    ) -> CatalogueRecord:
        """Let the new catalogue of these seasons (`2015-winter..now`) take the last good one's place in the folder,
        if they are not too different; `show` is told how they differ.

        Raises:
            DriftError: they are. The last good one stays; the pages, too, but they are asked for again.
        """
        last = read_last_good(self._folder, self._site_url, seasons)
        measures = drift.compare(last.records, records, last.seasons, self._config)
        show(measures)
        try:
            drift.check(measures)
        except DriftError:
            self._doubt()
            raise
        about = replace_last_good(self._folder, self._site_url, seasons, records, last)
        self.kept.remove_all_but({page.sha256 for page in self.ledger.pages.all().values()})
        return about

    def _crawl(self) -> Crawl:
        return self.ledger.crawls.get(self._site_url) or Crawl(self._site_url, 0, 0)

    def _begin(self) -> float:
        """When the crawl began; one that was interrupted goes on."""
        crawl = self._crawl()
        if crawl.finished is not None or time.time() - crawl.started > _CRAWL_SECONDS:
            crawl = replace(crawl, started=time.time(), finished=None)
            self.ledger.crawls.put(crawl)
        return crawl.started

    def _finish(self) -> None:
        self.ledger.crawls.put(replace(self._crawl(), finished=time.time()))

    def _doubt(self) -> None:
        """Have the pages that were read since the last good catalogue asked for again in the next crawl."""
        about = about_last_good(self._folder)
        accepted = about.accepted if about and about.site_url == self._site_url else 0
        pages = [page for page in self.ledger.pages.all().values() if page.url.startswith(f"{self._site_url}/")]
        self.ledger.pages.put(*(replace(page, suspect=True) for page in pages if page.checked >= accepted))
        self._finish()

    def _client(self, pace: float | None, polite_pace: float, connections: int) -> SiteClient:
        return SiteClient(
            contact=self._contact,
            requests_per_second=pace,
            default_requests_per_second=polite_pace,
            connections=connections,
            timeout_seconds=self._config.timeout_seconds,
            ledger=self.ledger,
        )

    @asynccontextmanager
    async def _counted(self, what: str, client: SiteClient) -> AsyncIterator[Traffic]:
        """A count of what the client does in the block, shown every few seconds and at the end."""
        traffic = client.traffic = Traffic(what)
        self.traffics.append(traffic)

        async def keep_showing() -> None:
            while True:
                await asyncio.sleep(_SHOWN_SECONDS)
                await asyncio.to_thread(self._show, copy.deepcopy(traffic))

        showing = asyncio.create_task(keep_showing())
        try:
            yield traffic
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            await asyncio.to_thread(self._show, traffic)
