"""When to fetch a page again: the longer it has been unchanged, the less often."""

import hashlib

from tasks.crawl.ledger import PageVisit, believable

_DAY_SECONDS = 86_400
_DAYS_WITHOUT_PAGE = 30.0  # as for a missing poster


def is_due(visit: PageVisit | None, quiet_days: float, started: float, refresh: bool = False) -> bool:
    """Whether the crawl that began at `started` (seconds since 1970) fetches a page.

    A page is fetched at most once per crawl. It is due if it has no visit, if its visit is suspect, if `refresh` is
    set, or if it was last checked more than about `quiet_days` ago. A page that the site did not have is due after
    about 30 days at the latest.
    """
    if visit is None:
        return True
    if believable(visit.checked) >= started:
        return False
    if visit.sha256 is None:
        quiet_days = min(quiet_days, _DAYS_WITHOUT_PAGE)
    return visit.suspect or refresh or is_stale(visit.url, visit.checked, quiet_days, started)


def is_stale(url: str, checked: float, quiet_days: float, started: float) -> bool:
    """Whether more than about `quiet_days` have passed between `checked` and `started`.

    The number of days is multiplied by a factor from 0.5 to 1.5 that depends only on the URL. URLs that were fetched
    together are thus not due together. A time in the future is that of a wrong clock, so nothing is known about it.
    """
    spread = 0.5 + int.from_bytes(hashlib.sha256(url.encode()).digest()[:4]) / 2**32
    return started - believable(checked) >= quiet_days * _DAY_SECONDS * spread
