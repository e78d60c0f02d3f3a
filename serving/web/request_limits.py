"""Limits the requests that call the function, and the uploads before them, per visitor's address and in all.

A call may take a minute while the function starts, and an upload may be slow. Without limits, a few visitors would
occupy all threads of the server, and /health would have to wait. Flask-Limiter and similar libraries count requests per
minute, but not requests in progress, which matter here.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from threading import Lock

from .errors import PageError


@dataclass(frozen=True)
class Limit:
    """The most requests in progress, and the most that may start within a minute."""

    in_progress: int
    per_minute: int


PER_ADDRESS = Limit(in_progress=4, per_minute=60)
IN_ALL = Limit(in_progress=8, per_minute=600)
UPLOADS_PER_ADDRESS = 4
UPLOADS_IN_ALL = 6  # the server has more threads than uploads and requests in progress


class RequestLimits:
    """Counts the requests of one server process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()
        self._started: deque[tuple[float, str]] = deque()  # time and visitor of each request of the last minute

    @contextmanager
    def receive(self, address: str) -> Iterator[None]:
        """Count an upload of the address inside the block, in which it is read.

        Raises:
            PageError: (429) a limit is reached.
        """
        visitor = visitor_of(address)
        with self._lock:
            if self._uploads.total() >= UPLOADS_IN_ALL:
                raise _busy()
            if self._uploads[visitor] >= UPLOADS_PER_ADDRESS:
                raise _too_many()
            self._uploads[visitor] += 1
        try:
            yield
        finally:
            self._end(self._uploads, visitor)

    @contextmanager
    def admit(self, address: str) -> Iterator[None]:
        """Count a request of the address inside the block.

        Raises:
            PageError: (429) a limit is reached.
        """
        visitor = visitor_of(address)
        with self._lock:
            now = time.monotonic()
            while self._started and self._started[0][0] < now - 60:
                self._started.popleft()
            if self._is_reached(IN_ALL, self._running.total(), len(self._started)):
                raise _busy()
            started = sum(other == visitor for _, other in self._started)
            if self._is_reached(PER_ADDRESS, self._running[visitor], started):
                raise _too_many()
            self._started.append((now, visitor))
            self._running[visitor] += 1
        try:
            yield
        finally:
            self._end(self._running, visitor)

    def _end(self, counted: Counter[str], visitor: str) -> None:
        with self._lock:
            counted[visitor] -= 1
            counted += Counter()  # removes visitors without a request

    @staticmethod
    def _is_reached(limit: Limit, running: int, started: int) -> bool:
        return running >= limit.in_progress or started >= limit.per_minute


def visitor_of(address: str) -> str:
    """The visitor who has an address. Of IPv6 addresses, a visitor has a whole /64 network."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Network((int(parsed), 64), strict=False))
    return str(parsed)


def _busy() -> PageError:
    return PageError(429, "busy", "The page has too many visitors at the moment. Try again in a minute.")


def _too_many() -> PageError:
    return PageError(429, "too_many_requests", "Too many requests come from your address. Try again in a minute.")
