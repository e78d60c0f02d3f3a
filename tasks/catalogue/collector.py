"""Downloads a source's pages and posters into a folder.

    source = MyAnimeList("https://myanimelist.net")
    with Collector(folder, source, CollectConfig(), contact="me@example.org") as collector:
        catalogue = asyncio.run(collector.read_catalogue("2015-winter..now"))
        collector.replace_last_good("2015-winter..now", catalogue)
        posters = asyncio.run(collector.download_posters(catalogue))

The folder then contains the ledger, the kept pages and the posters. After a kill, the next run continues the crawl.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd

from infra.files import remove_temporary_files
from infra.loopback import is_loopback
from infra.settings import MAIN_COLLECTION
from serving.bundle.wording import counted
from tasks.catalogue import drift
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.crawl_context import CrawlContext
from tasks.catalogue.details import add_details
from tasks.catalogue.drift import Measure
from tasks.catalogue.estimate import Expected, estimate
from tasks.catalogue.last_good import about_last_good, read_last_good, replace_last_good, with_known_details
from tasks.catalogue.poster_download import download_posters, write_posters
from tasks.catalogue.scraping import read_titles
from tasks.catalogue.source import ApiSource, DetailSource, Source, is_one_page
from tasks.catalogue.titles import Title
from tasks.catalogue.unread_cards import UnreadEntry, log_unread, with_last_records, write_unread
from tasks.crawl.client import SiteClient
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import FILE, Crawl, Ledger
from tasks.crawl.site_lock import site_lock
from tasks.crawl.traffic import Traffic
from tasks.errors import DriftError, EmptyCatalogueError, PageLayoutError
from tasks.records import CatalogueRecord

_POSTER_CONNECTIONS = 4
# An interrupted crawl is continued within this time. It is under a day, so each daily `collect` begins a new one.
_CRAWL_SECONDS = 12 * 3600.0
_SHOW_SECONDS = 5.0


def show_nothing(what: object) -> None:
    """Ignore progress."""


class Collector:
    """Reads one source into one folder.

    Every few seconds and at the end, `show` is called in a thread with the current progress. `traffics` counts all
    requests. `unread` are the entries of pages that could not be read; those of known titles keep their last good
    record.

    Raises:
        LedgerError: the folder's ledger cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        config: CollectConfig,
        contact: str | None = None,
        show: Callable[[Traffic], None] = show_nothing,
        collection: str = MAIN_COLLECTION,
        read_object: Callable[[str], bytes] | None = None,
    ) -> None:
        self.posters = folder / "posters"
        self.kept = KeptPages(folder / "pages")
        self.ledger = Ledger(folder / FILE)
        self.traffics: list[Traffic] = []
        self.unread: list[UnreadEntry] = []
        self._folder = folder
        self._source = source
        self._config = config
        self._contact = contact
        self._show = show
        self._collection = collection
        self._read_object = read_object

    def __enter__(self) -> Self:
        remove_temporary_files(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ledger.close()

    async def read_catalogue(self, selection: str, parts: Mapping[str, str] | None = None) -> pd.DataFrame:
        """The catalogue of a selection, such as a range of seasons; raises as `read_titles` and `add_details`.

        `parts` gives the part of known titles by id: detail pages are read in this order (see `add_details`).
        """
        source, config = self._source, self._config
        with site_lock(source.site_url):
            started = self._begin(starts_over=is_one_page(source, selection))
            async with self._client(config.requests_per_second, source.requests_per_second, 1) as client:
                async with self._part("Pages", client, started) as part:
                    try:
                        titles, unread = await read_titles(part, selection, config.refresh)
                    except EmptyCatalogueError:
                        self._suspect_pages()
                        raise
                async with self._part("Detail pages", client, started) as part:
                    titles = await add_details(part, titles, config.details, parts)
        return self._complete(selection, titles, unread)

    def estimate(self, selection: str) -> list[Expected]:
        """What a crawl that begins now would request; raises as `estimate.estimate`."""
        source, config = self._source, self._config
        last = read_last_good(self._folder, source, selection)
        is_limited = not is_loopback(source.site_url)
        paces = (
            config.requests_per_second or (source.requests_per_second if is_limited else None),
            config.poster_requests_per_second or (source.posters_per_second if is_limited else None),
        )
        known = last.titles[last.selected]
        return estimate(source, selection, known, self.ledger, time.time(), config.details, paces, config.refresh)

    async def reread_catalogue(self, selection: str) -> pd.DataFrame:
        """The catalogue from the kept pages, without a request; raises as `read_catalogue`."""
        context = CrawlContext(self._source, self.ledger, self.kept, None, 0, Traffic("Kept pages"))
        titles, unread = await read_titles(context, selection)
        return self._complete(selection, await add_details(context, titles, 0), unread)

    def _complete(self, selection: str, titles: Sequence[Title], unread: Sequence[UnreadEntry]) -> pd.DataFrame:
        """The catalogue of these titles, completed by what is known of titles that could not be read, or in part.

        Raises:
            PageLayoutError: it is empty.
        """
        known = read_last_good(self._folder, self._source, selection).titles
        catalogue, self.unread = with_last_records(catalogue_of(titles), unread, known, self._source)
        if catalogue.empty:
            raise PageLayoutError(
                f"None of the pages' {counted(len(unread), 'title')} can be read. Has the site changed?",
                unread[0].sentence(),
            )
        log_unread(self.unread)
        write_unread(self.unread, self._folder)
        return with_known_details(catalogue, known) if isinstance(self._source, DetailSource) else catalogue

    async def download_posters(self, catalogue: pd.DataFrame) -> pd.DataFrame:
        """Download the posters into the folder `posters`, and finish the crawl.

        Returns a poster table, and raises as `poster_download.download_posters`.
        """
        source, pace = self._source, self._config.poster_requests_per_second
        with site_lock(source.site_url):
            started = self._begin()
            async with (
                self._client(pace, source.posters_per_second, _POSTER_CONNECTIONS) as client,
                self._part("Posters", client, started) as part,
            ):
                posters = await download_posters(part, catalogue, self.posters, _POSTER_CONNECTIONS)
            write_posters(posters, self.posters)
            self._finish()
        return posters

    def replace_last_good(
        self,
        selection: str,
        catalogue: pd.DataFrame,
        show: Callable[[Sequence[Measure]], None] = show_nothing,
    ) -> CatalogueRecord:
        """Make a selection's catalogue the folder's last good one, unless it differs too much from the present one.

        `show` is called with the differences.

        Raises:
            DriftError: it differs too much. The last good one stays, and the next crawl re-fetches the pages.
        """
        last = read_last_good(self._folder, self._source, selection)
        measures = drift.compare(last, catalogue, self._source, self._config, self.unread)
        show(measures)
        try:
            drift.check(measures)
        except DriftError:
            self._suspect_pages()
            raise
        about = replace_last_good(self._folder, self._source, selection, catalogue, last, self._collection)
        self.kept.remove_all_but({page.sha256 for page in self.ledger.pages.all().values()})
        return about

    def _crawl(self) -> Crawl:
        return self.ledger.crawls.get(self._source.site_url) or Crawl(self._source.site_url, 0, 0)

    def _begin(self, starts_over: bool = False) -> float:
        """The time at which the crawl began. An interrupted crawl is continued, unless the new one `starts_over`."""
        crawl = self._crawl()
        is_recent = 0 <= time.time() - crawl.started <= _CRAWL_SECONDS  # not in the future, as by a wrong clock
        if starts_over or crawl.finished is not None or not is_recent:
            crawl = replace(crawl, started=time.time(), finished=None)
            self.ledger.crawls.put(crawl)
        return crawl.started

    def _finish(self) -> None:
        self.ledger.crawls.put(replace(self._crawl(), finished=time.time()))

    def _suspect_pages(self) -> None:
        """Have the next crawl re-fetch the pages that were read since the last good catalogue."""
        site_url, about = self._source.site_url, about_last_good(self._folder)
        accepted = about.accepted if about and about.site_url == site_url else 0
        pages = [page for page in self.ledger.pages.all().values() if page.url.startswith(f"{site_url}/")]
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
            access=self._source.access if isinstance(self._source, ApiSource) else None,
            read_object=self._read_object,
        )

    @asynccontextmanager
    async def _part(self, name: str, client: SiteClient, started: float) -> AsyncIterator[CrawlContext]:
        """A part of the crawl, whose progress is shown every few seconds and at the end of the block."""
        traffic = client.traffic = Traffic(name)
        self.traffics.append(traffic)

        ended = asyncio.Event()

        async def keep_showing() -> None:
            while not ended.is_set():
                try:
                    await asyncio.wait_for(ended.wait(), _SHOW_SECONDS)
                except TimeoutError:
                    await asyncio.to_thread(self._show, copy.deepcopy(traffic))

        showing = asyncio.create_task(keep_showing())
        try:
            yield CrawlContext(self._source, self.ledger, self.kept, client, started, traffic)
        finally:
            ended.set()  # without a cancellation, which would let a slow thread show its state after the final one
            await asyncio.gather(showing, return_exceptions=True)
            await asyncio.to_thread(self._show, traffic)
