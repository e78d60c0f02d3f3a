"""Files as this project writes them: beside their place and moved in, named by what they hold."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from infra.errors import BusyError


def sha256_of(data: bytes) -> str:
    """The sha256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def moved_in(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved to `path` when the block ends well, removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none."""
    with moved_in(path) as beside:
        beside.write_bytes(data)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for the length of the block, against other processes.

    Raises:
        BusyError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "run.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"Another run is working in {folder}; wait for its end, or use another workspace.") from None
    with lock:
        yield
