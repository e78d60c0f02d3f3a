"""Moves the clock of each Python process that finds this folder in PYTHONPATH and a file in MOVED_CLOCK.

The file has the seconds that the clock has in addition to the right time. It is read each time, so all processes move
at once when it is replaced. `time.time`, `datetime.now` and what is based on them are moved; files, sqlite's own
functions and compiled code without Python's clock are not.
"""

import ctypes
import gc
import os
import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path

_FILE = Path(os.environ["MOVED_CLOCK"])
_right_time, _right_time_ns, _right_now = time.time, time.time_ns, datetime.__dict__["now"]


def _seconds() -> float:
    return float(_FILE.read_text())


def _now(cls: type[datetime], tz: tzinfo | None = None) -> datetime:
    right: datetime = _right_now.__get__(None, cls)(tz)
    return right + timedelta(seconds=_seconds())


def _replace(cls: type, **methods: object) -> None:
    """Replace class methods of a type that is written in C. A subclass would not be the type that libraries know."""
    (attributes,) = gc.get_referents(cls.__dict__)
    attributes |= {name: classmethod(method) for name, method in methods.items()}  # type: ignore[arg-type]
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))


time.time = lambda: _right_time() + _seconds()
time.time_ns = lambda: _right_time_ns() + int(_seconds() * 1e9)
_replace(datetime, now=_now, utcnow=lambda cls: _now(cls, UTC).replace(tzinfo=None), today=_now)
_replace(date, today=lambda cls: cls.fromtimestamp(time.time()))
