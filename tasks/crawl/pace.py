"""How fast a host is asked: evenly, slower as soon as it objects, and gradually as fast as before."""

import asyncio
import math
from collections import deque

# Slower than the limit by so much that late timers and the way to the host never put one request too many into a
# second; a run takes at most 5 % longer than the limit alone would let it.
_MARGIN = 1.03
# A timer that was late by so much is made up for. A token bucket would make up for all of a silence in one burst,
# and bursts get people blocked.
_LATE_SECONDS = 0.02
# Half the pace at once, and gradually back: a tenth more with each good answer up to what the host stood before, and
# beyond that 5 % more a second. (Slow start and congestion avoidance, Jacobson 1988, are the model.)
_SLOWDOWN, _RECOVERY, _EXPLORING = 0.5, 1.1, 1.05
# A host in trouble (503) is asked at an eighth of what it stood at least; one that we ask too often (429) is not.
_TROUBLE = 1 / 8
# A host that says "too often" may have let a burst of a second's worth through before it said so.
_CEILING = 0.5
# What it said holds as long as the run, and is forgotten by and by afterwards: after an hour twice the pace is tried.
_FORGETTING_SECONDS = 3600
_SLOWEST = 1 / 60  # requests a second
_UNLIMITED = 10.0  # what a host without a limit is thought to stand at least


def remembered(ceiling: float, seconds: float) -> float:
    """What is left of a ceiling that was learnt so many seconds ago."""
    return ceiling * math.exp2(min(max(seconds, 0) / _FORGETTING_SECONDS, 1000))


class Pace:
    """The pace of the requests to one host, in requests a second.

    `limit` is never exceeded (None or 0: no limit), nor is `ceiling`, which the host taught us, in this run or an
    earlier one. `held_seconds` is how long the host asked to be left alone, all in all.
    """

    def __init__(self, limit: float | None = None, ceiling: float = math.inf) -> None:
        self.held_seconds = 0.0
        self._limit = limit or math.inf
        self.ceiling = max(_SLOWEST, ceiling)
        self.requests_per_second = min(self._limit, self.ceiling)
        self._stood = self.requests_per_second  # what the host is known to stand
        self._waits = False  # whether the pace holds requests back at all, or they are slower by themselves
        self._answered: deque[float] = deque()  # moments of the last second; on the event loop's clock, as all below
        self._next = self._slowed = self._sped = -math.inf
        self._turn = asyncio.Lock()

    def limit(self, requests_per_second: float) -> None:
        """Lower the limit, because the host's robots.txt asks for it."""
        self._limit = min(self._limit, requests_per_second)
        self.requests_per_second = min(self.requests_per_second, self._limit)
        self._stood = min(self._stood, self._limit)

    async def wait(self) -> float:
        """Wait for one's turn, and return the moment; turns are given in the order in which they were asked for."""
        async with self._turn:
            self._waits = self._next > _now()
            # Again and again, because `slow_down` may have moved the moment meanwhile.
            while (seconds := self._next - _now()) > 0:
                await asyncio.sleep(seconds)
            now = _now()
            late_seconds = min(now - self._next, _LATE_SECONDS) if self._waits else 0.0
            self._next = now - late_seconds + _MARGIN / self.requests_per_second
            return now

    def speed_up(self) -> None:
        """A good answer came: a little faster, where the pace is below what is allowed."""
        now = _now()
        if math.isinf(self.requests_per_second):
            self._answered.append(now)
            self._forget_old_answers()
        elif self._waits:
            if self.requests_per_second < self._stood:
                faster = min(self._stood, self.requests_per_second * _RECOVERY)
            else:
                faster = self.requests_per_second * _EXPLORING ** min(1.0, now - self._sped)
            self.requests_per_second = min(self._limit, self.ceiling, faster)
            self._sped = now

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long."""
        now = _now()
        if now + seconds > max(now, self._next):
            self.held_seconds += now + seconds - max(now, self._next)
            self._next = now + seconds

    def slow_down(self, asked_at: float, hold_seconds: float, too_fast: bool) -> None:
        """The host objected to a request of that moment (`wait` returned it): nobody asks for `hold_seconds`, and
        then half as often as before. `too_fast`: it said that we ask too often (429).

        What was asked before the pace was last lowered says nothing about the present one.
        """
        now = _now()
        self.hold(hold_seconds)
        if asked_at <= self._slowed:
            return
        self._slowed = now
        was = self._present()
        slowest = min(_SLOWEST, self._limit)
        if too_fast:
            was = self._stood = self.ceiling = max(slowest, _CEILING * was)
        elif math.isinf(self._stood) or self._stood < was:
            self._stood = was
        self.requests_per_second = max(slowest, _SLOWDOWN * was, 0 if too_fast else _TROUBLE * self._stood)

    def _present(self) -> float:
        """The pace until now; where there was none, the good answers of the last second, if they are many enough to
        tell anything."""
        if not math.isinf(self.requests_per_second):
            return self.requests_per_second
        self._forget_old_answers()
        return max(_UNLIMITED, len(self._answered))

    def _forget_old_answers(self) -> None:
        since = _now() - 1
        while self._answered and self._answered[0] < since:
            self._answered.popleft()


def _now() -> float:
    return asyncio.get_running_loop().time()
