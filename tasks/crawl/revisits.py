"""When is a page or a poster asked for again? Seldom, and the more seldom the older it is."""

import hashlib
from datetime import UTC, date, datetime

from tasks.catalogue.seasons import Season
from tasks.crawl.ledger import PageVisit, PosterVisit

_DAY_SECONDS = 86_400
# A page that was read a year after its season is read again after some four months, one of ten years ago after a year.
_SHARE_OF_AGE, _LONGEST_DAYS = 0.25, 365.0
# What was asked for in vain; a poster that "failed", because its host did not answer as it should, is always due.
_POSTER_DAYS = {"missing": 30.0, "refused": 365.0, "broken": 7.0}


def season_is_due(visit: PageVisit | None, season: Season, now: float, refresh: bool = False) -> bool:
    """Whether a page about a season is to be read in the crawl that began at `now` (seconds since 1970).

    Once a crawl; those of running and coming seasons in every crawl, with `refresh` all. `visit` is what is known
    of the page.
    """
    if visit is None:
        return True
    if visit.checked >= now:
        return False
    if visit.doubtful:
        return True
    if refresh:
        return True
    over_days = (datetime.fromtimestamp(now, UTC).date() - _first_day(season.following())).days
    days = max(0.0, min(_SHARE_OF_AGE * over_days, _LONGEST_DAYS))
    return now - visit.checked >= days * _DAY_SECONDS * _spread(visit.url)


def poster_is_due(visit: PosterVisit, now: float) -> bool:
    """Whether a poster that could not be had is to be asked for again in the crawl that began at `now`."""
    days = _POSTER_DAYS.get(visit.status)
    return days is None or now - visit.checked >= days * _DAY_SECONDS * _spread(visit.url)


def _first_day(season: Season) -> date:
    return date(season.year, 1 + 3 * season.quarter, 1)


def _spread(url: str) -> float:
    """A factor from 0.5 to 1.5, always the same for an address: what was read in one run is not due in one run."""
    return 0.5 + int.from_bytes(hashlib.sha256(url.encode()).digest()[:4]) / 2**32
