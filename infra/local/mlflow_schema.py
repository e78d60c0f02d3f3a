"""The schema of MLflow's sqlite database in the workspace: a newer MLflow reads it only after its own upgrade.

MLflow's server upgrades no database by itself, and does not start on one with an earlier schema.
"""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from infra.errors import StackError
from serving.bundle.files import atomic_write

UPGRADE = "mlflow db upgrade"
"""The command that upgrades a database, which MLflow's error names too."""
_DOWN_REVISION = re.compile(r"^down_revision\b[^=\n]*=\s*(\([^)]*\)|.*)", re.MULTILINE)


def upgrade_database(database: Path, environment: Mapping[str, str]) -> None:
    """Upgrade a database that an earlier MLflow wrote, after a copy of it beside it. Others are left alone.

    The copy has the earlier revision in its name. If it is there already, an upgrade was interrupted, and it stays.

    Args:
        database: the file, which no process uses.
        environment: variables to add to this process's environment for MLflow's command.

    Raises:
        StackError: MLflow cannot upgrade the database.
    """
    revision = _revision(database)
    if revision is None or revision not in _upgradable_revisions():
        return
    copy = database.with_name(f"{database.stem}.before-{revision}.db")
    print(f"Upgrading the database of MLflow. {copy} is a copy of the earlier one.", flush=True)
    if not copy.exists():
        with (
            atomic_write(copy) as temporary,
            closing(sqlite3.connect(database)) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
    upgrade = subprocess.run(
        [sys.executable, "-m", *UPGRADE.split(), f"sqlite:///{database}"],
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if upgrade.returncode:
        raise StackError(
            f"MLflow cannot upgrade its database {database}. To use it with the MLflow that wrote it, put {copy.name} "
            "in its place and install that version.",
            upgrade.stdout.strip(),
        )


def _revision(database: Path) -> str | None:
    """The revision of the schema; None if there is no database, or none of MLflow."""
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(database)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # MLflow's server says what is wrong with it
        return None
    return str(row[0]) if row else None


def _upgradable_revisions() -> set[str]:
    """The revisions from which a migration of the installed MLflow starts: all but the last one.

    They are read from the text of the migrations. MLflow itself takes seconds to import.
    """
    spec = find_spec("mlflow")
    folders = spec.submodule_search_locations if spec else None
    migrations = [file for folder in folders or () for file in Path(folder).glob("store/db_migrations/versions/*.py")]
    lines = (line for file in migrations for line in _DOWN_REVISION.findall(file.read_text(encoding="utf-8")))
    return {revision for line in lines for revision in re.findall(r"""["'](\w+)["']""", line)}
