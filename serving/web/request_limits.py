"""Limits the requests that call the function, per visitor's address and in all.

A call may take a minute while the function starts. Without a limit, a few visitors would occupy all threads of the
server, and /health would have to wait. Flask-Limiter and similar libraries count requests per minute, but not requests
in progress, which matter here.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from .errors import PageError


@dataclass(frozen=True)
class Limit:
    """The most requests in progress, and the most that may start within a minute."""

    in_progress: int
    per_minute: int


PER_ADDRESS = Limit(in_progress=4, per_minute=60)
IN_ALL = Limit(in_progress=8, per_minute=600)  # the server has more threads than requests in progress


class RequestLimits:
    """Counts the requests of one server process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: Counter[str] = Counter()
        self._started: deque[tuple[float, str]] = deque()  # time and address of each request of the last minute

    @contextmanager
    def admit(self, address: str) -> Iterator[None]:
        """Count a request of the address inside the block.

        Raises:
            PageError: (429) a limit is reached.
        """
        with self._lock:
            now = time.monotonic()
            while self._started and self._started[0][0] < now - 60:
                self._started.popleft()
            if self._is_reached(IN_ALL, self._running.total(), len(self._started)):
                raise PageError(429, "busy", "The page has too many visitors at the moment. Try again in a minute.")
            started = sum(other == address for _, other in self._started)
            if self._is_reached(PER_ADDRESS, self._running[address], started):
                raise PageError(
                    429, "too_many_requests", "Too many requests come from your address. Try again in a minute."
                )
            self._started.append((now, address))
            self._running[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[address] -= 1
                self._running += Counter()  # removes addresses without a request

    @staticmethod
    def _is_reached(limit: Limit, running: int, started: int) -> bool:
        return running >= limit.in_progress or started >= limit.per_minute
