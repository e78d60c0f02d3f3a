"""Limits the time and the memory that request bodies may take.

Slow headers are not handled here: gunicorn reads the headers before it calls the function.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

import flask

from ..bundle.budget import Budget
from .errors import RequestError
from .named_posters import MAX_BYTES

BODY_SECONDS = (8.0, 55.0)  # shortest and longest time for a whole body to arrive; Cloud Run waits 60
_MIN_BYTES_PER_SECOND = 200_000  # the upload rate of a slow phone
_CHECK_SECONDS = 0.5
MEMORY_TIMEOUT_SECONDS = 5.0  # shorter than the body's time limit, or a sender who waits for memory would get a 408

_LARGE_BYTES = 1024 * 1024
_LARGE_BODIES_BYTES = 84 * 1024 * 1024
_COPIES = 3  # of a body at the same time: as received, as text, as an image's bytes
_NAMED_POSTERS_BYTES = 8 * MAX_BYTES
_CHUNK_BYTES = 64 * 1024
_DRAINED_BYTES = 64 * 1024

_large_bodies = Budget(_LARGE_BODIES_BYTES)
_named_posters = Budget(_NAMED_POSTERS_BYTES)


class _MeteredBody:
    """A request body that reserves memory once it turns out to be large.

    It reserves all of it at once: bodies that hold a part and wait for the rest could wait for each other. So a large
    body that arrives slowly blocks other large bodies until its time limit. Small bodies never wait.
    """

    def __init__(self, body: IO[bytes], length: int | None, reserved: ExitStack) -> None:
        self._body, self._reserved = body, reserved
        self._needed_bytes = _LARGE_BODIES_BYTES if length is None else _COPIES * length
        self._small_bytes_left = _LARGE_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """Read like a file. Raises RequestError (503) if other requests use the memory for too long."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK_BYTES), b""))
        data = self._body.read(min(size, _CHUNK_BYTES))
        if self._small_bytes_left >= 0:
            self._small_bytes_left -= len(data)
            if self._small_bytes_left < 0:
                self._reserved.enter_context(_reserve(_large_bodies, self._needed_bytes))
        return data


@contextmanager
def _reserve(budget: Budget, size_bytes: int) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(budget.hold(size_bytes, MEMORY_TIMEOUT_SECONDS))
        except TimeoutError as error:
            raise RequestError(503, "busy", "Too many large posters are being read; try again.") from error
        yield


@contextmanager
def reserve_named_poster() -> Iterator[None]:
    """Reserve memory for one named poster inside the block. Raises RequestError (503) if too many are in memory."""
    with _reserve(_named_posters, MAX_BYTES):
        yield


@contextmanager
def limit_memory(request: flask.Request) -> Iterator[None]:
    """Limit the memory of the request's body, which must be read inside the block.

    Reading raises RequestError (503) if the body is large and other requests use the memory for too long.
    """
    with ExitStack() as reserved:
        request.environ["wsgi.input"] = _MeteredBody(request.environ["wsgi.input"], request.content_length, reserved)
        yield


def drain(request: flask.Request) -> None:
    """Read the rest of a body. Otherwise gunicorn would take it for the next request.

    Reads as much as gunicorn itself would; it closes the connection if more is left.
    """
    if "gunicorn.socket" in request.environ:
        with suppress(RequestError, OSError), slow_senders.limit(request):
            left = _DRAINED_BYTES
            while left > 0 and (data := request.environ["wsgi.input"].read(left)):
                left -= len(data)


class SlowSenders:
    """Stops reading bodies that do not arrive in time.

    A socket timeout is not enough, because it restarts with each byte. So one thread checks the deadlines and shuts
    down the receiving side of late connections. The sending side stays open for the response.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, request: flask.Request) -> Iterator[None]:
        """Read the request's body inside this block. Raises RequestError (408) if it arrives too slowly."""
        connection = request.environ.get("gunicorn.socket")
        if connection is None:  # another server, which has its own limits
            yield
            return
        shortest, longest = BODY_SECONDS
        length = request.content_length
        seconds = longest / 2 if length is None else min(shortest + length / _MIN_BYTES_PER_SECOND, longest)
        deadline = time.monotonic() + seconds
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="slow senders", daemon=True)
                self._thread.start()
            self._deadlines[connection] = deadline
        try:
            yield
        finally:
            with self._lock:
                in_time = self._deadlines.pop(connection, None) is not None
            if not in_time:  # replaces the error that the truncated body caused
                raise RequestError(408, "too_slow", f"The request did not arrive within {seconds:.0f} seconds.")

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_SECONDS)
            now = time.monotonic()
            with self._lock:
                late = [connection for connection, deadline in self._deadlines.items() if deadline <= now]
                for connection in late:
                    del self._deadlines[connection]
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RD)


slow_senders = SlowSenders()
