"""Titles' own pages, the most popular titles first: what they alone know joins the catalogue's records."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from tasks.catalogue.seasons import FIRST_YEAR, Season, parse_season, quiet_days
from tasks.crawl.ledger import Ledger, PageVisit
from tasks.crawl.page_reader import PageReader
from tasks.crawl.revisits import is_due
from tasks.crawl.traffic import Traffic
from tasks.errors import SiteBlocked, SiteError
from tasks.myanimelist.pages import AnimeRecord, parse_detail_page

# A page or two in a layout of their own are no matter; so many between good ones are a site that changed.
_FAILURES_IN_A_ROW = 10
logger = logging.getLogger(__name__)
_OLDEST = Season(FIRST_YEAR, 0)


async def add_details(
    site_url: str,
    records: Sequence[AnimeRecord],
    pages: int,
    reader: PageReader,
    ledger: Ledger,
    started: float,
    traffic: Traffic,
) -> list[AnimeRecord]:
    """The records, with rating, last day on air and related titles of those whose own page was ever read.

    At most `pages` are asked for in the crawl that began at `started`: first of titles whose page was never
    read, then of those where it is due again.

    Raises:
        SiteBlocked: the site refuses us.
        SiteError: many pages in a row could not be had, or are not what they should be.
        KeptPageError: as `PageReader.read`.
    """
    urls = {record.mal_id: f"{site_url}/anime/{record.mal_id}" for record in records}
    visits = {record.mal_id: ledger.pages.get(urls[record.mal_id]) for record in records}
    asked = _to_ask(records, visits, pages, started)
    traffic.expect(len(asked))
    details: dict[int, AnimeRecord] = {}
    failures_in_a_row = 0

    to_read = list(asked.values())
    to_read += [record for record in records if visits[record.mal_id] and record.mal_id not in asked]
    for record in to_read:
        url = urls[record.mal_id]
        try:
            detail = await reader.read(url, parse_detail_page, record.mal_id in asked)
        except SiteBlocked:
            raise
        except SiteError as error:
            failures_in_a_row += 1
            if failures_in_a_row == _FAILURES_IN_A_ROW:
                raise
            logger.info("The page of %s is left out: %s", record.title, error)
            if asked.pop(record.mal_id, None):  # it is not asked for again in this crawl, but read as it was kept
                visit = visits[record.mal_id] or PageVisit(url, 0)
                ledger.pages.put(replace(visit, checked=time.time(), suspect=True))
                traffic.settle("broken", type(error).__name__)
                to_read.append(record)
        else:
            failures_in_a_row = 0
            if detail is not None:
                details[record.mal_id] = detail

    return [_with(record, details.get(record.mal_id)) for record in records]


def _to_ask(
    records: Sequence[AnimeRecord], visits: dict[int, PageVisit | None], pages: int, started: float
) -> dict[int, AnimeRecord]:
    """The titles whose pages are asked for, in this order; those asked for since `started` count among `pages`."""
    already = sum(visit is not None and visit.checked >= started for visit in visits.values())

    def order(record: AnimeRecord) -> tuple[bool, int]:
        return visits[record.mal_id] is not None, -(record.members or 0)

    def record_is_due(record: AnimeRecord) -> bool:
        season = parse_season(record.season) if record.season else _OLDEST
        return is_due(visits[record.mal_id], quiet_days(season, started), started)

    due = sorted(filter(record_is_due, records), key=order)
    return {record.mal_id: record for record in due[: max(0, pages - already)]}


def _with(record: AnimeRecord, detail: AnimeRecord | None) -> AnimeRecord:
    if detail is None:
        return record
    return replace(
        record,
        start_date=max((record.start_date, detail.start_date), key=lambda date: len(date or "")),
        rating=detail.rating,
        aired_to=detail.aired_to,
        related=detail.related,
    )
