"""The lock of a folder that several commands use at the same time."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keep other processes out of the block of the same folder, which is created if necessary.

    If another process is in it, a log message names that process and what it is `doing`, such as "adds rows to", and
    this one waits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock"), folder / ".lock-holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s %s. This process waits for it.", _read(holder), folder)
        lock.acquire()
    try:
        holder.write_text(f"Process {os.getpid()} {doing}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "Another process uses"
    except FileNotFoundError:
        return "Another process uses"
