"""The schema of MLflow's database: upgraded in the workspace, and left to its owner elsewhere."""

import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db import utils

import infra.local.mlflow_schema
import infra.local.stack
from infra.errors import StackError
from infra.local.mlflow_schema import upgrade_database
from infra.local.processes import Processes
from infra.local.stack import local_stack

pytestmark = pytest.mark.stack


def query(database: Path, sql: str) -> list[Any]:
    """The first column of the rows of a statement."""
    with closing(sqlite3.connect(database)) as connection, connection:
        return [row[0] for row in connection.execute(sql)]


def revision(database: Path) -> str:
    """The revision of the schema."""
    (found,) = query(database, "SELECT version_num FROM alembic_version")
    return str(found)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of the installed MLflow."""
    file = tmp_path / "mlflow.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    utils._initialize_tables(engine)
    engine.dispose()
    return file


def test_database_of_an_earlier_mlflow_is_upgraded_after_a_copy(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latest = revision(database)
    upgrade_database(database, {})
    assert capsys.readouterr().out == "" and list(database.parent.iterdir()) == [database], "nothing is to be upgraded"
    query(database, "INSERT INTO experiments (experiment_id, name, workspace) VALUES (7, 'kept', 'default')")
    command.downgrade(utils._get_alembic_config(f"sqlite:///{database}"), "-1")
    earlier = revision(database)
    copy = database.with_name(f"mlflow.before-{earlier}.db")

    with monkeypatch.context() as patch:
        patch.setattr(infra.local.mlflow_schema, "UPGRADE", "mlflow db upgrades")
        with pytest.raises(StackError, match=rf"put {copy.name} in its place(.|\n)*No such command 'upgrades'"):
            upgrade_database(database, {})
    assert revision(copy) == earlier
    query(copy, "UPDATE experiments SET name = 'of the first attempt'")

    upgrade_database(database, {})
    assert (revision(database), revision(copy)) == (latest, earlier)
    names = [query(file, "SELECT name FROM experiments WHERE experiment_id = 7") for file in (database, copy)]
    assert names == [["kept"], ["of the first attempt"]], "an interrupted upgrade's copy is the one from before"
    assert f"{copy} is a copy" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"", b"no database" * 1000])
def test_database_that_is_not_mlflows_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    upgrade_database(tmp_path / "mlflow.db", {})
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if content is None else [content])


def test_check_of_the_schema_imports_nothing_of_mlflow(database: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infra.local.mlflow_schema import upgrade_database;"
        f"upgrade_database(Path({str(database)!r}), {{}}); print('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_stack_upgrades_the_database_of_its_workspace_before_mlflow_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upgrade(database: Path, environment: Mapping[str, str]) -> None:
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
        raise StackError(f"{database} would be upgraded.")

    monkeypatch.setattr(infra.local.stack, "upgrade_database", upgrade)
    with pytest.raises(StackError, match=rf"^{tmp_path}/mlflow\.db would be upgraded"), local_stack(tmp_path):
        pass


def test_stack_names_the_command_that_upgrades_the_database_of_a_person(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(database, "UPDATE alembic_version SET version_num = '75868b020152'")
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", f"sqlite:///{database}")
    store = "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore"

    def start(workspace: Path, ports: Any, settings: Any, processes: Processes) -> None:
        program = f"{store}; SqlAlchemyStore('sqlite:///{database}', '{tmp_path}')"  # as its server does
        processes.start("MLflow", [sys.executable, "-c", program], {}, "http://127.0.0.1:9/")

    monkeypatch.setattr(infra.local.stack, "_start_services", start)
    remedy = r'^The database of MLflow .* run `mlflow db upgrade "\$MLFLOW_BACKEND_STORE_URI"`, or install .*\.\n'
    with pytest.raises(StackError, match=remedy), local_stack(tmp_path / "workspace"):
        pass
