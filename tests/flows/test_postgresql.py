"""The stack with Prefect's and MLflow's databases on PostgreSQL, as on sqlite."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from flows.deployments import deployment
from flows.parameters import RetrainParameters
from flows.summary import run_retrain
from infra.local.processes import free_port
from infra.local.stack import local_stack
from infra.settings import BUILT_IN_COLLECTION
from tests.flows.conftest import connected
from tests.up import Up

pytestmark = [pytest.mark.stack, pytest.mark.train]

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/bin"))
USER = "postgres"


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server with the databases `prefect` and `mlflow`. It does not run as root."""
    if not BIN.is_dir():
        pytest.skip(f"no PostgreSQL in {BIN}")
    pytest.importorskip("psycopg2", reason="MLflow's driver of PostgreSQL is not installed")
    user = USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    as_user = {"user": user} if os.geteuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp()), free_port()
    shutil.chown(folder, user)
    data = str(folder / "data")
    options = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    initdb = [str(BIN / "initdb"), "-D", data, "-U", USER, "--auth=trust", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **as_user)
    with subprocess.Popen(
        [str(BIN / "postgres"), *options], stderr=subprocess.DEVNULL, cwd=folder, **as_user
    ) as server:
        try:
            where = ["-h", "127.0.0.1", "-p", str(port), "-U", USER]
            deadline = time.monotonic() + 60
            while subprocess.run([BIN / "pg_isready", *where], capture_output=True).returncode:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.2)
            for name in ("prefect", "mlflow"):
                subprocess.run([BIN / "createdb", *where, name], check=True)
            yield f"{USER}@127.0.0.1:{port}"
        finally:
            server.terminate()
    shutil.rmtree(folder)


def count(address: str, database: str, table: str) -> int:
    """The number of rows of a table."""
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(f"postgresql://{address}/{database}")
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {table}")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def on_postgresql(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the server that the next stack uses."""
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", f"postgresql+asyncpg://{postgresql}/prefect")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"postgresql://{postgresql}/mlflow")
    return postgresql


def assert_nothing_in_sqlite(address: str, workspace: Path) -> None:
    assert count(address, "prefect", "flow_run") >= 1
    assert count(address, "mlflow", "runs") >= 3
    assert [*workspace.glob("**/prefect.db"), *workspace.glob("**/mlflow.db")] == []


def test_stack_keeps_its_databases_on_postgresql(
    on_postgresql: str, parameters: RetrainParameters, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with local_stack(tmp_path / "workspace") as running, connected(running), get_client(sync_client=True) as client:
        deployment(parameters).apply()
        ended = run_retrain(parameters.model_copy(update={"promote": "always"}))
        assert client.read_deployment_by_name("retrain/retrain").parameters["parameters"]["site_url"]
    assert "is live" in ended.message
    assert_nothing_in_sqlite(on_postgresql, tmp_path)
    assert "so its backup is its owner's" in caplog.text


@pytest.mark.long
def test_up_runs_its_deployment_on_postgresql(
    on_postgresql: str, parameters: RetrainParameters, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    with Up(workspace) as up:
        built_in = parameters.model_copy(update={"promote": "always", "collection": BUILT_IN_COLLECTION})
        run = up.run(built_in.model_dump(mode="json"))
        assert run.state.is_completed() and "is live" in run.state.message, run.state.message
        up.stop(signal.SIGINT, 130)
    with Up(workspace) as again:
        assert "Model: version 1 " in again.printed
        again.stop(signal.SIGINT, 130)
    assert_nothing_in_sqlite(on_postgresql, tmp_path)
