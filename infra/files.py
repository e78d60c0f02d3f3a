"""Atomic writes, content hashes and the lock of a folder.

Temporary files are named `.{name}.{process id}.part`, so that two processes never write the same one.
"""

import hashlib
import os
import shutil
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


def temporary_path(path: Path) -> Path:
    """Where this process writes a file or folder before it is moved to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path in the same folder and move it to `path` after the block.

    If the block raises, the temporary file is removed and `path` stays as it was. A durable file is on the disk before
    it is moved, so that a power cut leaves the old content or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, durable: bool = True, mode: int = 0o666) -> None:
    """Write a file atomically: readers see the old content or the new one. `durable` is that of `atomic_write`.

    Whoever `mode` does not allow to read the file cannot read it at any time.
    """
    with atomic_write(path, durable) as temporary:
        temporary.touch(mode)
        temporary.write_bytes(data)


def move_folder(complete: Path, folder: Path) -> None:
    """Move a complete folder to `folder`, which is replaced if it exists. A power cut leaves no incomplete files."""
    for file in complete.rglob("*"):
        _sync(file)
    _sync(complete)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):  # another process may move the same content to the same place
        shutil.rmtree(folder, ignore_errors=True)
        complete.replace(folder)
    _sync(folder.parent)


def remove_temporary_files(folder: Path) -> None:
    """Remove what processes that were killed wrote into the folder and its subfolders before it was moved."""
    for pattern in (".*.part", "*/.*.part"):
        for path in folder.glob(pattern):
            process = path.name.split(".")[-2]
            if process.isdecimal() and int(process) != os.getpid() and _is_running(int(process)):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it belongs to another user
    return True


def _sync(path: Path) -> None:
    """Wait until the file's content, or the folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Lock a workspace against other processes during the block.

    Raises:
        BusyError: another process has locked it.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(workspace / "run.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"Another run is using {workspace}. Wait until it ends, or use another workspace.") from None
    with lock:
        yield
