"""The pace of requests, on an event loop whose clock jumps from timer to timer: hours pass at once."""

import asyncio
import itertools
import math
import random
import selectors
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from tasks.crawl.pace import Pace, remembered

Result = TypeVar("Result")
Lateness = Callable[[], float]
START = 100_000.0  # a real clock is at some such number, too


class JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: the time that it should have waited has passed when it returns, and what is too late."""

    def __init__(self, late: Lateness) -> None:
        super().__init__()
        self.now = START
        self.late = late

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and for no timer"
        if timeout > 0:
            self.now += timeout + self.late()
        assert self.now < 1e8, "somebody waits for years"
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop with such a clock, that never shows the same moment twice, as no real one does."""

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


async def moments(pace: Pace, count: int) -> list[float]:
    """When each of several requests that all ask at once is let through."""
    passed: list[float] = []

    async def request() -> None:
        passed.append(await pace.wait())

    await asyncio.gather(*(request() for _ in range(count)))
    return passed


async def answered(pace: Pace, count: int) -> list[float]:
    """When each of several requests is let through that are made one after the other, all with good answers."""
    passed = []
    for _ in range(count):
        passed.append(await pace.wait())
        pace.speed_up()
    return passed


def gaps(passed: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(passed)]


def most_in_a_window(passed: Iterable[float], seconds: float = 1.0) -> int:
    """The largest number of moments in any window of so many seconds."""
    ordered, most, first = sorted(passed), 0, 0
    for last, moment in enumerate(ordered):
        while ordered[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


ON_TIME: Lateness = lambda: 0.0  # noqa: E731


def a_few_ms() -> Lateness:
    rng = random.Random("late")
    return lambda: rng.uniform(0, 0.003)


def now_and_then_half_a_second() -> Lateness:
    """As of a process that was not let run, or a loop in which somebody worked for long."""
    rng = random.Random("busy")
    return lambda: rng.uniform(0, 0.5) if rng.random() < 0.1 else 0.0


RATES = [0.5, 1, 5, 20, 100]
SLOWEST = 1 / 60  # below this no refusal brings the pace


@pytest.mark.parametrize("timers", [lambda: ON_TIME, a_few_ms], ids=["on time", "late"])
@pytest.mark.parametrize("rate", RATES)
def test_n_requests_take_little_longer_than_the_limit_alone_would_let_them(
    rate: float, timers: Callable[[], Lateness]
) -> None:
    passed = run(moments(Pace(rate), 200), timers())
    assert passed[-1] - START <= 1.05 * 200 / rate


@pytest.mark.parametrize(
    "timers",
    [lambda: ON_TIME, a_few_ms, now_and_then_half_a_second],
    ids=["on time", "late", "very late now and then"],
)
@pytest.mark.parametrize("rate", RATES)
def test_no_second_has_more_requests_than_the_limit_allows(rate: float, timers: Callable[[], Lateness]) -> None:
    passed = run(moments(Pace(rate), 200), timers())
    # Of a pace slower than one a second, the window is as long as one request may take.
    assert most_in_a_window(passed, max(1, 1 / rate)) <= max(1, rate)


def test_requests_come_evenly_and_not_in_bursts() -> None:
    passed = run(moments(Pace(20), 100))
    assert min(gaps(passed)) >= 0.045
    assert max(gaps(passed)) <= 0.055


def test_turns_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    async def asked() -> list[int]:
        pace, order = Pace(5), list[int]()

        async def request(number: int) -> None:
            await asyncio.sleep(number / 1000)
            await pace.wait()
            order.append(number)

        await asyncio.gather(*(request(number) for number in range(20)))
        return order

    assert run(asked()) == list(range(20))


async def test_on_a_real_clock_it_is_the_same() -> None:
    passed = await moments(Pace(50), 20)
    assert most_in_a_window(passed, 0.2) <= 11
    assert 19 / 50 <= passed[-1] - passed[0] < 1.5


def test_a_turn_says_when_it_was_given() -> None:
    async def waited() -> None:
        pace = Pace(1)
        for _ in range(3):
            assert await pace.wait() == pytest.approx(now(), abs=1e-5)

    run(waited())


def test_one_who_gives_up_waiting_keeps_nobody_else_from_it() -> None:
    async def given_up() -> list[float]:
        pace = Pace(1)
        await pace.wait()
        impatient = asyncio.create_task(pace.wait())
        others = asyncio.create_task(moments(pace, 2))
        await asyncio.sleep(0.5)
        impatient.cancel()
        return await others

    assert run(given_up()) == pytest.approx([START + 1, START + 2], abs=0.1)


@pytest.mark.parametrize("rate", RATES)
def test_there_is_no_burst_after_a_silence(rate: float) -> None:
    async def after_a_silence() -> list[float]:
        pace = Pace(rate)
        await moments(pace, 5)
        await asyncio.sleep(60)
        return await moments(pace, 110)

    passed = run(after_a_silence())
    assert most_in_a_window(passed, max(1, 1 / rate)) <= max(1, rate)
    assert passed[2] - passed[0] >= 2 / rate


@pytest.mark.parametrize("unlimited", [None, 0])
def test_no_limit_lets_everybody_through_at_once(unlimited: float | None) -> None:
    assert run(moments(Pace(unlimited), 1000))[-1] - START < 0.1


def test_a_hold_reaches_those_who_wait_already() -> None:
    async def held() -> list[float]:
        pace = Pace(1)
        asking = asyncio.create_task(moments(pace, 4))
        await asyncio.sleep(0.5)
        pace.slow_down(START, hold_seconds=10, too_fast=False)
        return await asking

    first, *others = run(held())
    assert first == pytest.approx(START, abs=1e-3)
    assert others[0] == pytest.approx(START + 10.5, abs=1e-3)
    # And those behind them do not come all at once when it is over.
    assert min(gaps(others)) >= 2


def test_a_hold_does_not_end_earlier_because_of_a_shorter_one() -> None:
    async def held() -> tuple[float, float]:
        pace = Pace()
        asked_at = await pace.wait()
        pace.slow_down(asked_at, hold_seconds=60, too_fast=False)
        pace.slow_down(asked_at, hold_seconds=2, too_fast=False)
        return await pace.wait(), pace.held_seconds

    moment, held_seconds = run(held())
    assert moment == pytest.approx(START + 60, abs=1e-3)
    assert held_seconds == pytest.approx(60, abs=1e-3)


def test_the_seconds_of_holds_that_overlap_count_once() -> None:
    async def held() -> float:
        pace = Pace()
        asked_at = await pace.wait()
        pace.slow_down(asked_at, hold_seconds=10, too_fast=False)
        await asyncio.sleep(5)
        pace.slow_down(asked_at, hold_seconds=10, too_fast=False)
        return pace.held_seconds

    assert run(held()) == pytest.approx(15, abs=1e-3)


def test_too_fast_lowers_the_ceiling_below_the_pace_that_was_refused_and_it_is_not_exceeded_again() -> None:
    async def refused() -> tuple[list[float], list[float], float]:
        pace, paces = Pace(20), list[float]()
        await answered(pace, 30)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=True)
        learnt, passed = pace.ceiling, []
        for _ in range(500):
            passed += await answered(pace, 1)
            paces.append(pace.requests_per_second / pace.ceiling)
        return passed, paces, learnt

    passed, paces, learnt = run(refused())
    assert 10 <= learnt < 20
    assert most_in_a_window(passed) <= learnt * 1.05
    assert max(paces) <= 1
    # It is used, too: good answers bring the pace back to it, and not at once.
    assert paces[0] < 0.6
    assert min(paces[30:]) > 0.99


def test_what_a_host_said_holds_as_long_as_the_run() -> None:
    async def refused() -> tuple[float, float, float]:
        pace = Pace(20)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=True)
        first = pace.ceiling
        await asyncio.sleep(3600)
        await answered(pace, 500)
        return first, pace.ceiling, pace.requests_per_second

    assert run(refused()) == (10, 10, 10)


def test_what_is_left_of_a_ceiling_depends_on_how_long_ago_it_was_learnt() -> None:
    assert remembered(10, 0) == 10
    assert remembered(10, 3600) == 20
    assert 10 < remembered(10, 60) < 10.2
    assert remembered(math.inf, 60) == math.inf
    assert remembered(10, 1e12) > 1e9


def test_a_ceiling_that_is_refused_again_is_lowered_again() -> None:
    async def refused_twice() -> tuple[float, float]:
        pace = Pace(20)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=True)
        first = pace.ceiling
        await answered(pace, 50)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=True)
        return first, pace.ceiling

    first, second = run(refused_twice())
    assert first / 3 < second < first


def test_a_ceiling_of_an_earlier_run_holds_from_the_first_request_on() -> None:
    assert most_in_a_window(run(answered(Pace(20, ceiling=5), 100))) <= 5
    assert most_in_a_window(run(answered(Pace(None, ceiling=5), 100))) <= 5


def test_a_host_that_is_overloaded_halves_the_pace_and_good_answers_bring_it_back_gradually() -> None:
    async def overloaded() -> list[float]:
        pace, paces = Pace(20), list[float]()
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=False)
        paces.append(pace.requests_per_second)
        for _ in range(30):
            await answered(pace, 1)
            paces.append(pace.requests_per_second)
        assert pace.ceiling == math.inf
        return paces

    paces = run(overloaded())
    assert paces[0] == 10
    assert paces == sorted(paces)
    assert paces[5] < 17, "it comes back at once"
    assert paces[7] < 20, "it comes back at once"
    assert paces[20] == 20
    assert max(paces) == 20


async def overloaded_at_twenty_a_second() -> Pace:
    """A pace without a limit, after a host objected that gave twenty answers a second."""
    pace = Pace()
    for _ in range(30):
        await answered(pace, 1)
        await asyncio.sleep(0.05)
    pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=False)
    return pace


def test_without_a_limit_it_comes_back_to_what_the_host_stood_and_then_feels_its_way() -> None:
    async def overloaded() -> tuple[list[float], list[float]]:
        pace, moments, paces = await overloaded_at_twenty_a_second(), list[float](), list[float]()
        for _ in range(200):
            moments += await answered(pace, 1)
            paces.append(pace.requests_per_second)
        return moments, paces

    moments, paces = run(overloaded())
    assert paces[0] == pytest.approx(10, rel=0.1)
    assert paces[20] == pytest.approx(20, rel=0.1)
    # Beyond it is faster by some percent a second, however many answers there are in it.
    seconds = moments[-1] - moments[20]
    assert 1.03**seconds < paces[-1] / paces[20] < 1.06**seconds


def test_what_the_host_stood_when_it_was_asked_faster_is_what_it_stands() -> None:
    async def overloaded_again() -> tuple[float, float]:
        pace = await overloaded_at_twenty_a_second()
        await answered(pace, 200)
        before = pace.requests_per_second
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=False)
        await answered(pace, 20)
        return before, pace.requests_per_second

    before, afterwards = run(overloaded_again())
    assert before > 25
    assert afterwards == pytest.approx(before, rel=0.06)


def test_a_silence_is_no_reason_to_go_much_faster() -> None:
    async def silent() -> tuple[float, float]:
        pace = await overloaded_at_twenty_a_second()
        await answered(pace, 50)
        before = pace.requests_per_second
        await asyncio.sleep(600)
        await answered(pace, 3)
        return before, pace.requests_per_second

    before, afterwards = run(silent())
    assert before < afterwards < 1.06 * before


def test_a_host_that_was_overloaded_several_times_stands_what_it_stood_before() -> None:
    async def overloaded() -> float:
        pace = Pace(20)
        for _ in range(3):
            pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=False)
        assert pace.requests_per_second == 20 / 2 / 2 / 2
        await answered(pace, 45)
        return pace.requests_per_second

    assert run(overloaded()) == 20


def test_good_answers_to_requests_that_never_had_to_wait_do_not_raise_the_pace() -> None:
    async def slow_host() -> float:
        pace = Pace(20)
        pace.slow_down(await pace.wait(), hold_seconds=0, too_fast=False)
        for _ in range(50):
            await asyncio.sleep(3)
            await answered(pace, 1)
        return pace.requests_per_second

    assert run(slow_host()) == 10


@pytest.mark.parametrize("too_fast", [True, False])
def test_refusals_of_requests_that_were_under_way_do_not_count_twice(too_fast: bool) -> None:
    async def refused(times: int) -> tuple[float, float]:
        pace = Pace(20)
        asked = await moments(pace, 8)
        for moment in asked[:times]:
            await asyncio.sleep(0.01)
            pace.slow_down(moment, hold_seconds=1, too_fast=too_fast)
        return pace.requests_per_second, pace.ceiling

    assert run(refused(8)) == pytest.approx(run(refused(1)), rel=1e-3)


def test_a_refusal_of_what_was_asked_afterwards_does_count() -> None:
    async def refused() -> float:
        pace = Pace(20)
        for _ in range(3):
            pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=False)
        return pace.requests_per_second

    assert run(refused()) == 20 / 2 / 2 / 2


@pytest.mark.parametrize("too_fast", [True, False])
def test_without_a_limit_the_answers_of_the_last_second_decide(too_fast: bool) -> None:
    async def refused(before: int, rate: float) -> float:
        pace = Pace()
        for interval_seconds, count in ((0.001, before), (1 / rate, 50)):
            for _ in range(count):
                await answered(pace, 1)
                await asyncio.sleep(interval_seconds)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=too_fast)
        return pace.requests_per_second

    assert 2 <= run(refused(500, rate=10)) <= 5.5
    assert run(refused(500, rate=10)) == run(refused(0, rate=10))
    assert run(refused(0, rate=20)) == pytest.approx(2 * run(refused(0, rate=10)), rel=0.1)


def test_however_often_it_is_refused_it_never_stands_still() -> None:
    async def refused() -> float:
        pace = Pace()
        for _ in range(100):
            pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=True)
        before = now()
        await pace.wait()
        await pace.wait()
        assert now() - before <= 2.1 / SLOWEST
        return pace.requests_per_second

    assert run(refused()) == SLOWEST


def test_a_refusal_never_makes_it_faster_than_a_limit_that_is_slower_still() -> None:
    async def refused(too_fast: bool) -> float:
        pace = Pace(SLOWEST / 5)
        pace.slow_down(await pace.wait(), hold_seconds=1, too_fast=too_fast)
        return pace.requests_per_second

    assert run(refused(True)) <= SLOWEST / 5
    assert run(refused(False)) <= SLOWEST / 5


@pytest.mark.parametrize("before", [None, 20])
def test_a_limit_that_the_host_asks_for_lowers_the_pace(before: float | None) -> None:
    async def limited() -> tuple[float, list[float]]:
        pace = Pace(before)
        pace.limit(2)
        return pace.requests_per_second, await answered(pace, 50)

    requests_per_second, passed = run(limited())
    assert requests_per_second == 2
    assert most_in_a_window(passed) == 2


def test_a_limit_above_the_one_there_is_changes_nothing() -> None:
    pace = Pace(1)
    pace.limit(20)
    assert most_in_a_window(run(answered(pace, 50))) == 1


@dataclass
class BucketServer:
    """A host that lets 20 requests a second through and 20 at once, as a token bucket, and answers 429 to others."""

    answer_seconds: float
    rate: float = 20
    burst: float = 20
    tokens: float = 20
    at: float = START
    arrived: list[float] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    async def ask(self) -> bool:
        self.arrived.append(now())
        self.tokens = min(self.burst, self.tokens + self.rate * (now() - self.at))
        self.at = now()
        is_good = self.tokens >= 1
        self.tokens -= is_good
        await asyncio.sleep(self.answer_seconds)
        (self.good if is_good else self.refused).append(now())
        return is_good


async def crawl(server: BucketServer, requests: int, workers: int = 8) -> None:
    """So many requests, by an unlimited client that begins anew with what was refused."""
    pace, remaining = Pace(), iter(range(requests))

    async def work() -> None:
        for _ in remaining:
            while True:
                asked_at = await pace.wait()
                if await server.ask():
                    pace.speed_up()
                    break
                pace.slow_down(asked_at, hold_seconds=0.5, too_fast=True)

    await asyncio.gather(*(work() for _ in range(workers)))


@pytest.mark.parametrize("answer_seconds", [0.001, 0.01, 0.03, 0.1, 0.2, 0.3])
def test_a_host_that_takes_twenty_a_second_teaches_it_with_its_first_refusal(answer_seconds: float) -> None:
    server = BucketServer(answer_seconds)
    run(crawl(server, requests=800), a_few_ms())
    learnt = server.refused[0]
    afterwards = [moment for moment in server.arrived if moment > learnt]
    assert len(server.refused) <= 8, "those that were under way"
    assert most_in_a_window(afterwards) <= 20
    served = [moment for moment in server.good if moment > learnt]
    # Half of what it takes, but for the margin that keeps all windows below the ceiling.
    assert len(served) / (server.good[-1] - learnt) > 10 / 1.05
