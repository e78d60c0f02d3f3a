"""What the page knows about the model in use before it has sent a poster to the function."""

import time
from collections.abc import Callable
from threading import Event, Lock, Thread

from .errors import FunctionError
from .responses import ModelIdentity

KNOWN_SECONDS = 60.0
ERROR_SECONDS = 5.0
WAIT_SECONDS = 1.0  # the page must not wait for a function that is starting up


class LiveModel:
    """The identity of the model in use, asked for in a thread and remembered for a minute.

    Args:
        ask: asks the function. Raises FunctionError.
    """

    def __init__(self, ask: Callable[[], ModelIdentity]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._known: ModelIdentity | FunctionError | None = None
        self._asks_again_at = 0.0
        self._asked: Event | None = None  # set when the running request is done

    def current(self) -> ModelIdentity | FunctionError | None:
        """The model in use, the error of the last request, or None if the function has not responded yet.

        An identity that is older than a minute is returned while the next request runs.
        """
        with self._lock:
            self._ask_if_due()
            known, asked = self._known, self._asked
        if asked is None or isinstance(known, ModelIdentity):
            return known
        asked.wait(WAIT_SECONDS)
        return self._known

    def ask_early(self) -> None:
        """Ask before the first visitor comes, who would not wait for a function that is starting up."""
        with self._lock:
            self._ask_if_due()

    def _ask_if_due(self) -> None:
        if self._asked is None and time.monotonic() >= self._asks_again_at:
            self._asked = Event()
            Thread(target=self._run, args=(self._asked,), name="asking for the model", daemon=True).start()

    def note(self, model: ModelIdentity) -> None:
        """Remember the model of a response."""
        with self._lock:
            self._known, self._asks_again_at = model, time.monotonic() + KNOWN_SECONDS

    def _run(self, asked: Event) -> None:
        try:
            self.note(self._ask())
        except FunctionError as error:
            with self._lock:
                self._known, self._asks_again_at = error, time.monotonic() + ERROR_SECONDS
        finally:
            with self._lock:
                self._asked = None
            asked.set()
