"""The rows in the databases of a workspace's stack, for measurements of what grows."""

import sqlite3
from contextlib import closing
from pathlib import Path


def database_rows(workspace: Path) -> dict[tuple[str, str], int]:
    """Return the number of rows by service (MLflow or Prefect) and table."""
    rows = {}
    for service, file in (("MLflow", workspace / "mlflow.db"), ("Prefect", workspace / "prefect" / "prefect.db")):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                (rows[service, table],) = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    return rows
