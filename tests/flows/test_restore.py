"""Everything is restored from the bucket alone, at another path."""

import gzip
import shutil
from pathlib import Path

import mlflow
import pytest

from infra.mlflow_database import BACKUP, back_up
from infra.registry import Registry
from infra.store import Store
from tasks.bundles import upload_bundle
from tasks.rollouts import promote, roll_back
from tests.infra.conftest import run_api
from tests.stand_ins import stand_in_settings, write_bundle
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack


def test_bucket_alone_serves_each_version_and_rolls_back_at_another_path(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    bundles = []
    with storage_emulator(first, "data") as storage_url:
        settings = stand_in_settings(first / "workspace", storage_url)
        registry = Registry(settings)
        for version in ("1", "2"):
            folder = first / version
            bundles.append(write_bundle(folder, 0.1 * int(version)))
            with registry.run(version, {}) as run_id:
                registry.register(run_id, folder, {"bundle_sha256": bundles[-1]}, "")
            upload_bundle(Store(settings), folder, bundles[-1])
        back_up(settings)
    mlflow.set_tracking_uri(None)  # which is an environment variable, that is, a setting
    second.mkdir()
    shutil.move(first / "data", second / "data")
    shutil.rmtree(first)

    with storage_emulator(second, "data") as storage_url, run_api(second / "cloud-run", storage_url) as (run_url, _):
        settings = stand_in_settings(second / "workspace", storage_url, run_url)
        (settings.workspace / "mlflow.db").write_bytes(gzip.decompress(Store(settings).read(BACKUP)))
        promote(settings, "1", "a person")
        promote(settings, "2", "a person")
        rollout = roll_back(settings, "1", "a person")
        assert rollout.after == f"version 1 ({bundles[0][:8]})"
        champion = Registry(settings).champion()
        assert champion is not None and champion.bundle_sha256 == bundles[0]
    mlflow.set_tracking_uri(None)
