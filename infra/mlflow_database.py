"""MLflow's sqlite database in the workspace, if this workspace's MLflow is used: copied into the bucket, and freed.

Another database, or an MLflow server elsewhere, is its owner's.
"""

import gzip
import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from infra.errors import InfraError
from infra.files import remove_temporary_files
from infra.local.stack import MLFLOW_DATABASE, running_stack_environment
from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import temporary_path

logger = logging.getLogger("infra")

BACKUP = "backups/mlflow.db.gz"
"""The object in the bucket with the copy of the database; all collections share it."""
_SQLITE = "sqlite:///"
_LOCKED_SECONDS = 60.0  # how long the server is waited for


def database_file(settings: Settings) -> Path | None:
    """The file of MLflow's database; None if MLflow does not use a sqlite file that this machine has."""
    uri = settings.tracking_uri
    stack = running_stack_environment(settings.workspace) or {}
    if uri.startswith(_SQLITE):
        file = Path(uri.removeprefix(_SQLITE))
    elif stack.get("MLFLOW_TRACKING_URI") == uri and MLFLOW_DATABASE not in stack:
        file = settings.workspace / "mlflow.db"
    else:
        return None
    return file if file.is_file() else None


def back_up(settings: Settings) -> None:
    """Copy the database into the bucket, where it replaces the last copy. If that fails, the log says so.

    If MLflow uses another database, the log says that its backup is its owner's.
    """
    database = database_file(settings)
    if database is None:
        logger.info(
            "The database of MLflow at %s is not in this workspace, so its backup is its owner's.",
            settings.tracking_uri,
        )
        return
    remove_temporary_files(settings.workspace)
    folder = temporary_path(settings.workspace / "backup")
    try:
        folder.mkdir(exist_ok=True)
        copy, packed = folder / "mlflow.db", folder / "mlflow.db.gz"
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)  # a whole state of the database, also while MLflow writes to it
        with copy.open("rb") as content, gzip.open(packed, "wb") as stream:
            shutil.copyfileobj(content, stream)
        Store(settings).whole_bucket().upload({BACKUP: packed})
    except (InfraError, OSError, sqlite3.Error) as error:
        logger.warning("The database of MLflow was not copied into the bucket: %s", error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_run(settings: Settings, database: Path, run_id: str) -> None:
    """Free the files and rows of a deleted run and of the deleted models that it logged, as `mlflow gc` does.

    The command itself also frees what a person has deleted and may want back. The files go first: without its row,
    nothing would find them. The run need not exist.
    """
    # Runs import this module and never free anything.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store: Any = SqlAlchemyStore(f"{_SQLITE}{database}", str(settings.workspace / "mlflow-artifacts"))
    try:
        run = store.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    if run.info.lifecycle_stage != LifecycleStage.DELETED:
        return
    for model_id in store._get_deleted_logged_models():
        model = store.get_logged_model(model_id, allow_deleted=True)
        if model.source_run_id == run_id:
            get_artifact_repository(model.artifact_location).delete_artifacts()
            store._hard_delete_logged_model(model_id)
    get_artifact_repository(run.info.artifact_uri).delete_artifacts()
    store._hard_delete_run(run_id)


def free_rows(database: Path) -> None:
    """Delete the rows that MLflow leaves of freed runs and of deleted versions.

    The row of a version itself stays: without it, MLflow would give its number to another version.
    """
    with closing(sqlite3.connect(database, timeout=_LOCKED_SECONDS)) as connection, connection:
        connection.execute(
            "DELETE FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id NOT IN (SELECT run_uuid FROM runs)"
        )
        connection.execute(
            "DELETE FROM model_version_tags WHERE (workspace, name, version) IN "
            "(SELECT workspace, name, version FROM model_versions WHERE current_stage = 'Deleted_Internal')"
        )
