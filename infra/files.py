"""Atomic writes, content hashes and the lock of a folder."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from infra.errors import BusyError


def sha256_of(data: bytes) -> str:
    """The SHA-256 of the bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path in the same folder and move it to `path` after the block.

    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: readers see the old content or the new one."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes during the block.

    Raises:
        BusyError: another process has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "run.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"Another run is using {folder}. Wait until it ends, or use another workspace.") from None
    with lock:
        yield
