"""A laptop's Google Cloud: Prefect, MLflow, a storage emulator and a Cloud Run stand-in on loopback.

    with local_stack(Path("workspace/demo"), Ports()) as stack:
        os.environ.update(stack.environment)

Everything they keep lies in the workspace, so that the next stack there goes on where this one ended.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from infra.errors import ConfigurationError, StackError
from infra.files import write_bytes
from infra.local.processes import Processes, claim_port, is_reachable
from infra.settings import MAIN_COLLECTION, Settings, read_settings

_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "ORT_DISABLE_TELEMETRY": "1",
}
# Without the last one the slots that a killed server had given out are taken for ever; without the others sqlite is
# "database is locked" for seconds after a few hundred task runs.
_PREFECT_ON_SQLITE = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
_NOTE = "stack.json"  # the environment of the running stack, for other commands to join it
LOGGED_PACKAGES = "flows,tasks,ml,infra"
LEAST_FREE_BYTES = 500_000_000  # the databases of Prefect and MLflow, a small dataset, some bundles


@dataclass(frozen=True)
class Ports:
    """The ports that people use; 0 is any free one."""

    prefect: int = 0
    mlflow: int = 0
    function: int = 0


@dataclass(frozen=True)
class Stack:
    """A running stack: its addresses, and the environment that leads the clients to it."""

    prefect_url: str
    mlflow_url: str
    storage_url: str
    cloud_run_url: str
    function_url: str
    environment: Mapping[str, str]
    processes: Processes = field(repr=False)


@contextmanager
def local_stack(workspace: Path, ports: Ports | None = None, collection: str = MAIN_COLLECTION) -> Iterator[Stack]:
    """Start the stand-ins of a workspace, and end them with the block.

    Raises:
        StackError: a port is taken, a process does not start, or the workspace has a stack already.
        ConfigurationError: the workspace cannot be written.
    """
    ports = ports or Ports()
    workspace = prepare_workspace(workspace)
    lock = FileLock(workspace / "stack.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StackError(f"Another stack is running in {workspace}; end it, or use another workspace.") from None
    try:
        with Processes(workspace / "logs") as processes:
            stack = _start(workspace, ports, read_settings(collection), processes)
            processes.wait_ready()
            write_bytes(workspace / _NOTE, json.dumps(dict(stack.environment)).encode())
            yield stack
    finally:
        (workspace / _NOTE).unlink(missing_ok=True)
        lock.release()


def running_stack_environment(workspace: Path) -> dict[str, str] | None:
    """The environment of the stack that another process runs in this workspace, if one answers."""
    try:
        environment: dict[str, str] = json.loads((workspace / _NOTE).read_text())
    except (OSError, ValueError):
        return None
    return environment if is_reachable(f"{environment['PREFECT_API_URL']}/health") else None


def prepare_workspace(workspace: Path) -> Path:
    """The workspace as an absolute, existing and writable folder with room for a small run.

    Raises:
        ConfigurationError: it cannot be made, nothing can be written there, or the disk is as good as full.
    """
    workspace = workspace.absolute()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        write_bytes(workspace / ".writable", b"")
        (workspace / ".writable").unlink()
        free_bytes = shutil.disk_usage(workspace).free
    except OSError as error:
        raise ConfigurationError(f"The workspace {workspace} cannot be written: {error.strerror}.") from None
    if free_bytes < LEAST_FREE_BYTES:
        raise ConfigurationError(
            f"The workspace {workspace} is on a disk with {free_bytes / 1e6:.0f} MB left; a run needs "
            f"{LEAST_FREE_BYTES / 1e6:.0f} MB at least."
        )
    return workspace


def _start(workspace: Path, ports: Ports, settings: Settings, processes: Processes) -> Stack:
    prefect_port = claim_port(ports.prefect, "the Prefect UI", "--prefect-port")
    mlflow_port = claim_port(ports.mlflow, "the MLflow UI", "--mlflow-port")
    function_port = claim_port(ports.function, "the function", "--function-port")
    storage_port, cloud_run_port = claim_port(0, "", ""), claim_port(0, "", "")
    local = "http://127.0.0.1"
    environment = {
        **_QUIET,
        "ANIME_GENRE_WORKSPACE": str(workspace),
        "ANIME_GENRE_BUCKET": settings.bucket,
        "ANIME_GENRE_GOOGLE_PROJECT": settings.google_project,
        "ANIME_GENRE_GOOGLE_REGION": settings.google_region,
        "ANIME_GENRE_CLOUD_RUN_ENDPOINT": f"{local}:{cloud_run_port}",
        "STORAGE_EMULATOR_HOST": f"{local}:{storage_port}",
        "MLFLOW_TRACKING_URI": f"{local}:{mlflow_port}",
        "PREFECT_HOME": str(workspace / "prefect"),
        "PREFECT_API_URL": f"{local}:{prefect_port}/api",
        "PREFECT_LOGGING_EXTRA_LOGGERS": LOGGED_PACKAGES,
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    }
    python = sys.executable
    processes.start(
        "Storage",
        [
            *(python, "-m", "infra.local.storage", "--port", str(storage_port)),
            *("--folder", str(workspace / "bucket"), "--bucket", settings.bucket),
        ],
        environment,
        f"{local}:{storage_port}/storage/v1/b",
    )
    processes.start(
        "Prefect",
        [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)],
        {**environment, **_PREFECT_ON_SQLITE},
        f"{local}:{prefect_port}/api/health",
    )
    processes.start(
        "MLflow",
        [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{workspace / 'mlflow.db'}"),
            *("--artifacts-destination", str(workspace / "mlflow-artifacts")),
        ],
        {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        f"{local}:{mlflow_port}/health",
        folder=workspace,
    )
    processes.start(
        "Cloud Run",
        [
            *(python, "-m", "infra.local.run_api", "--port", str(cloud_run_port)),
            *("--state", str(workspace / "cloud-run"), "--service-port", f"{settings.service}={function_port}"),
        ],
        environment,
        f"{local}:{cloud_run_port}/healthz",
    )
    return Stack(
        prefect_url=f"{local}:{prefect_port}",
        mlflow_url=f"{local}:{mlflow_port}",
        storage_url=f"{local}:{storage_port}",
        cloud_run_url=f"{local}:{cloud_run_port}",
        function_url=f"{local}:{function_port}",
        environment=environment,
        processes=processes,
    )
