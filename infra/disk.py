"""Full disks: free space, and the one sentence that any error of a full disk becomes."""

import errno
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import DeploymentError, DiskFull, StackError
from serving.bundle.errors import AnimeGenreError

logger = logging.getLogger("infra")

MIN_FREE_BYTES = 500_000_000  # for the databases of Prefect and MLflow, a small dataset and some bundles
RESERVED_BYTES = 30_000_000  # a step ends before the disk is full, so that the databases can still record the reason
_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SENTENCES = (
    "database or disk is full",
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "disk I/O error",
)


def is_full(folder: Path) -> bool:
    """Whether the folder's disk has less space than a step needs."""
    return free_bytes(folder) < RESERVED_BYTES


def free_bytes(folder: Path) -> int:
    """The free space of the folder's disk. A folder that does not exist yet has its parent's."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_bytes(entry: Path) -> int:
    """Bytes of a file, or of all files below a folder. Files that are deleted meanwhile are omitted."""
    files = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else [entry]
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += 0 if file.is_dir() else file.lstat().st_size
    return total


def check_space(folder: Path, for_run: bool = False) -> None:
    """Check that the folder's disk has the space that a step needs to go on, or that a whole run needs to start.

    Raises:
        DiskFull: it has less.
    """
    if free_bytes(folder) < (MIN_FREE_BYTES if for_run else RESERVED_BYTES):
        raise _full(folder)


@contextmanager
def disk_errors(workspace: Path) -> Iterator[None]:
    """Replace the errors that the block raises because of a full disk.

    An error of another thread, such as TensorBoard's, becomes one line of the log instead of a traceback.

    Raises:
        DiskFull: a disk or a quota is full, or a file would exceed a size limit.
    """
    before = threading.excepthook

    def on_thread_error(args: threading.ExceptHookArgs) -> None:
        if isinstance(args.exc_value, OSError) and args.exc_value.errno in _ERRNOS:
            logger.warning("A thread ended, because it could not write: %s", args.exc_value)
        else:
            before(args)

    threading.excepthook = on_thread_error
    try:
        yield
    except Exception as error:
        full = disk_full(error, workspace)
        if full is None:
            raise
        raise full from error
    finally:
        threading.excepthook = before


def disk_full(error: BaseException, workspace: Path) -> DiskFull | None:
    """The error to show if a full disk is the reason for `error`, else None.

    The local services keep their files in the workspace. Their clients see only a failed request, so a temporary
    failure while the disk is full counts as one of a full disk.
    """
    chain = _chain(error)
    for each in chain:
        if isinstance(each, DiskFull):
            return each
    for each in chain:
        if isinstance(each, OSError) and each.errno in _ERRNOS:
            path = Path(str(each.filename)) if each.filename else workspace
            return _of_write(path, workspace, each.strerror or str(each))
        for sentence in _SENTENCES:
            if sentence in str(each):
                return _of_write(workspace, workspace, sentence)
    # A process that ended on a full disk, or did not start, could not say why.
    is_explained = (
        isinstance(error, AnimeGenreError)
        and not error.retryable
        and not isinstance(error, StackError | DeploymentError)
    )
    return _full(workspace) if is_full(workspace) and not is_explained else None


def _of_write(path: Path, workspace: Path, reason: str) -> DiskFull:
    """The error of a failed write. Its path may be unknown: then the workspace stands for it."""
    for folder in (workspace, path.parent, Path(tempfile.gettempdir())):
        if is_full(folder):
            return _full(folder)
    return DiskFull(
        f"{path} cannot be written ({reason}), although its disk has space. Raise the quota or the limit of file sizes "
        f"by {MIN_FREE_BYTES / 1e6:.0f} MB and start again; completed steps are skipped."
    )


def _full(folder: Path) -> DiskFull:
    free, needed = free_bytes(folder), MIN_FREE_BYTES
    full = "full" if free < RESERVED_BYTES else "nearly full"
    return DiskFull(
        f"The disk of {folder} is {full}: it has {free / 1e6:.0f} MB left, and a run needs {needed / 1e6:.0f} MB. "
        f"Free {(needed - free) / 1e6:.0f} MB and start again; completed steps are skipped."
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its cause or context, and theirs."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain
