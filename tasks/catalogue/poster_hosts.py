"""The hosts of posters: which of them are skipped, after many failures in a row or once they refuse us."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from tasks.crawl.addresses import host_of, is_in_bucket
from tasks.crawl.client import SiteClient
from tasks.crawl.ledger import PosterVisit
from tasks.errors import (
    AddressRefused,
    NotAnImageError,
    NotOnSite,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
    UnwantedRedirect,
)

# One poster that fails does not matter. So many in a row mean that the host is down or refuses us.
_MOST_IN_A_ROW: dict[type[SiteError], int] = {AddressRefused: 3, NotAnImageError: 20, SiteError: 20}

logger = logging.getLogger("tasks")


class FailureStreaks:
    """Counts failures in a row, per host: refusals of single addresses, texts instead of images, and all others."""

    def __init__(self) -> None:
        self._streaks: dict[tuple[str, type[SiteError]], list[PosterVisit]] = defaultdict(list)

    def add(self, host: str, visit: PosterVisit, error: SiteError) -> list[PosterVisit]:
        """Count a failure. Returns the visits of its streak if that is too long, otherwise none."""
        kind = next(kind for kind in _MOST_IN_A_ROW if isinstance(error, kind))
        streak = self._streaks[host, kind]
        streak.append(visit)
        return streak if len(streak) >= _MOST_IN_A_ROW[kind] else []

    def end(self, host: str) -> None:
        """End the streaks of a host that responded as it should."""
        for streak_host, kind in list(self._streaks):
            if streak_host == host:
                del self._streaks[streak_host, kind]


class PosterHosts:
    """The hosts of a catalogue's posters at `urls`. A host that fails too often or refuses us is skipped.

    The last host is not skipped, but ends the run. A long streak of refusals or texts also blocks its host. A streak
    says nothing about its posters: `record` is called with each of them as "failed", so that the next run tries them
    again. Objects of a bucket are not counted: they are as they are, however many.
    """

    def __init__(self, client: SiteClient, urls: Iterable[str], record: Callable[[PosterVisit], None]) -> None:
        self._client = client
        self._record = record
        self._streaks = FailureStreaks()
        self._usable = {_host_or_bucket(url) for url in urls} - {None}
        self._skipped: dict[str | None, str] = {}

    def reason_to_skip(self, url: str) -> str | None:
        """Why nothing more is downloaded from the host of a URL, None if something may be."""
        return self._skipped.get(_host_or_bucket(url))

    def succeeded(self, visit: PosterVisit) -> None:
        """Note that a host sent a poster."""
        self._streaks.end(_host_or_bucket(visit.url) or "")

    def failed(self, visit: PosterVisit, error: SiteError, known: PosterVisit | None) -> PosterVisit:
        """Note a failure. `known` is the poster's visit of an earlier run. Returns the visit to record.

        Raises:
            SiteBlocked: the host refuses us, and all others are skipped.
            SiteError: this error; too many posters in a row failed, and all other hosts are skipped.
        """
        host = _host_or_bucket(visit.url)
        if not host or host in self._skipped:
            return visit
        if isinstance(error, SiteBlocked) and self._client.is_blocked(visit.url):
            self._record(visit)
            self._skip(host, f"{host} refuses us", error)
            return visit
        # A poster that failed in this way in an earlier run is no news about the host.
        is_known = known is not None and (known.url, known.reason) == (visit.url, visit.reason)
        if is_known and not isinstance(error, SiteUnavailable):
            return visit
        if isinstance(error, NotOnSite | UnwantedRedirect) and not isinstance(error, AddressRefused):
            self._streaks.end(host)
            return visit
        streak = self._streaks.add(host, visit, error)
        if not streak:
            return visit
        for failed in streak:
            self._record(replace(failed, status="failed"))
        if isinstance(error, AddressRefused | NotAnImageError):
            sentence = str(error).removesuffix(".")
            try:
                self._client.block(visit.url, f"{len(streak)} posters in a row were not sent. The last one: {sentence}")
            except SiteBlocked as blocked:
                self._skip(host, f"{host} refuses us", blocked)
        else:
            self._skip(host, f"{len(streak)} posters in a row could not be had from {host}", error)
        return replace(visit, status="failed")

    def _skip(self, host: str, reason: str, error: SiteError) -> None:
        """Skip a host because of an error; raises the error if it was the last host."""
        self._usable.discard(host)
        if not self._usable:
            raise error
        self._skipped[host] = reason
        logger.warning("Posters of %s are skipped in this run: %s. The last error: %s", host, reason, error)


def _host_or_bucket(url: str) -> str | None:
    """The host of a URL, "" for all buckets, None if the URL is invalid."""
    try:
        return "" if is_in_bucket(url) else host_of(url)
    except SiteError:
        return None
