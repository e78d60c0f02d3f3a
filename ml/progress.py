"""Progress of a long step on a terminal: one line that is drawn again and again, or a line now and then."""

import sys
import time
from typing import TextIO

from ml.reporting import NullReporter

_LINE_SECONDS = 0.2
_LOG_SECONDS = 15.0
_BAR_WIDTH = 30


class TerminalReporter(NullReporter):
    """Draws a bar with the time that is left; where the stream is no terminal, a plain line at times."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._what = ""
        self._started = self._shown = 0.0

    def progress(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        terminal = self._stream.isatty()
        if what != self._what:
            self._what, self._started, self._shown = what, now, now if not terminal else 0.0
        if done < total and now - self._shown < (_LINE_SECONDS if terminal else _LOG_SECONDS):
            return
        self._shown = now
        left = (now - self._started) / max(done, 1) * (total - done)
        if not terminal:
            self._stream.write(f"{what}: {done} of {total}, {left:.0f} s left\n")
        else:
            filled = round(_BAR_WIDTH * done / max(total, 1))
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            end = "\n" if done >= total else ""
            self._stream.write(f"\r{what} [{bar}] {done}/{total}, {left:.0f} s left \x1b[K{end}")
        self._stream.flush()
