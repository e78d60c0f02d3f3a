"""One host of a crawl: its pace, its robots.txt, and what the ledger remembers about it."""

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from protego import Protego

from tasks.crawl.http_response import Response
from tasks.crawl.ledger import HostMemory, Ledger
from tasks.crawl.pace import Pace, faded
from tasks.errors import SiteBlocked, excerpt

# The crawl does not wait longer than this. It stops, and a later run continues it.
LONGEST_WAIT_SECONDS = 120.0

# Part of the message of SiteBlocked, also of earlier versions.
NO_REQUEST = "No request is sent to"

logger = logging.getLogger(__name__)


class Host:
    """A host that gets at most `requests_per_second` (None: no limit) over at most `connections` at a time."""

    def __init__(self, name: str, ledger: Ledger, requests_per_second: float | None, connections: int) -> None:
        self.name = name
        self.slots = asyncio.Semaphore(connections)
        self.robots: Protego | None = None
        self.robots_lock = asyncio.Lock()
        self._ledger = ledger
        stored = ledger.hosts.get(name) or HostMemory(name)
        self._memory = stored.believable()
        if self._memory != stored:
            ledger.hosts.put(self._memory)
        now = time.time()
        self.pace = Pace(requests_per_second, faded(self._memory.ceiling, now - self._memory.learned))
        self.pace.hold(min(self._memory.held_until - now, LONGEST_WAIT_SECONDS))

    @property
    def is_blocked(self) -> bool:
        """Whether the host refuses us."""
        return self._memory.blocked_until > time.time()

    def check_blocked(self) -> None:
        """Raise SiteBlocked if the host refuses us."""
        if self.is_blocked:
            until = datetime.fromtimestamp(self._memory.blocked_until, UTC)
            raise SiteBlocked(
                f"The site {excerpt(self.name)} refuses us. {NO_REQUEST} it before {until:%Y-%m-%d %H:%M} UTC: run the "
                "command again after that time, at a lower pace.",
                f"{self._memory.reason}.",
            )

    def block(self, reason: str, seconds: float) -> NoReturn:
        """Send no request to the host for some time, in this run and later ones, and raise SiteBlocked."""
        self._remember(blocked_until=time.time() + seconds, reason=reason)
        self.check_blocked()
        raise AssertionError("the block has just begun")

    def slow_down(self, response: Response, least_hold_seconds: float) -> float:
        """Slow down because of a response with status 429 or 503. Returns by how many seconds requests are delayed."""
        ceiling, retry_after_seconds = self.pace.ceiling, response.retry_after_seconds or 0
        hold_seconds = max(retry_after_seconds, least_hold_seconds)
        delay_seconds = self.pace.slow_down(response.requested_at, hold_seconds, too_fast=response.status == 429)
        if retry_after_seconds:
            self._remember(held_until=time.time() + retry_after_seconds)
        if self.pace.ceiling < ceiling:
            self._remember(ceiling=self.pace.ceiling, learned=time.time())
            logger.info(
                "%s reports too many requests. The limit is now %.2g requests per second.",
                excerpt(self.name),
                self.pace.ceiling,
            )
        return delay_seconds

    def _remember(self, **facts: Any) -> None:
        self._memory = replace(self._memory, **facts)
        self._ledger.hosts.put(self._memory)
