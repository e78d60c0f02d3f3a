"""Checks of a revision before it gets traffic, on the stand-ins for storage and Cloud Run."""

import shutil
from pathlib import Path

import mlflow
import pytest

import serving
from infra.cloud_run import CloudRun
from infra.errors import DeploymentError, NotFound
from infra.registry import Registry
from infra.revisions import MODEL_VARIABLES
from infra.source_zip import source_zip
from infra.store import Store
from tasks.bundles import bundle_key, upload_bundle
from tasks.candidate_revisions import deploy_checked_candidate
from tasks.rollouts import promote, read_rollouts, roll_back
from tests.infra.conftest import run_api
from tests.stand_ins import stand_in_settings, write_bundle
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack

POSTER = Path(serving.__file__).parent / "web" / "static" / "samples" / "yuhi-tram.jpg"
_PREDICT = "def predict_posters(request: PosterRequest, bundle: Bundle, measured: Measurements)"


def slow_source(folder: Path, seconds: float) -> bytes:
    """The function's source, with a pause in each prediction."""
    shutil.copytree(Path(serving.__file__).parent, folder, ignore=shutil.ignore_patterns("web", "__pycache__"))
    file = folder / "function" / "inference.py"
    code = file.read_text()
    assert _PREDICT in code
    file.write_text(
        code.replace(_PREDICT, _PREDICT.replace("predict_posters", "_predict_posters"))
        + f"\n\ndef predict_posters(*arguments):\n    time.sleep({seconds})\n    return _predict_posters(*arguments)\n"
    )
    return source_zip(folder)


def test_revision_that_is_slower_than_its_limit_gets_no_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tasks")
    with storage_emulator(tmp_path, "data") as storage_url, run_api(tmp_path / "run", storage_url) as (run_url, _):
        settings = stand_in_settings(tmp_path, storage_url, run_url)
        store, cloud_run, bundle = Store(settings), CloudRun(settings), tmp_path / "bundle"
        sha256 = write_bundle(bundle, 0.5)
        upload_bundle(store, bundle, sha256)
        store.write("poster.jpg", POSTER.read_bytes())
        model = {"version": "3", "dataset_date": "2026-11-29"}

        fast = deploy_checked_candidate(settings, bundle, ["poster.jpg"], **model, max_milliseconds=2000)
        assert {name: fast.environment[name] for name in MODEL_VARIABLES} == {
            "BUNDLE_URI": store.uri(bundle_key(sha256)),
            "BUNDLE_SHA256": sha256,
            "MODEL_VERSION": "3",
            "DATASET_DATE": "2026-11-29",
            "COLLECTION": settings.collection,
        }
        cloud_run.send_traffic(fast.name)
        assert " ms per poster (median of 20 requests, 95 % within " in caplog.text
        slow = slow_source(tmp_path / "slow", seconds=0.2)
        monkeypatch.setattr("tasks.candidate_revisions.function_source", lambda: slow)
        sentence = rf"version 3 \({sha256[:8]}\) takes [2-9]\d\d ms per poster .*, and 150 ms are allowed"
        with pytest.raises(DeploymentError, match=sentence):
            deploy_checked_candidate(settings, bundle, ["poster.jpg"], **model, max_milliseconds=150)
        assert cloud_run.live().name == fast.name
        assert "deployed" not in caplog.text, "another revision would be no faster"


def test_revision_that_failed_its_check_is_neither_promoted_nor_served_by_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage_emulator(tmp_path, "data") as storage_url, run_api(tmp_path / "run", storage_url) as (run_url, _):
        settings = stand_in_settings(tmp_path, storage_url, run_url)
        store, registry, cloud_run = Store(settings), Registry(settings), CloudRun(settings)
        store.write("poster.jpg", POSTER.read_bytes())
        bundles = []
        for version in ("1", "2"):
            bundles.append(write_bundle(tmp_path / version, 0.1 * int(version)))
            with registry.run(version, {}) as run_id:
                registry.register(run_id, tmp_path / version, {"bundle_sha256": bundles[-1]}, "")
        promote(settings, "1", "a person")
        store.write(f"deployments/{bundles[0]}.json", b"{}")  # a bundle without figures gets none
        good = cloud_run.live()
        assert good is not None and read_rollouts(store)[-1].revision == good.name
        with monkeypatch.context() as patch:
            slow = slow_source(tmp_path / "slow", seconds=0.2)
            patch.setattr("tasks.candidate_revisions.function_source", lambda: slow)
            with pytest.raises(DeploymentError, match="150 ms are allowed"):
                deploy_checked_candidate(
                    settings, tmp_path / "1", ["poster.jpg"], version="1", dataset_date="", max_milliseconds=150
                )
        refused = cloud_run.revisions()[0]
        assert refused.ready and refused.bundle_sha256 == bundles[0] and refused.name != good.name

        promote(settings, "2", "a person")
        assert roll_back(settings, None, "a person").revision == good.name
        promote(settings, "2", "a person")
        assert promote(settings, "1", "a person").revision == good.name
        promote(settings, "2", "a person")
        cloud_run.delete_revision(good.name)
        for version, sentence in ((None, "No earlier model"), ("1", "No revision that was live serves version 1")):
            with pytest.raises(NotFound, match=sentence):
                roll_back(settings, version, "a person")
        again = promote(settings, "1", "a person").revision
        assert again != refused.name, "it is deployed and checked"
    mlflow.set_tracking_uri(None)
