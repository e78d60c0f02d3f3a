"""The pace of requests, and a few workers for many items."""

import asyncio
import itertools
import time

import pytest

from tasks.myanimelist.concurrency import Pace, for_each


async def moments(pace: Pace, count: int) -> list[float]:
    """When each of several requests that all ask at once is let through, in seconds from the first."""
    passed: list[float] = []

    async def request() -> None:
        await pace.wait()
        passed.append(time.monotonic())

    await asyncio.gather(*(request() for _ in range(count)))
    return [moment - passed[0] for moment in passed]


async def test_n_requests_take_n_minus_one_intervals_and_none_comes_early() -> None:
    passed = await moments(Pace(requests_per_second=20), 6)
    gaps = [later - earlier for earlier, later in itertools.pairwise(passed)]
    assert min(gaps) >= 0.049
    assert passed[-1] < 1.0


async def test_there_is_no_burst_after_a_silence() -> None:
    pace = Pace(requests_per_second=20)
    await pace.wait()
    await asyncio.sleep(0.2)
    assert (await moments(pace, 3))[-1] >= 0.099


@pytest.mark.parametrize("unlimited", [None, 0])
async def test_no_limit_lets_everybody_through_at_once(unlimited: float | None) -> None:
    assert (await moments(Pace(unlimited), 100))[-1] < 0.5


async def test_a_hold_reaches_those_who_wait_already() -> None:
    pace = Pace(requests_per_second=20)
    await pace.wait()
    began = time.monotonic()
    waiting = asyncio.create_task(pace.wait())
    await asyncio.sleep(0.01)
    pace.hold(0.2)
    await waiting
    assert time.monotonic() - began >= 0.2


async def test_each_item_is_worked_on_once_and_few_at_a_time() -> None:
    done: list[int] = []
    under_way, most = 0, 0

    async def work(item: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        done.append(item)

    await for_each(range(50), work, concurrency=4)
    assert sorted(done) == list(range(50))
    assert most == 4


async def test_the_first_failure_ends_the_work_and_is_raised_as_it_is() -> None:
    begun: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        await asyncio.sleep(0)
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        await for_each(range(1000), work, concurrency=2)
    assert len(begun) < 10
