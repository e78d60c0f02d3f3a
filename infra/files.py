"""Files and folders that are written at once, what killed processes leave of them, and the lock of a workspace."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from infra.errors import BusyError
from serving.bundle.files import atomic_write, sync


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
        sync(file)
    sync(complete)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):  # another process may move the same content to the same place
        shutil.rmtree(folder, ignore_errors=True)
        complete.replace(folder)
    sync(folder.parent)


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
