"""A few workers for many items."""

import asyncio
from collections.abc import Iterator

import pytest

from tasks.catalogue.workers import for_each


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


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_fewer_items_than_workers_are_all_done(count: int) -> None:
    done: list[int] = []

    async def work(item: int) -> None:
        await asyncio.sleep(0)
        done.append(item)

    await for_each(range(count), work, concurrency=8)
    assert sorted(done) == list(range(count))


async def test_items_are_taken_only_when_somebody_works_on_them() -> None:
    taken, done = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 101):
            assert taken - done <= 3
            yield taken

    async def work(item: int) -> None:
        nonlocal done
        await asyncio.sleep(0)
        done += 1

    await for_each(items(), work, concurrency=3)
    assert (taken, done) == (100, 100)


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


async def test_a_failure_stops_those_who_are_at_work_and_waits_until_they_have_cleaned_up() -> None:
    cleaned: list[int] = []

    async def work(item: int) -> None:
        if item == 0:
            await asyncio.sleep(0.001)
            raise ValueError("zero")
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.append(item)

    with pytest.raises(ValueError, match="zero"):
        await for_each(range(4), work, concurrency=4)
    assert sorted(cleaned) == [1, 2, 3]


async def test_of_several_failures_at_once_one_is_raised_and_no_group() -> None:
    async def work(item: int) -> None:
        raise ValueError(str(item))

    with pytest.raises(ValueError, match="0"):
        await for_each(range(4), work, concurrency=4)


async def test_a_failure_of_the_items_themselves_is_raised_as_it_is() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    async def work(item: int) -> None:
        await asyncio.sleep(0)

    with pytest.raises(ValueError, match="no more"):
        await for_each(items(), work, concurrency=2)


async def test_work_that_is_cancelled_from_outside_is_cancelled() -> None:
    begun = asyncio.Event()

    async def work(item: int) -> None:
        begun.set()
        await asyncio.sleep(3600)

    working = asyncio.create_task(for_each(range(4), work, concurrency=2))
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
