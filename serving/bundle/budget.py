"""Memory that several threads share: who wants more than is left waits until others are done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """So many bytes for all threads together."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._left = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int, timeout_seconds: float | None = None) -> Iterator[None]:
        """Hold bytes for the time of the block; who wants more than all of them gets them alone.

        Raises TimeoutError where they do not become free in time.
        """
        wanted = min(size_bytes, self.size_bytes)
        with self._changed:
            if not self._changed.wait_for(lambda: self._left >= wanted, timeout_seconds):
                raise TimeoutError(f"{wanted} bytes did not become free within {timeout_seconds} s.")
            self._left -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._left += wanted
                self._changed.notify_all()
