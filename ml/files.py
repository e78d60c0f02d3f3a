"""Files of a workspace that several commands use at the same time."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)


def temporary_path(file: Path) -> Path:
    """Where this process writes a file or folder before it is moved to `file`. Other processes use other names."""
    return file.with_name(f".{file.name}.{os.getpid()}.part")


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder and move it to `file` after the block.

    If the block raises, `file` stays as it was. A power cut leaves the old content or the new one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(file)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(file)
        sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the file's content, or the folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
