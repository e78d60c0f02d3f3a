"""Adds to titles what only their detail pages give: rating, last day on air and related titles.

A relation stands on the detail pages of both titles. So those of the test part, a seventh of all, say which test titles
have siblings in training, and they are read first.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from ml.data.franchise_keys import title_franchises
from ml.data.splits import TEST, TRAIN, VALIDATION, draw_part
from tasks.catalogue.crawl_context import CrawlContext
from tasks.catalogue.parsed_details import ParsedDetails
from tasks.catalogue.source import DetailSource, SourcePage
from tasks.catalogue.titles import Details, Title
from tasks.crawl.ledger import PageVisit, believable
from tasks.crawl.revisits import is_due
from tasks.errors import PageError, PageLayoutError, SiteBlocked, SiteError, SiteUnavailable, excerpt

# One or two pages in an unusual layout are skipped. So many in a row mean that the site has changed.
_FAILURES_IN_A_ROW = 10
_FIRST = (TEST, VALIDATION, TRAIN)
logger = logging.getLogger(__name__)


async def add_details(
    context: CrawlContext, titles: Sequence[Title], limit: int, parts: Mapping[str, str] | None = None
) -> list[Title]:
    """The titles, with the details of all whose detail page was read in this crawl or an earlier one.

    Fetches at most `limit` pages per crawl: first those never read, then those that are due again. Of each, the test
    part comes first, then validation, with the most popular titles first. `parts` gives the part of titles by id. The
    other titles have the part that their name draws. Kept pages that can no longer be read are due in the next crawl.
    If many pages in a row have another layout, and had not in an earlier crawl, no more are fetched in this crawl.

    Raises:
        SiteBlocked: the site refuses us.
        SiteError: many pages in a row could not be fetched, or without a client, not be read.
        KeptPageError: as `PageReader.read`.
    """
    source = context.source
    if not isinstance(source, DetailSource):
        return list(titles)
    pages = {t.id: page for t in titles if (page := source.detail_page(t, context.started))}
    visits = {id: context.ledger.pages.get(page.url) for id, page in pages.items()}
    due = _due(context, titles, pages, visits, limit, parts or {}) if limit else {}
    context.traffic.expect(len(due))
    parsed = ParsedDetails(context.kept.folder.parent, source)
    details: dict[str, Details] = {}
    failures_in_a_row = 0

    def parse(title: Title, body: bytes) -> Details:
        read = parsed.parse(body)
        if read.id != title.id:
            raise PageLayoutError(f"This is the page of another title, {excerpt(read.title)!r} ({excerpt(read.id)}).")
        return read

    to_read = list(due.values())
    to_read += [title for title in titles if visits.get(title.id) and title.id not in due]
    for place, title in enumerate(to_read, start=1):
        url = pages[title.id].url
        try:
            read = await context.reader.read(url, partial(parse, title), title.id in due, replaces_unreadable=False)
        except SiteBlocked:
            raise
        except SiteError as error:
            visit = context.ledger.pages.get(url) or PageVisit(url, 0)
            is_requested, is_unavailable = title.id in due, isinstance(error, SiteUnavailable)
            # Neither a page that could not be read before nor a kept page says anything new about the site.
            is_new = is_requested and (is_unavailable or not visit.was_unreadable)
            failures_in_a_row += is_new or context.client is None
            if failures_in_a_row == _FAILURES_IN_A_ROW and (is_new or context.client is None):
                if context.client is None or not isinstance(error, PageError) or error.retryable:
                    raise
                logger.warning(
                    "The pages of %d titles in a row cannot be read: none are fetched in the rest of this run, and "
                    "what is known is used. Update this program, or do not ask for them (--details 0). The last "
                    "error: %s",
                    *(_FAILURES_IN_A_ROW, error),
                )
                skipped = [other.id for other in to_read[place:] if other.id in due]
                context.traffic.total -= len(skipped)
                due = {id: other for id, other in due.items() if id not in skipped}
            logger.info("The page of %s is skipped: %s", excerpt(title.title), error)
            if is_requested:  # not fetched again in this crawl; the kept page is used
                now = time.time()
                failed = replace(visit, checked=now, suspect=True) if is_unavailable else visit.unreadable(now)
                context.ledger.pages.put(failed)
                context.traffic.settle("broken", type(error).__name__)
                del due[title.id]
                to_read.append(title)
            elif context.client and not visit.was_unreadable:
                # The next request is unconditional, as the site may not have changed the page.
                context.ledger.pages.put(replace(visit, etag=None, last_modified=None, suspect=True))
        else:
            failures_in_a_row = 0
            if read is not None:
                details[title.id] = read

    parsed.write({visit.sha256 for visit in context.ledger.pages.all().values()})
    return [_with_details(title, details.get(title.id)) for title in titles]


def _due(
    context: CrawlContext,
    titles: Sequence[Title],
    pages: Mapping[str, SourcePage],
    visits: Mapping[str, PageVisit | None],
    limit: int,
    parts: Mapping[str, str],
) -> dict[str, Title]:
    """The titles whose pages are fetched, in this order. Pages that this crawl fetched already count to the limit."""
    franchise_of = title_franchises({title.id: title.title for title in titles})
    part_of = {id: parts.get(id) or draw_part(franchise) for id, franchise in franchise_of.items()}
    already = sum(visit is not None and believable(visit.checked) >= context.started for visit in visits.values())
    due = [t for t in titles if t.id in pages and is_due(visits[t.id], pages[t.id].quiet_days, context.started)]
    due.sort(key=lambda title: (visits[title.id] is not None, _FIRST.index(part_of[title.id]), -(title.members or 0)))
    return {title.id: title for title in due[: max(0, limit - already)]}


def _with_details(title: Title, details: Details | None) -> Title:
    if details is None:
        return title
    return replace(
        title,
        start_date=max((title.start_date, details.start_date), key=lambda date: len(date or "")),
        rating=details.rating,
        aired_to=details.aired_to,
        related=details.related,
        own_page=True,
    )
