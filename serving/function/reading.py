"""How long and how much a request's body may be: who sends too slowly or too much loses the request.

Slow headers are the business of what stands in front: gunicorn reads them before anything here is asked.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

import flask

from ..bundle.budget import Budget
from ..bundle.errors import RequestError
from .sources import MAX_BYTES

BODY_SECONDS = (8.0, 55.0)  # for a whole body to arrive: the smallest and the largest; Cloud Run itself waits 60
_BODY_BYTES_A_SECOND = 200_000  # of a slow phone
_WATCH_SECONDS = 0.5
MEMORY_SECONDS = 5.0  # for others to be done with theirs; less than a body has to arrive, or its sender would be blamed

_LARGE_BYTES = 1024 * 1024
_LARGE_BODIES_BYTES = 84 * 1024 * 1024
_COPIES = 3  # of a body at one time: as it came, as text, as an image's bytes
_NAMED_POSTERS_BYTES = 8 * MAX_BYTES
_CHUNK_BYTES = 64 * 1024
_DRAINED_BYTES = 64 * 1024

_large_bodies = Budget(_LARGE_BODIES_BYTES)
_named_posters = Budget(_NAMED_POSTERS_BYTES)


class _Metered:
    """A body that needs its share of the memory for large ones as soon as it turns out to be one.

    All of it at once: bodies that each had a part and waited for the rest would wait for each other. So one that is
    large and arrives slowly keeps other large ones out, for as long as it may take; small ones never wait.
    """

    def __init__(self, body: IO[bytes], length: int | None, held: ExitStack) -> None:
        self._body, self._held = body, held
        self._needed = _LARGE_BODIES_BYTES if length is None else _COPIES * length
        self._small_bytes_left = _LARGE_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """As a file does. Raises RequestError (503) where others keep the memory for too long."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK_BYTES), b""))
        data = self._body.read(min(size, _CHUNK_BYTES))
        if self._small_bytes_left >= 0:
            self._small_bytes_left -= len(data)
            if self._small_bytes_left < 0:
                self._held.enter_context(_in_memory(_large_bodies, self._needed))
        return data


@contextmanager
def _in_memory(budget: Budget, size_bytes: int) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(budget.hold(size_bytes, MEMORY_SECONDS))
        except TimeoutError as error:
            raise RequestError(503, "busy", "Too many large posters are being read; try again.") from error
        yield


@contextmanager
def named_poster_in_memory() -> Iterator[None]:
    """In this block a poster that a request names may be in memory; RequestError (503) where there are too many."""
    with _in_memory(_named_posters, MAX_BYTES):
        yield


@contextmanager
def received(request: flask.Request) -> Iterator[None]:
    """In this block the request's body may be read, and is in memory.

    Raises RequestError: 408 where it arrives too slowly (see `SlowSenders`, whose `limited` has to be around what
    reads), 503 where it is large and others keep the memory for too long.
    """
    with ExitStack() as held:
        request.environ["wsgi.input"] = _Metered(request.environ["wsgi.input"], request.content_length, held)
        yield


def drain(request: flask.Request) -> None:
    """Read what is left of a body, or gunicorn would look for the next request in it.

    Up to as much as gunicorn itself would; it closes a connection with more.
    """
    if "gunicorn.socket" in request.environ:
        with suppress(RequestError, OSError), slow_senders.limited(request):
            left = _DRAINED_BYTES
            while left > 0 and (data := request.environ["wsgi.input"].read(left)):
                left -= len(data)


class SlowSenders:
    """Ends the reading of bodies that do not arrive in time.

    A timeout of the socket would not do: it begins anew with each byte. So one thread looks at the clock, and closes
    the side of the connection that is read from; its other side still takes the answer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[socket.socket, float] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limited(self, request: flask.Request) -> Iterator[None]:
        """Read the request's body in this block; RequestError (408) where it took too long for its length."""
        connection = request.environ.get("gunicorn.socket")
        if connection is None:  # another server, which has its own limits
            yield
            return
        least, most = BODY_SECONDS
        length = request.content_length
        seconds = most / 2 if length is None else min(least + length / _BODY_BYTES_A_SECOND, most)
        deadline = time.monotonic() + seconds
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="slow senders", daemon=True)
                self._thread.start()
            self._readings[connection] = deadline
        try:
            yield
        finally:
            with self._lock:
                in_time = self._readings.pop(connection, None) is not None
            if not in_time:  # instead of whatever the end in the middle of a body led to
                raise RequestError(408, "too_slow", f"The request did not arrive within {seconds:.0f} seconds.")

    def _watch(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            with self._lock:
                late = [connection for connection, deadline in self._readings.items() if deadline <= now]
                for connection in late:
                    del self._readings[connection]
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RD)


slow_senders = SlowSenders()
