"""The pace of requests, on an event loop whose clock jumps from timer to timer, so that hours pass at once."""

import asyncio
import itertools
import math
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from tasks.crawl.pace import Pace, faded

Result = TypeVar("Result")
Lateness = Callable[[], float]
START = 100_000.0
SLOWEST = 1 / 60  # no objection brings the pace below this
RATES = [0.5, 1, 20, 100]


class JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: when it returns, the timeout has passed on its clock, plus the lateness of the timer."""

    def __init__(self, late: Lateness) -> None:
        super().__init__()
        self.now = START
        self.late = late

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all tasks wait, and none for a timer"
        if timeout > 0:
            self.now += timeout + self.late()
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with such a clock. Like a real clock, it never shows the same time twice."""

    def __init__(self, late: Lateness) -> None:
        self.jumping = JumpingSelector(late)
        super().__init__(self.jumping)

    def time(self) -> float:
        self.jumping.now += 1e-6
        return self.jumping.now


def run(work: Coroutine[Any, Any, Result], late: Lateness = lambda: 0.0) -> Result:
    with asyncio.Runner(loop_factory=lambda: JumpingLoop(late)) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(pace: Pace, count: int) -> list[float]:
    """The turns of requests that all start to wait at once, in the order of their numbers."""
    given: list[float] = []

    async def request(number: int) -> None:
        given.append(await pace.wait())
        assert len(given) == number + 1, "out of order"

    await asyncio.gather(*(request(number) for number in range(count)))
    return given


async def good_responses(pace: Pace, count: int) -> list[float]:
    """The turns of requests that are sent one after the other and all get good responses."""
    given = []
    for _ in range(count):
        given.append(await pace.wait())
        pace.speed_up()
    return given


async def objection(pace: Pace, *, too_fast: bool, hold_seconds: float = 1) -> None:
    pace.slow_down(await pace.wait(), hold_seconds, too_fast)


def most_in_a_window(given: Iterable[float], seconds: float = 1.0) -> int:
    """The largest number of turns in any window of this length."""
    ordered, most, first = sorted(given), 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def random_lateness(most_seconds: float, share: float = 1) -> Lateness:
    rng = random.Random("late")
    return lambda: rng.uniform(0, most_seconds) if rng.random() < share else 0.0


@pytest.mark.parametrize("late", [(0.0, 1), (0.003, 1), (0.5, 0.1)], ids=["on time", "late", "sometimes very late"])
@pytest.mark.parametrize("rate", RATES)
def test_pace_exceeds_its_limit_in_no_second_and_uses_it(rate: float, late: tuple[float, float]) -> None:
    async def with_a_silence() -> tuple[list[float], list[float]]:
        pace = Pace(rate)
        before = await turns(pace, 200)
        await asyncio.sleep(60)
        return before, await turns(pace, 110)

    before, after = run(with_a_silence(), random_lateness(*late))
    for given in (before, after):
        assert most_in_a_window(given, max(1, 1 / rate)) <= max(1, rate)
    if late[0] < 0.1:
        assert before[-1] - before[0] <= 1.05 * 200 / rate


def test_pace_gives_turns_evenly() -> None:
    given = run(turns(Pace(20), 100))
    assert all(0.045 <= later - earlier <= 0.055 for earlier, later in itertools.pairwise(given))


async def test_pace_keeps_its_limit_on_a_real_clock() -> None:
    given = await turns(Pace(50), 20)
    assert most_in_a_window(given, 0.2) <= 11
    assert 19 / 50 <= given[-1] - given[0] < 1.5


def test_pace_gives_the_turn_of_a_cancelled_request_to_the_next_one() -> None:
    async def cancelled() -> list[float]:
        pace = Pace(1)
        await pace.wait()
        impatient = asyncio.create_task(pace.wait())
        others = asyncio.create_task(turns(pace, 2))
        await asyncio.sleep(0.5)
        impatient.cancel()
        return await others

    assert run(cancelled()) == pytest.approx([START + 1, START + 2], abs=0.1)


@pytest.mark.parametrize("no_limit", [None, 0])
def test_pace_without_a_limit_delays_nothing(no_limit: float | None) -> None:
    assert run(turns(Pace(no_limit), 1000))[-1] - START < 0.1


def test_pace_hold_delays_waiting_requests_and_counts_overlapping_holds_once() -> None:
    async def held() -> tuple[list[float], list[float]]:
        pace = Pace(1)
        waiting = asyncio.create_task(turns(pace, 4))
        await asyncio.sleep(0.5)
        delays = [pace.hold(seconds) for seconds in (10, 2, 15)]
        return await waiting, delays

    (first, *others), delays = run(held())
    assert first == pytest.approx(START, abs=1e-3)
    assert others[0] == pytest.approx(START + 15.5, abs=1e-3)
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(others)), "a burst after the hold"
    assert sum(delays) == pytest.approx(others[0] - START - 1.03, abs=1e-3)


def test_pace_halves_its_ceiling_after_429_and_stays_below_it() -> None:
    async def refused() -> tuple[list[float], list[float], float]:
        pace, paces, given = Pace(20), [], []
        await objection(pace, too_fast=True)
        for _ in range(500):
            given += await good_responses(pace, 1)
            paces.append(pace.requests_per_second)
        await asyncio.sleep(3600)
        await good_responses(pace, 100)
        return given, paces, pace.ceiling

    given, paces, ceiling = run(refused())
    assert ceiling == 10
    assert most_in_a_window(given) <= 10
    assert paces[0] == pytest.approx(5.5) and max(paces) == 10, "half of the ceiling first, then gradually back to it"
    assert min(paces[30:]) > 0.99 * 10


def test_pace_lowers_its_ceiling_with_each_429_but_never_stops() -> None:
    async def refused() -> list[float]:
        pace, ceilings = Pace(20), []
        for _ in range(100):
            await objection(pace, too_fast=True)
            ceilings.append(pace.ceiling)
        ceilings.append(pace.requests_per_second)
        return ceilings

    ceilings = run(refused())
    assert ceilings == sorted(ceilings, reverse=True)
    assert ceilings[1] < ceilings[0] and ceilings[-1] == SLOWEST


@pytest.mark.parametrize("limit", [20, None])
def test_pace_keeps_the_ceiling_of_an_earlier_crawl_from_its_first_request(limit: float | None) -> None:
    assert most_in_a_window(run(good_responses(Pace(limit, ceiling=5), 100))) <= 5


def test_faded_ceiling_doubles_per_hour() -> None:
    assert [faded(10, seconds) for seconds in (-5, 0, 3600)] == [10, 10, 20]
    assert faded(math.inf, 60) == math.inf
    assert 1e9 < faded(10, 1e12) < math.inf


def test_pace_halves_after_503_and_recovers_gradually_without_a_ceiling() -> None:
    async def overloaded() -> tuple[list[float], float]:
        pace, paces = Pace(20), []
        await objection(pace, too_fast=False)
        paces.append(pace.requests_per_second)
        for _ in range(30):
            await good_responses(pace, 1)
            paces.append(pace.requests_per_second)
        return paces, pace.ceiling

    paces, ceiling = run(overloaded())
    assert paces[0] == 10 and paces[5] < 17 and paces[7] < 20 and paces[20] == max(paces) == 20
    assert paces == sorted(paces)
    assert ceiling == math.inf


def test_pace_stays_above_an_eighth_of_the_tolerated_pace_after_many_503() -> None:
    async def overloaded(count: int) -> tuple[float, float]:
        pace = Pace(20)
        for _ in range(count):
            await objection(pace, too_fast=False)
        lowest = pace.requests_per_second
        await good_responses(pace, 45)
        return lowest, pace.requests_per_second

    assert run(overloaded(2)) == (5, 20)
    assert run(overloaded(20)) == (2.5, 20)


async def overloaded_at_twenty_per_second() -> Pace:
    """A pace without a limit, after a 503 of a host that gave twenty responses per second."""
    pace = Pace()
    for _ in range(30):
        await good_responses(pace, 1)
        await asyncio.sleep(0.05)
    await objection(pace, too_fast=False)
    return pace


def test_pace_without_a_limit_recovers_and_then_grows_by_five_percent_per_second() -> None:
    async def overloaded() -> tuple[list[float], list[float], float]:
        pace, given, paces = await overloaded_at_twenty_per_second(), [], []
        for _ in range(200):
            given += await good_responses(pace, 1)
            paces.append(pace.requests_per_second)
        await asyncio.sleep(600)
        await good_responses(pace, 3)
        return given, paces, pace.requests_per_second

    given, paces, after_a_silence = run(overloaded())
    assert paces[0] == pytest.approx(10, rel=0.1)
    assert paces[20] == pytest.approx(20, rel=0.1)
    assert 1.03 ** (given[-1] - given[20]) < paces[-1] / paces[20] < 1.06 ** (given[-1] - given[20])
    assert paces[-1] < after_a_silence < 1.06 * paces[-1]


def test_pace_recovers_to_the_fastest_pace_that_the_host_tolerated() -> None:
    async def overloaded_again() -> tuple[float, float]:
        pace = await overloaded_at_twenty_per_second()
        await good_responses(pace, 200)
        before = pace.requests_per_second
        await objection(pace, too_fast=False)
        await good_responses(pace, 20)
        return before, pace.requests_per_second

    before, after = run(overloaded_again())
    assert before > 25
    assert after == pytest.approx(before, rel=0.06)


def test_pace_does_not_recover_through_requests_that_it_does_not_delay() -> None:
    async def slow_client() -> float:
        pace = Pace(20)
        await objection(pace, too_fast=False, hold_seconds=0)
        for _ in range(50):
            await asyncio.sleep(3)
            await good_responses(pace, 1)
        return pace.requests_per_second

    assert run(slow_client()) == 10


@pytest.mark.parametrize("too_fast", [True, False])
def test_pace_counts_objections_to_simultaneous_requests_once(too_fast: bool) -> None:
    async def refused(count: int) -> tuple[float, float]:
        pace = Pace(20)
        given = await turns(pace, 8)
        for moment in given[:count]:
            await asyncio.sleep(0.01)
            pace.slow_down(moment, hold_seconds=1, too_fast=too_fast)
        return pace.requests_per_second, pace.ceiling

    assert run(refused(8)) == pytest.approx(run(refused(1)), rel=1e-3)


@pytest.mark.parametrize("too_fast", [True, False])
def test_pace_without_a_limit_slows_down_from_the_rate_of_the_last_second(too_fast: bool) -> None:
    async def refused(before: int, rate: float) -> float:
        pace = Pace()
        for interval_seconds, count in ((0.001, before), (1 / rate, 50)):
            for _ in range(count):
                await good_responses(pace, 1)
                await asyncio.sleep(interval_seconds)
        await objection(pace, too_fast=too_fast)
        return pace.requests_per_second

    assert 2 <= run(refused(500, rate=10)) == run(refused(0, rate=10)) <= 5.5
    assert run(refused(0, rate=20)) == pytest.approx(2 * run(refused(0, rate=10)), rel=0.1)


@pytest.mark.parametrize("too_fast", [True, False])
def test_pace_never_rises_above_a_very_low_limit_after_an_objection(too_fast: bool) -> None:
    async def refused() -> float:
        pace = Pace(SLOWEST / 5)
        await objection(pace, too_fast=too_fast)
        return pace.requests_per_second

    assert run(refused()) <= SLOWEST / 5


@pytest.mark.parametrize(("limit", "delay"), [(None, 2), (20, 2), (2, 20)])
def test_pace_obeys_the_lower_of_its_limit_and_that_of_robots_txt(limit: float | None, delay: float) -> None:
    pace = Pace(limit)
    pace.limit(delay)
    assert most_in_a_window(run(good_responses(pace, 50))) == 2


def test_pace_stays_below_the_limit_of_robots_txt_after_many_503() -> None:
    async def overloaded() -> float:
        pace = Pace(20)
        pace.limit(2)
        for _ in range(20):
            await objection(pace, too_fast=False)
        return pace.requests_per_second

    assert run(overloaded()) == 2 / 8


@dataclass
class BucketServer:
    """A host with a token bucket of 20 requests per second and a burst of 20. It sends 429 to all other requests."""

    response_seconds: float
    rate: float = 20
    tokens: float = 20
    at: float = START
    arrived: list[float] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    async def request(self) -> bool:
        self.arrived.append(now())
        self.tokens = min(20, self.tokens + self.rate * (now() - self.at))
        self.at = now()
        is_good = self.tokens >= 1
        self.tokens -= is_good
        await asyncio.sleep(self.response_seconds)
        (self.good if is_good else self.refused).append(now())
        return is_good


async def crawl(server: BucketServer, requests: int, workers: int = 8) -> None:
    """A crawl without a limit that retries refused requests."""
    pace, remaining = Pace(), iter(range(requests))

    async def work() -> None:
        for _ in remaining:
            while True:
                requested_at = await pace.wait()
                if await server.request():
                    pace.speed_up()
                    break
                pace.slow_down(requested_at, hold_seconds=0.5, too_fast=True)

    await asyncio.gather(*(work() for _ in range(workers)))


@pytest.mark.parametrize("response_seconds", [0.001, 0.03, 0.3])
def test_pace_learns_the_limit_of_a_host_from_its_first_429(response_seconds: float) -> None:
    server = BucketServer(response_seconds)
    run(crawl(server, requests=800), random_lateness(0.003))
    learned = server.refused[0]
    assert len(server.refused) <= 8, "only requests that were already sent"
    assert most_in_a_window(moment for moment in server.arrived if moment > learned) <= 20
    served = [moment for moment in server.good if moment > learned]
    assert len(served) / (server.good[-1] - learned) > 10 / 1.05
