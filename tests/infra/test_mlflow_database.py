"""The copy of MLflow's database in the bucket, and what can be made of it at another path."""

import gzip
import logging
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from infra.mlflow_database import BACKUP, back_up
from infra.registry import Registry
from infra.settings import Settings
from infra.store import Store
from tests.messages import project_messages

pytestmark = pytest.mark.stack


def test_database_is_restored_from_the_bucket_at_another_path(settings: Settings, tmp_path: Path) -> None:
    registry, client = Registry(settings), MlflowClient(settings.tracking_uri)
    client.create_registered_model(settings.model_name)
    for number in ("1", "2"):
        with registry.run(f"training {number}", {}) as run_id:
            tags = {"bundle_sha256": number * 64}
            client.create_model_version(settings.model_name, f"runs:/{run_id}/bundle", run_id, tags=tags)
        registry.set_champion(number)
        (settings.workspace / f".backup.{2**22 + 1}.part").mkdir()  # of a process that was killed
        back_up(settings)
    assert not list(settings.workspace.glob(".*.part"))
    backup = Store(settings).read(BACKUP)
    mlflow.set_tracking_uri(None)  # which is an environment variable, that is, a setting
    (settings.workspace / "mlflow.db").unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlflow.db").write_bytes(gzip.decompress(backup))
    restored = Registry(Settings(workspace=elsewhere))
    champion = restored.champion()
    assert champion is not None and (champion.version, champion.bundle_sha256) == ("2", "2" * 64)
    assert restored.has_run(run_id)
    mlflow.set_tracking_uri(None)


def test_backup_that_fails_or_is_another_owners_is_one_line_of_the_log(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "infra")
    server = settings.model_copy(update={"mlflow_tracking_uri": "http://mlflow.example.org"})
    back_up(server)
    assert (
        "http://mlflow.example.org is not in this workspace, so its backup is its owner's."
        in project_messages(caplog)[-1]
    )
    (settings.workspace / "mlflow.db").write_bytes(b"no database" * 1000)
    back_up(settings)
    assert project_messages(caplog)[-1].startswith("The database of MLflow was not copied into the bucket: ")
