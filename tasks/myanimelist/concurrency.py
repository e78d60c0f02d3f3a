"""How fast and how many at a time: the pace of requests to one host, and a few workers for many items."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


class Pace:
    """Spaces the requests to one host evenly: never two within `interval_seconds`, no burst at the start.

    A token bucket of the same rate lets a burst through after each silence, and bursts get people blocked.
    """

    def __init__(self, requests_per_second: float | None) -> None:
        self.interval_seconds = 1 / requests_per_second if requests_per_second else 0.0
        self._next = 0.0  # on the event loop's clock
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait for one's turn; turns are given in the order in which they were asked for."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            # Again and again, because `hold` may have moved the moment meanwhile.
            while (seconds := self._next - loop.time()) > 0:
                await asyncio.sleep(seconds)
            self._next = loop.time() + self.interval_seconds

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the host asked for it."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Do `work` for each item, at most `concurrency` at a time, with memory for only so many.

    The first exception ends all the work under way and is raised as it is.
    """
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
