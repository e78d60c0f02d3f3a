"""The local stack: Prefect and MLflow on 127.0.0.1, and unless Google Cloud is used, stand-ins for it.

    with local_stack(Path("workspace/live"), Ports()) as stack:
        os.environ.update(stack.environment)

The services keep their data in the workspace. The next stack in the same workspace continues with it.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from infra.cloud_run import CloudRun
from infra.disk import check_space, disk_full
from infra.errors import ConfigurationError, StackError
from infra.files import write_bytes
from infra.local.mlflow_schema import UPGRADE, upgrade_database
from infra.local.processes import Processes, claim_port, free_port, is_reachable
from infra.local.same_origin import origins
from infra.settings import MAIN_COLLECTION, Settings, check_cloud, environment_variable, read_settings

_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
}
MLFLOW_DATABASE = "MLFLOW_BACKEND_STORE_URI"
"""MLflow's own variable for the address of its database. Without it, the database is mlflow.db in the workspace."""
_QUIET_MLFLOW = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
# With sqlite's defaults, Prefect reports "database is locked" for seconds after a few hundred task runs; larger batches
# prevent that. Leases in memory would be lost with a killed server, and its concurrency slots would stay taken.
_PREFECT_ON_SQLITE = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Runs, with their logs and artifacts, are deleted after a year. By default Prefect keeps them for ever.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(365 * 86_400),
}
_ENVIRONMENT_FILE = "stack.json"  # the environment of the running stack; other commands use it to join the stack
_LOCK = "stack.lock"
_LOOPBACK = "http://127.0.0.1"
LOGGED_PACKAGES = "flows,tasks,ml,infra"  # Prefect shows their log entries in the run


@dataclass(frozen=True)
class Ports:
    """The ports that people open; 0 chooses a free one."""

    prefect: int = 0
    mlflow: int = 0
    function: int = 0


@dataclass(frozen=True)
class Stack:
    """The addresses of a running stack, and the environment variables that its clients need.

    That of the function is empty if it does not exist yet.
    """

    prefect_url: str
    function_url: str
    environment: Mapping[str, str]
    processes: Processes = field(repr=False)


@contextmanager
def local_stack(workspace: Path, ports: Ports | None = None, collection: str = MAIN_COLLECTION) -> Iterator[Stack]:
    """Start the services in a workspace and stop them after the block.

    The function's port is given to the service of `collection`.

    Raises:
        StackError: a port is taken, a process does not start, or the workspace already has a running stack.
        ConfigurationError: the workspace is not writable, or a setting is invalid.
        DiskFull: the workspace's disk is nearly full.
    """
    ports = ports or Ports()
    workspace = prepare_workspace(workspace)
    lock = FileLock(workspace / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StackError(
            f"Another stack is running or starting in {workspace}. Stop it with Ctrl-C, or name another folder with "
            "--workspace."
        ) from None
    try:
        (workspace / _ENVIRONMENT_FILE).unlink(missing_ok=True)  # of a stack that was killed
        settings = read_settings(collection)
        check_cloud(settings)
        with Processes(workspace / "logs") as processes:
            stack = _start_services(workspace, ports, settings, processes)
            try:
                processes.wait_ready()
            except StackError as error:
                raise _outdated_database(error) or error from None
            write_bytes(workspace / _ENVIRONMENT_FILE, json.dumps(dict(stack.environment)).encode(), mode=0o600)
            yield stack
    finally:
        (workspace / _ENVIRONMENT_FILE).unlink(missing_ok=True)
        lock.release()


def running_stack_environment(workspace: Path) -> dict[str, str] | None:
    """The environment of the stack that another process runs in this workspace; None if none is reachable."""
    try:
        environment: dict[str, str] = json.loads((workspace / _ENVIRONMENT_FILE).read_text())
    except (OSError, ValueError):
        return None
    try:
        with FileLock(workspace / _LOCK, timeout=0):
            return None  # the stack was killed, and its ports may be those of another workspace's stack
    except Timeout:
        pass
    return environment if is_reachable(f"{environment['PREFECT_API_URL']}/health") else None


def prepare_workspace(workspace: Path) -> Path:
    """Create the workspace if necessary, check that it is usable, and return its absolute path.

    Raises:
        ConfigurationError: the workspace is not writable.
        DiskFull: its disk is nearly full.
    """
    workspace = workspace.absolute()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        write_bytes(workspace / ".writable", b"")
        (workspace / ".writable").unlink()
    except OSError as error:
        if full := disk_full(error, workspace):
            raise full from error
        raise ConfigurationError(
            f"The workspace {workspace} is not writable: {error.strerror}. Choose another one with --workspace."
        ) from None
    check_space(workspace, for_run=True)
    return workspace


def _start_services(workspace: Path, ports: Ports, settings: Settings, processes: Processes) -> Stack:
    prefect_port = claim_port(ports.prefect, "the Prefect UI", "--prefect-port")
    mlflow_port = claim_port(ports.mlflow, "the MLflow UI", "--mlflow-port")
    prefect_url, mlflow_url = f"{_LOOPBACK}:{prefect_port}", f"{_LOOPBACK}:{mlflow_port}"
    environment = {
        **_NO_TELEMETRY,
        **_QUIET_MLFLOW,
        # Other commands that join the stack must use these values, whatever their own settings are.
        "ANIME_GENRE_WORKSPACE": str(workspace),
        "ANIME_GENRE_CLOUD": settings.cloud,
        "ANIME_GENRE_BUCKET": settings.bucket,
        "ANIME_GENRE_GOOGLE_PROJECT": settings.google_project,
        "ANIME_GENRE_GOOGLE_REGION": settings.google_region,
        **_given_names(),
        "MLFLOW_TRACKING_URI": mlflow_url,
        "PREFECT_HOME": str(workspace / "prefect"),
        "PREFECT_API_URL": f"{prefect_url}/api",
        "PREFECT_LOGGING_EXTRA_LOGGERS": LOGGED_PACKAGES,
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # commands such as `rollback` log outside a run
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        # The engine's own lines, such as "Downloading flow code from storage", say nothing about the run.
        "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "WARNING",
    }
    if settings.cloud == "google":
        function_url = CloudRun(settings).url() or ""
    else:
        function_port = claim_port(ports.function, "the function", "--function-port")
        function_url = f"{_LOOPBACK}:{function_port}"
        environment |= {
            "ANIME_GENRE_CLOUD_RUN_ENDPOINT": f"{_LOOPBACK}:{free_port()}",
            "ANIME_GENRE_CLOUD_RUN_TOKEN": secrets.token_urlsafe(32),
            "STORAGE_EMULATOR_HOST": f"{_LOOPBACK}:{free_port()}",
        }
        _start_stand_ins(workspace, settings, environment, function_port, processes)
    # Not as an option, which other users see in the list of processes: it may have a password.
    database = ["--backend-store-uri", f"sqlite:///{workspace / 'mlflow.db'}"]
    if address := os.environ.get(MLFLOW_DATABASE):
        database, environment[MLFLOW_DATABASE] = [], address
    else:
        upgrade_database(workspace / "mlflow.db", environment)
    python = sys.executable
    processes.start(
        "Prefect",
        [python, "-m", "infra.local.prefect_server", "--port", str(prefect_port)],
        {**environment, **_PREFECT_ON_SQLITE},
        ready=f"{prefect_url}/api/health",
    )
    processes.start(
        "MLflow",
        [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"),
            *database,
            *("--artifacts-destination", str(workspace / "mlflow-artifacts")),
            # By default it also answers names such as 10.example.org, which match its pattern for private addresses.
            *("--allowed-hosts", "127.0.0.1,127.0.0.1:*,localhost,localhost:*"),
            *("--cors-allowed-origins", ",".join(origins(mlflow_port))),
        ],
        {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ready=f"{mlflow_url}/health",
        folder=workspace,  # MLflow creates files in its working folder
    )
    return Stack(prefect_url, function_url, environment, processes)


def _outdated_database(error: StackError) -> StackError | None:
    """The error to show if MLflow refused the database of a person, who upgrades it themselves; else None."""
    if UPGRADE not in error.details or MLFLOW_DATABASE not in os.environ:
        return None
    return StackError(
        f'The database of MLflow has another schema. Back it up, then run `{UPGRADE} "${MLFLOW_DATABASE}"`, or install '
        "the newer MLflow that wrote it.",
        error.details,
    )


def _given_names() -> dict[str, str]:
    """The names of the service and the registered model, if a person has set them for all collections."""
    given = read_settings()
    names = given.model_fields_set & {"service", "model_name"}
    return {environment_variable(name): str(getattr(given, name)) for name in names}


def _start_stand_ins(
    workspace: Path, settings: Settings, environment: Mapping[str, str], function_port: int, processes: Processes
) -> None:
    """Start the stand-ins for Cloud Storage and Cloud Run at the addresses of the environment."""
    storage_url, cloud_run_url = environment["STORAGE_EMULATOR_HOST"], environment["ANIME_GENRE_CLOUD_RUN_ENDPOINT"]
    processes.start(
        "Storage",
        [
            *(sys.executable, "-m", "infra.local.storage", "--port", str(urlsplit(storage_url).port)),
            *("--folder", str(workspace / "bucket"), "--bucket", settings.bucket),
        ],
        environment,
        ready=f"{storage_url}/storage/v1/b",
    )
    processes.start(
        "Cloud Run",
        [
            *(sys.executable, "-m", "infra.local.run_api", "--port", str(urlsplit(cloud_run_url).port)),
            *("--state", str(workspace / "cloud-run"), "--service-port", f"{settings.service}={function_port}"),
        ],
        environment,
        ready=f"{cloud_run_url}/healthz",
    )
