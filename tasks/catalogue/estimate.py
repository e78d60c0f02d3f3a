"""What a crawl would request, estimated without a request."""

from dataclasses import dataclass

import pandas as pd

from tasks.catalogue.source import DetailSource, Source
from tasks.catalogue.titles import Title
from tasks.crawl.ledger import Ledger
from tasks.crawl.revisits import is_due

# Of MyAnimeList: 17,900 titles on 204 season pages; mean bytes of compressed pages and of posters.
_TITLES_PER_PAGE = 88
_PAGE_BYTES, _DETAIL_BYTES, _POSTER_BYTES = 75_000, 23_000, 33_000


@dataclass(frozen=True)
class Expected:
    """Requests of one kind, and what they transfer. `per_second` is the pace, None if it is not limited."""

    what: str
    requests: int
    size_bytes: int
    per_second: float | None

    @property
    def seconds(self) -> float:
        return self.requests / self.per_second if self.per_second else 0.0


def estimate(
    source: Source,
    selection: str,
    known: pd.DataFrame,
    ledger: Ledger,
    started: float,
    details: int,
    paces: tuple[float | None, float | None],
    refresh: bool,
) -> list[Expected]:
    """The pages, detail pages and posters that a crawl of a selection would request.

    Pages that are due are counted. So are the posters of known titles. The titles of pages that were never read are
    estimated: as many per page as MyAnimeList's seasons have.

    Args:
        source: the site.
        selection: the pages to read, such as a range of seasons.
        known: a catalogue of the known titles of the selection.
        ledger: what was requested before.
        started: when the crawl begins, in seconds since 1970.
        details: the largest number of detail pages.
        paces: pages and posters per second, None if not limited.
        refresh: pages are re-fetched also if they are not due.

    Raises SeasonError if the selection is invalid.
    """
    pages = source.pages(selection, started)
    visits = [ledger.pages.get(page.url) for page in pages]
    due = sum(is_due(visit, page.quiet_days, started, refresh) for page, visit in zip(pages, visits, strict=True))
    new_titles = sum(visit is None for visit in visits) * _TITLES_PER_PAGE
    downloaded = {id: visit.url for id, visit in ledger.posters.all().items()}
    wanted = known[(known["poster_url"] != "") & ~source.is_explicit(known)]
    posters = int((wanted["id"].map(downloaded) != wanted["poster_url"]).sum()) + new_titles
    detail_pages = 0
    if isinstance(source, DetailSource):
        titles = [Title(row.id, row.title, season=row.season or None) for row in known.itertuples()]
        found = [page for title in titles if (page := source.detail_page(title, started))]
        unread = sum(is_due(ledger.pages.get(page.url), page.quiet_days, started) for page in found)
        detail_pages = min(details, unread + new_titles)
    return [
        Expected("pages", due, due * _PAGE_BYTES, paces[0]),
        Expected("detail pages", detail_pages, detail_pages * _DETAIL_BYTES, paces[0]),
        Expected("posters", posters, posters * _POSTER_BYTES, paces[1]),
    ]
