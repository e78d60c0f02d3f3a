"""The command `reset`: deletes a workspace after it has said what goes, and asked."""

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from infra.disk import size_bytes
from infra.errors import BusyError, ConfigurationError
from infra.files import workspace_lock
from infra.lease import WORKSPACE_ID
from infra.local.processes import Processes

# Each workspace has one of these files, and no other folder does. Other folders are never deleted.
_MARKS = ("stack.lock", "run.lock", "ledger.sqlite")
_LOCKS = {"stack.lock", "run.lock", "rollout.lock", "run.id", WORKSPACE_ID}
_WORDS = {
    "pages": "kept pages of sites",
    "posters": "posters",
    "bucket": "the local bucket: catalogues, posters, datasets, models",
    "mlflow.db": "MLflow: runs and the model registry",
    "mlflow-artifacts": "MLflow: files of runs",
    "prefect": "Prefect: runs and their logs",
    "cloud-run": "deployed functions",
    "ledger.sqlite": "which pages and posters were requested, and when",
}


def reset_workspace(workspace: Path, confirmed: bool) -> None:
    """List what a workspace holds, ask, and delete it.

    Args:
        workspace: the folder to delete.
        confirmed: delete without asking.

    Raises:
        ConfigurationError: the folder is not a workspace, or nobody answers.
        BusyError: a stack or a run is using the workspace.
    """
    entries = sorted(workspace.iterdir()) if workspace.is_dir() else []
    if not any((workspace / mark).is_file() for mark in _MARKS):
        raise ConfigurationError(
            f"{workspace} is not a workspace of anime-genre, so nothing is deleted. Name another one with --workspace."
        )
    try:
        stack = FileLock(workspace / "stack.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"A stack is running in {workspace}. Stop it with Ctrl-C first.") from None
    with stack, workspace_lock(workspace):
        print(f"This deletes {workspace} with all data:")
        for entry in entries:
            if entry.name not in _LOCKS:
                words = f"   {_WORDS[entry.name]}" if entry.name in _WORDS else ""
                print(f"  {size_bytes(entry) / 1e6:9.1f} MB  {entry.name}{words}")
        if not confirmed and not _agrees():
            print("Nothing was deleted.")
            return
        with Processes(workspace / "logs"):  # ends the processes that a killed stack left
            pass
        for entry in workspace.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    with suppress(OSError):  # a link or a mounted folder stays
        workspace.rmdir()
    print(f"Deleted {workspace}.")


def _agrees() -> bool:
    try:
        return input("Delete it? Type yes: ").strip().lower() == "yes"
    except EOFError:
        raise ConfigurationError("Nobody answered, so nothing was deleted. Add --yes to delete.") from None
