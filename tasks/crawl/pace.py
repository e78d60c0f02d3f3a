"""The pace of the requests to one host: even, lower as soon as the host objects, and gradually back."""

import asyncio
import math
from collections import deque

# The interval is this much longer than the limit requires. Late timers and network delays then never put one request
# too many into a second, and a crawl takes at most 5 % longer than the limit requires.
_MARGIN = 1.03
# A timer's delay is made up for up to this much. A token bucket would make up for any silence with one burst, and
# bursts get clients blocked.
_LATE_SECONDS = 0.02
# The pace is halved at once. Good responses bring it back: 10 % per response up to the pace that the host tolerated,
# and 5 % per second beyond. (The model is slow start and congestion avoidance, Jacobson 1988.)
_SLOWDOWN, _RECOVERY, _EXPLORING = 0.5, 1.1, 1.05
# The pace of an overloaded host (503) stays above an eighth of what it tolerated. After a 429 it does not.
_OVERLOADED = 1 / 8
# A host may let a burst of one second through before it sends a 429, so the tolerated pace may be half the present one.
_CEILING = 0.5
# The ceiling doubles within this time after a crawl.
_FADING_SECONDS = 3600
_SLOWEST = 1 / 60  # requests per second
_UNLIMITED = 10.0  # the least pace that a host without a limit is assumed to tolerate, in requests per second


def faded(ceiling: float, seconds: float) -> float:
    """The ceiling that remains of one that was learned some seconds ago."""
    return ceiling * math.exp2(min(max(seconds, 0) / _FADING_SECONDS, 1000))


class Pace:
    """The pace of the requests to one host, in requests per second.

    It never exceeds `limit` (None or 0: no limit), nor `ceiling`, which responses with status 429 lower.
    """

    def __init__(self, limit: float | None = None, ceiling: float = math.inf) -> None:
        self._limit = limit or math.inf
        self.ceiling = max(_SLOWEST, ceiling)
        self.requests_per_second = min(self._limit, self.ceiling)
        self._tolerated = self.requests_per_second
        # Whether the pace delays requests at all, or they are slower anyway.
        self._delays = False
        # All times are of the event loop's clock.
        self._responses: deque[float] = deque()  # of the last second
        self._next = self._slowed_down = self._sped_up = -math.inf
        self._turn = asyncio.Lock()

    def limit(self, requests_per_second: float) -> None:
        """Lower the limit, as the host's robots.txt asks."""
        self._limit = min(self._limit, requests_per_second)
        self.requests_per_second = min(self.requests_per_second, self._limit)
        self._tolerated = min(self._tolerated, self._limit)

    async def wait(self) -> float:
        """Wait for the next turn and return its time. Turns are given in the order of the calls."""
        async with self._turn:
            self._delays = self._next > _now()
            while (seconds := self._next - _now()) > 0:  # a loop, since `hold` may move the turn meanwhile
                await asyncio.sleep(seconds)
            now = _now()
            late_seconds = min(now - self._next, _LATE_SECONDS) if self._delays else 0.0
            self._next = now - late_seconds + _MARGIN / self.requests_per_second
            return now

    def speed_up(self) -> None:
        """Go a little faster after a good response, if the pace is below what is allowed."""
        now = _now()
        if math.isinf(self.requests_per_second):
            self._responses.append(now)
            self._drop_old_responses()
        elif self._delays:
            if self.requests_per_second < self._tolerated:
                faster = min(self._tolerated, self.requests_per_second * _RECOVERY)
            else:
                faster = self.requests_per_second * _EXPLORING ** min(1.0, now - self._sped_up)
            self.requests_per_second = min(self._limit, self.ceiling, faster)
            self._sped_up = now

    def hold(self, seconds: float) -> float:
        """Give no turn for some time. Returns by how many seconds this delays the next turn."""
        now = _now()
        delay_seconds = max(0.0, now + seconds - max(now, self._next))
        if delay_seconds:
            self._next = now + seconds
        return delay_seconds

    def slow_down(self, requested_at: float, hold_seconds: float, too_fast: bool) -> float:
        """Hold and halve the pace, because the host objected to the request whose turn was at `requested_at`.

        `too_fast` is set if the host reported too many requests (429). Objections to requests from before the last
        slowdown say nothing about the present pace; they only hold. Returns the delay as `hold` does.
        """
        delay_seconds = self.hold(hold_seconds)
        if requested_at <= self._slowed_down:
            return delay_seconds
        self._slowed_down = _now()
        present = self._present()
        slowest = min(_SLOWEST, self._limit)
        if too_fast:
            present = self._tolerated = self.ceiling = max(slowest, _CEILING * present)
        elif math.isinf(self._tolerated) or self._tolerated < present:
            self._tolerated = present
        least = 0 if too_fast else _OVERLOADED * self._tolerated
        self.requests_per_second = max(slowest, _SLOWDOWN * present, least)
        return delay_seconds

    def _present(self) -> float:
        """The present pace. Without a limit it is the number of good responses in the last second."""
        if not math.isinf(self.requests_per_second):
            return self.requests_per_second
        self._drop_old_responses()
        return max(_UNLIMITED, len(self._responses))

    def _drop_old_responses(self) -> None:
        since = _now() - 1
        while self._responses and self._responses[0] < since:
            self._responses.popleft()


def _now() -> float:
    return asyncio.get_running_loop().time()
