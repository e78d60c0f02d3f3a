"""Reads the pages of a selection and merges their titles."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from serving.bundle.wording import counted
from tasks.catalogue.crawl_context import CrawlContext
from tasks.catalogue.seasons import parse_season, season_of_date
from tasks.catalogue.source import PagedSource, SourcePage, is_one_page
from tasks.catalogue.titles import Title, UnreadCard, id_sort_key
from tasks.catalogue.unread_cards import UnreadEntry
from tasks.crawl.ledger import believable
from tasks.crawl.revisits import is_due
from tasks.errors import (
    EmptyCatalogueError,
    NotOnSite,
    PageError,
    PageLayoutError,
    ResponseTooLarge,
    RobotsUnavailable,
    SeasonError,
    SiteUnavailable,
    excerpt,
    excerpt_of_url,
)

# A page without a title that can be read has another layout, unless it is as small as this.
_SMALL_PAGE = 2
# One or two pages that the site cannot send are read from their copies. So many in a row mean that it is down.
_FAILURES_IN_A_ROW = 3
logger = logging.getLogger(__name__)


async def read_titles(
    context: CrawlContext, selection: str, refresh: bool = False
) -> tuple[list[Title], list[UnreadEntry]]:
    """The titles of a selection, each once, sorted by id, and the entries that could not be read.

    Fetches the pages that are due (with `refresh` all that this crawl has not fetched yet) and reads the others as they
    were kept. Pages that the site does not have, such as those of future seasons, are skipped with a warning. Of a page
    that it had before, the kept copy is read the first time. So is the copy of a page that the site cannot send now,
    unless the page lists a running season or many pages in a row fail. Pages with entries that cannot be read are
    fetched again in the next crawl.

    Raises:
        SeasonError: the selection is invalid, or the site has none of its pages.
        NotOnSite: there is no table at the address.
        EmptyCatalogueError: the pages list no title.
        PageLayoutError: a page is not as expected, or none of its titles, at least 3, can be read.
        KeptPageError: as `PageReader.read`.
        SiteUnavailable, SiteBlocked, SiteError: as `SiteClient.fetch`.
    """
    source, ledger, is_table = context.source, context.ledger, is_one_page(context.source, selection)
    pages = source.pages(selection, context.started)
    due = {page for page in pages if is_due(ledger.pages.get(page.url), page.quiet_days, context.started, refresh)}
    context.traffic.expect(len(due))
    context.traffic.outcomes["not due"] = len(pages) - len(due)

    found: list[list[Title]] = []
    unread: list[UnreadEntry] = []
    missing: list[str] = []
    kept: list[str] = []
    failed: list[str] = []
    failures_in_a_row = 0
    for page in pages:  # one after the other: a kill costs one page, and the site's pace allows no more
        odd: list[UnreadEntry] = []
        try:
            titles = await _read(context, page, page in due, odd)
        except SiteUnavailable as error:
            failures_in_a_row += 1
            if failures_in_a_row == _FAILURES_IN_A_ROW or not _may_use_copy(context, page, error):
                raise
            context.traffic.settle("failed", error.why)
            failed.append(f"{page.name} ({error.why})")
            odd.clear()
            titles = await _read(context, page, False, odd)
        except PageError as error:
            raise type(error)(f"The page of {page.name}: {error.message}", error.details) from error
        except ResponseTooLarge as error:
            if not is_table:
                raise
            raise ResponseTooLarge(
                f"{error.message} Download the table, and name the file with --catalogue."
            ) from error
        else:
            failures_in_a_row *= page not in due
        unread += odd
        if titles is None:
            missing.append(page.name)
        else:
            found.append(titles)
            if page.url in context.reader.missing:
                kept.append(page.name)

    if is_table and (kept or missing):  # an old copy is not what was asked for
        reason = context.reader.missing.get(source.site_url, "")
        raise NotOnSite(f"There is no table at {excerpt_of_url(source.site_url)}. Correct its address.", reason)
    if not found:
        raise SeasonError(f"{source.site_url} has no page of {excerpt(', '.join(missing))}. Choose other seasons.")
    if missing:
        logger.warning("%s has no page of %s: skipped.", source.site_url, ", ".join(missing))
    if kept:
        logger.warning(
            "%s no longer has the page of %s. The kept copy is used, and discarded if the next run finds none either.",
            *(source.site_url, ", ".join(kept)),
        )
    if failed:
        logger.warning(
            "%s cannot send the page of %s. The kept copy is used, and the next run requests the page again.",
            *(source.site_url, ", ".join(failed)),
        )
    records = merge(found)
    if not records and not unread:
        raise EmptyCatalogueError(
            f"The pages of {source.site_url} list no title ({counted(len(found), 'page')} read). Choose other seasons."
        )
    return records, unread


def _may_use_copy(context: CrawlContext, page: SourcePage, error: SiteUnavailable) -> bool:
    """Whether the copy of a page is read after this error."""
    visit = context.ledger.pages.get(page.url)
    is_old = visit is not None and visit.sha256 is not None and believable(visit.checked) < context.started
    return is_old and page.quiet_days > 0 and not isinstance(error, RobotsUnavailable)


async def _read(context: CrawlContext, page: SourcePage, due: bool, unread: list[UnreadEntry]) -> list[Title] | None:
    """The titles of a page and of those that it leads to; None if the site has no such page.

    Entries that cannot be read are added to `unread`. If the page is fetched again, so are the others: titles may have
    moved from one page to another.
    """
    source, visits, traffic = context.source, context.ledger.pages, context.traffic

    def parse(page: SourcePage, body: bytes) -> tuple[Sequence[Title | UnreadCard], SourcePage | None]:
        entries = source.parse_page(page, body)
        cards = [entry for entry in entries if isinstance(entry, UnreadCard)]
        if len(cards) == len(entries) > _SMALL_PAGE:
            raise PageLayoutError(
                f"None of its {counted(len(entries), 'title')} can be read.", f"The first one: {cards[0].missing}"
            )
        return entries, source.next_page(page, body) if isinstance(source, PagedSource) else None

    def titles_in(page: SourcePage, entries: Sequence[Title | UnreadCard]) -> list[Title]:
        cards = [entry for entry in entries if isinstance(entry, UnreadCard)]
        unread.extend(UnreadEntry(page.name, page.group, card) for card in cards)
        visit = visits.get(page.url)
        if cards and visit and context.client:
            visits.put(replace(visit, suspect=True))
        return [entry for entry in entries if isinstance(entry, Title)]

    read = await context.reader.read(page.url, partial(parse, page), due)
    if read is None:
        return None
    titles, following = titles_in(page, read[0]), read[1]
    first = visits.get(page.url)
    since = first.checked if first else 0
    while following is not None:
        visit = visits.get(following.url)
        is_known = visit is not None and visit.sha256 is not None and visit.checked >= since
        due = not is_known or is_due(visit, math.inf, context.started)
        traffic.total += due
        if not due:
            traffic.note("not due")
        read = await context.reader.read(following.url, partial(parse, following), due)
        if read is None:
            raise PageLayoutError(f"It leads to a page that {source.site_url} does not have: {following.name}.")
        titles, following = [*titles, *titles_in(following, read[0])], read[1]
    return titles


def merge(pages: Iterable[Iterable[Title]]) -> list[Title]:
    """The titles of several pages, each once, sorted by id.

    A continuing title is on the pages of several seasons. Its earliest page is used, which is that of the season in
    which it began. If that page was not read, its season is that of its start date, if this is known.
    """
    titles: dict[str, Title] = {}
    for page in pages:
        for title in page:
            known = titles.get(title.id)
            if known is None or _order(title) < _order(known):
                titles[title.id] = title
    return [_in_first_season(titles[id]) for id in sorted(titles, key=id_sort_key(titles))]


def _order(title: Title) -> tuple[bool, bool, tuple[int, int]]:
    season = parse_season(title.season) if title.season else None
    return title.continuing, season is None, (season.year, season.quarter) if season else (0, 0)


def _in_first_season(title: Title) -> Title:
    began = season_of_date(title.start_date)
    return replace(title, season=str(began)) if title.continuing and began else title
