"""From the site's season pages to the catalogue's records."""

import logging
from collections.abc import Sequence
from functools import partial

from tasks.catalogue.catalogue_table import merge
from tasks.catalogue.seasons import Season, quiet_days
from tasks.crawl.ledger import Ledger
from tasks.crawl.page_reader import PageReader
from tasks.crawl.revisits import is_due
from tasks.crawl.traffic import Traffic
from tasks.errors import EmptyCatalogueError, PageError, PageLayoutError, SeasonError
from tasks.myanimelist.page_addresses import season_path
from tasks.myanimelist.pages import AnimeRecord, parse_season_page

logger = logging.getLogger(__name__)


async def read_seasons(
    site_url: str,
    seasons: Sequence[Season],
    reader: PageReader,
    ledger: Ledger,
    started: float,
    traffic: Traffic,
    refresh: bool = False,
) -> list[AnimeRecord]:
    """Every title of some seasons, each once and sorted by id.

    Asked for are the pages that are due in the crawl that began at `started` (with `refresh`: all that were not asked
    for since), all others are read as they were kept. A season that the site does not have (one to come, mostly) is
    left out with a warning.

    Raises:
        SeasonError: the site has none of the seasons.
        EmptyCatalogueError: the pages hold no title.
        PageLayoutError: a page is not what it should be.
        KeptPageError: as `PageReader.read`.
        SiteUnavailable, SiteBlocked, SiteError: as `SiteClient.fetch`.
    """
    pages: dict[Season, list[AnimeRecord]] = {}
    unknown: list[Season] = []
    urls = {season: site_url + season_path(season) for season in seasons}
    visits = {season: ledger.pages.get(url) for season, url in urls.items()}
    due = {season for season, visit in visits.items() if is_due(visit, quiet_days(season, started), started, refresh)}
    traffic.expect(len(due))
    traffic.outcomes["not due"] = len(seasons) - len(due)

    for season in seasons:  # one after the other: a kill costs one page, and at the site's pace nothing is gained
        try:
            page = await reader.read(urls[season], partial(_parse, season), season in due)
        except PageError as error:
            raise type(error)(f"The page of {season}: {error}") from error
        if page is None:
            unknown.append(season)
        else:
            pages[season] = page

    names = ", ".join(str(season) for season in sorted(unknown))
    if not pages:
        raise SeasonError(f"{site_url} has no page of {names}.")
    if unknown:
        logger.warning("%s has no page of %s: left out.", site_url, names)
    records = merge(pages[season] for season in sorted(pages))
    if not records:
        raise EmptyCatalogueError(f"The season pages of {site_url} hold no title ({len(pages)} pages read).")
    return records


def _parse(season: Season, body: bytes) -> list[AnimeRecord]:
    """The titles of a season's page, if it is that season's."""
    records = parse_season_page(body)
    if records and records[0].season != str(season):
        raise PageLayoutError(f"This is the page of another season, {records[0].season}.")
    return records
