"""A value that is loaded once for all concurrent requests."""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..bundle.errors import AnimeGenreError
from .errors import LASTING_CODES, RequestError, status_and_code

RETRY_SECONDS = 2.0  # after a temporary error, such as an unreachable bucket
PERMANENT_RETRY_SECONDS = 60.0  # after an error that lasts until somebody repairs the bundle or grants a role
WAIT_SECONDS = 50.0  # for a running load; Cloud Run ends a request after 60

_Value = TypeVar("_Value")


class LoadError(Exception):
    """A load that failed with an unexpected error, and the stack trace of that error."""

    def __init__(self, stack_trace: str) -> None:
        super().__init__(stack_trace)
        self.stack_trace = stack_trace


@dataclass(frozen=True)
class _Failure:
    """A failed load. It holds no exception, because a remembered exception keeps the requests that raised it."""

    status: int
    code: str
    message: str
    details: str = ""
    stack_trace: str | None = None

    def error(self) -> Exception:
        if self.stack_trace:
            return LoadError(self.stack_trace)
        return RequestError(self.status, self.code, self.message, self.details)


@dataclass
class _Attempt(Generic[_Value]):
    """One load, running or finished. After `outdated_at` (time.monotonic) the next request starts another one."""

    done: threading.Event
    outcome: _Value | _Failure | None = None
    outdated_at: float = float("inf")


class SharedLoad(Generic[_Value]):
    """Loads a value in a thread of its own. Requests that arrive meanwhile wait for it and share its outcome.

    An error is remembered for a while: requests then get it at once, without another load.

    Args:
        load: loads the value.
        kept_seconds: how long a loaded value is used before it is loaded again.
    """

    def __init__(self, load: Callable[[], _Value], kept_seconds: float = float("inf")) -> None:
        self._load = load
        self._kept_seconds = kept_seconds
        self._lock = threading.Lock()
        self._attempt: _Attempt[_Value] | None = None

    def start(self) -> None:
        """Start a load if none is running and there is no current outcome. Does not wait."""
        self._current()

    def get(self) -> _Value:
        """The value. Waits for a running load. Raises the errors of `get_if_loaded`."""
        return self._get(WAIT_SECONDS)

    def get_if_loaded(self) -> _Value:
        """The value, without waiting.

        Raises:
            RequestError: the load failed, or it is still running (503, "loading").
        """
        return self._get(0)

    def _get(self, wait_seconds: float) -> _Value:
        attempt = self._current()
        if not attempt.done.wait(wait_seconds):
            raise RequestError(503, "loading", "The model is still being loaded. Try again in a few seconds.")
        if isinstance(attempt.outcome, _Failure):
            raise attempt.outcome.error()
        return attempt.outcome  # type: ignore[return-value]

    def _current(self) -> _Attempt[_Value]:
        with self._lock:
            if self._attempt is None or self._attempt.outdated_at <= time.monotonic():
                self._attempt = _Attempt(threading.Event())
                threading.Thread(target=self._run, args=(self._attempt,), name="loading", daemon=True).start()
            return self._attempt

    def _run(self, attempt: _Attempt[_Value]) -> None:
        try:
            attempt.outcome, seconds = self._load(), self._kept_seconds
        except AnimeGenreError as error:
            status, code = status_and_code(error)
            attempt.outcome = _Failure(status, code, error.message, error.details)
            seconds = PERMANENT_RETRY_SECONDS if code in LASTING_CODES else RETRY_SECONDS
        except Exception:
            attempt.outcome = _Failure(500, "internal", "", stack_trace=traceback.format_exc())
            seconds = RETRY_SECONDS
        attempt.outdated_at = time.monotonic() + seconds
        attempt.done.set()
