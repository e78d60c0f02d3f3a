"""A memory budget shared by several threads: a thread waits until enough of it is free."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """`size_bytes` of memory, shared by all threads."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free_bytes = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int, timeout_seconds: float | None = None) -> Iterator[None]:
        """Hold `size_bytes` inside the block. A request for more than the whole budget waits for the whole budget.

        Raises:
            TimeoutError: the bytes did not become free within `timeout_seconds`.
        """
        needed = min(size_bytes, self.size_bytes)
        with self._changed:
            if not self._changed.wait_for(lambda: self._free_bytes >= needed, timeout_seconds):
                raise TimeoutError(f"{needed} bytes did not become free within {timeout_seconds} s.")
            self._free_bytes -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free_bytes += needed
                self._changed.notify_all()
