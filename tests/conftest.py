"""Shared by all tests: the environment, the real data if present, markers, and a check that nothing is left behind."""

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling

from serving.bundle.errors import AnimeGenreError
from serving.web.errors import PageError
from tests.messages import faults_of_message, record_messages

# Steps read this when they are imported: a failed step waits this long before it is retried.
os.environ["ANIME_GENRE_RETRY_DELAY_SECONDS"] = "[2, 2]"
_home = tempfile.TemporaryDirectory()  # deleted when the tests end
os.environ["PREFECT_HOME"] = _home.name
os.environ["XDG_RUNTIME_DIR"] = _home.name  # gunicorn puts its control socket there
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Tests train on tiny tensors, for which a second thread costs more than it saves; their child processes inherit this.
os.environ["OMP_NUM_THREADS"] = "1"

NewWorkspace = Callable[[Path], Path]
ROOT = Path(__file__).parent.parent
_CACHES = {".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".hypothesis", "workspace"}
_MARKS = re.compile(r"^pytestmark = \[?pytest\.mark\.(stack|browser|train)\b", re.MULTILINE)
_SHARED = {  # what takes long and serves the tests of several files
    "stack": re.compile(r"\b(running_)?stack: Stack\b"),
    "networks": re.compile(r"\b(outcome: TrainingOutcome|exported: NetworkOutcome)\b"),
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of a whole file whose marker is deselected: torch, MLflow and Prefect take seconds to import."""
    if collection_path.suffix != ".py":
        return None
    marks = _MARKS.search(collection_path.read_text(encoding="utf-8"))
    return True if marks and f"not {marks[1]}" in config.option.markexpr else None


class TwoStacks(LoadFileScheduling):
    """Sends each file to one worker, and files that share trained networks or the running stack to the same one.

    Two workers start a running stack, and each takes half of its tests: some files use the training of test_retrain.
    """

    _ONE_TRAINING = tuple(
        f"tests/flows/test_{name}.py" for name in ("retrain", "retrain_figures", "rollback", "scoreboard")
    )

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        if file in TwoStacks._ONE_TRAINING:
            return "training"
        text = (ROOT / file).read_text(encoding="utf-8")
        return next((name for name, pattern in _SHARED.items() if pattern.search(text)), file)


# Imports and tests create a million objects, and the collector goes through all of them time and again: a third of the
# CPU of collecting the tests, and half a second per full collection afterwards. They live until the end anyway.
gc.disable()


def pytest_collection_finish() -> None:
    """Collect only the garbage of the tests from now on."""
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TwoStacks:
    """Choose the worker of each test."""
    return TwoStacks(config, log)


def _command_of(process: psutil.Process) -> str:
    """The command of a running process, or "" if it has ended; a parent may not have waited for it yet."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:  # includes ZombieProcess
        return ""


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail if the tests leave a process, a listening port or a file in the repository behind."""
    before = {*ROOT.iterdir()}
    yield
    process = psutil.Process()
    left = [command for child in process.children(recursive=True) if (command := _command_of(child))]
    # Python's own helper for shared memory lives as long as the process that uses it.
    left = [command for command in left if "multiprocessing.resource_tracker" not in command]
    left += [f"port {each.laddr.port}" for each in process.net_connections("inet") if each.status == "LISTEN"]
    left += [path.name for path in {*ROOT.iterdir()} - before if path.name not in _CACHES]
    assert left == [], "the tests left this behind"


@pytest.fixture(scope="session")
def error_messages() -> Iterator[list[tuple[str, str]]]:
    """The class names and messages of the project's errors that are created in this process, in any thread."""
    with record_messages(AnimeGenreError, PageError) as messages:
        yield messages


@pytest.fixture(autouse=True)
def error_messages_short(error_messages: list[tuple[str, str]]) -> Iterator[None]:
    """Fail if the test, or a fixture that it is the first to use, created an error with an unsuitable message."""
    yield
    unsuitable = [
        f"{name}: {message!r} {fault}" for name, message in error_messages for fault in faults_of_message(message)
    ]
    error_messages.clear()
    assert unsuitable == [], "error messages have at most two sentences and 300 characters; use error.details"


@pytest.fixture(scope="session")
def new_workspace(tmp_path_factory: pytest.TempPathFactory) -> NewWorkspace:
    """A function that makes a folder a workspace in which Prefect and MLflow have their tables.

    Creating them takes most of the time of a first start. So one stack does it for all workers, and the others copy.
    """
    of_all_workers = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        of_all_workers = of_all_workers.parent
    first = of_all_workers / "first-workspace"

    from infra.local.stack import local_stack  # the fast tests do not need the clients of Google

    def create(folder: Path) -> Path:
        with FileLock(f"{first}.lock"):
            if not first.exists():
                with local_stack(of_all_workers / "starting"):
                    pass
                (of_all_workers / "starting").rename(first)
        for database in [*first.glob("mlflow.db*"), *first.glob("prefect/prefect.db*")]:
            copy = folder / database.relative_to(first)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(database, copy)
        return folder

    return create


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real pages, posters and weights; tests that need it skip if it is absent."""
    folder = Path(os.environ.get("ANIME_GENRE_REAL_DATA", ROOT.parent / "shared"))
    if not (folder / "posters" / "anime.zip").exists():
        pytest.skip(f"no real data in {folder}; set ANIME_GENRE_REAL_DATA to another folder")
    return folder
