"""From the site's season pages to the catalogue's records."""

import logging
from collections.abc import Callable, Sequence

from tasks.errors import EmptyCatalogueError, NotOnSite, PageError, SeasonError
from tasks.myanimelist.catalogue import merge
from tasks.myanimelist.client import REQUESTS_PER_SECOND, SiteClient
from tasks.myanimelist.concurrency import for_each
from tasks.myanimelist.pages import AnimeRecord, parse_season_page
from tasks.myanimelist.seasons import Season

# A page a second is the pace; a few at a time keep it up where one page takes longer than that.
_CONCURRENCY = 4

logger = logging.getLogger(__name__)


def no_progress(done: int, total: int) -> None:
    """Says nothing."""


async def scrape_seasons(
    site_url: str,
    seasons: Sequence[Season],
    requests_per_second: float | None = REQUESTS_PER_SECOND,
    on_progress: Callable[[int, int], None] = no_progress,
) -> list[AnimeRecord]:
    """Every title of some seasons, each once and sorted by id.

    A season that the site does not have (one to come, mostly) is left out with a warning. `on_progress` is
    told how many pages are read, and of how many.

    Raises:
        SeasonError: the site has none of the seasons.
        EmptyCatalogueError: the pages hold no title.
        PageLayoutError: a page is not what it should be.
        SiteUnavailable, SiteBlocked, SiteError: as `SiteClient.fetch`.
    """
    pages: dict[Season, list[AnimeRecord]] = {}
    unknown: list[Season] = []

    async def read(season: Season) -> None:
        try:
            pages[season] = await client.fetch(season.path, parse_season_page)
        except NotOnSite:
            unknown.append(season)
        except PageError as error:
            raise type(error)(f"The page of {season}: {error}") from error
        on_progress(len(pages) + len(unknown), len(seasons))

    async with SiteClient(site_url, requests_per_second=requests_per_second, concurrency=_CONCURRENCY) as client:
        await for_each(seasons, read, _CONCURRENCY)

    names = ", ".join(str(season) for season in sorted(unknown))
    if not pages:
        raise SeasonError(f"{site_url} has no page of {names}.")
    if unknown:
        logger.warning("%s has no page of %s: left out.", site_url, names)
    records = merge(pages[season] for season in sorted(pages))
    if not records:
        raise EmptyCatalogueError(f"The season pages of {site_url} hold no title ({len(pages)} pages read).")
    return records
