"""Shows the progress of long steps: a progress bar on a terminal, occasional lines otherwise."""

import sys
import time
from typing import TextIO

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from ml.reporting import NullReporter

_LOG_SECONDS = 5.0
_LINE = "{desc}{n_fmt} of {total_fmt} ({rate_noinv_fmt}, {remaining} left)"


class TerminalReporter(NullReporter):
    """Draws a bar with rate and remaining time. If the stream is not a terminal, it writes a line every 5 seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._what = ""
        self._first = self._done = 0
        self._started = self._shown = 0.0
        self._bar: tqdm | None = None

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        if what != self._what or done < self._done:
            self._begin(done, total, what, f" {unit}" if unit else "")
        self._done = done
        if self._bar is None:
            self._write_line(done, total, what, f" {unit}" if unit else "")
        else:
            self._bar.total = total  # it shrinks when a trial is pruned
            self._bar.update(done - self._bar.n)
        if done >= total:
            self._end()

    def _begin(self, done: int, total: int, what: str, unit: str) -> None:
        self._end()
        self._what, self._first = what, done
        self._started = self._shown = time.monotonic()
        if self._stream.isatty():
            # Work from before the first call must not count towards the rate.
            self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, file=self._stream, dynamic_ncols=True)

    def _write_line(self, done: int, total: int, what: str, unit: str) -> None:
        now = time.monotonic()
        if done < total and now - self._shown < _LOG_SECONDS:
            return
        self._shown = now
        line = tqdm.format_meter(
            done, total, now - self._started, prefix=f"{what}: ", unit=unit, initial=self._first, bar_format=_LINE
        )
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""
