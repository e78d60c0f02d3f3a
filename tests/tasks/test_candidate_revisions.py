"""Checks of a revision before it gets traffic, on the stand-ins for storage and Cloud Run."""

import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

import serving
from flows.trial import _tiny_bundle
from infra.cloud_run import CloudRun
from infra.errors import DeploymentError
from infra.revisions import MODEL_VARIABLES
from infra.settings import Settings
from infra.source_zip import source_zip
from infra.store import Store
from serving.bundle.model import Model
from tasks.bundles import bundle_key, upload_bundle
from tasks.candidate_revisions import deploy_checked_candidate
from tests.infra.conftest import TOKEN, run_api
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
        settings = Settings(
            workspace=tmp_path,
            bucket="data",
            storage_emulator_host=storage_url,
            cloud_run_endpoint=run_url,
            cloud_run_token=SecretStr(TOKEN),
        )
        store, cloud_run, bundle = Store(settings), CloudRun(settings), tmp_path / "bundle"
        bundle.mkdir()
        for name, data in _tiny_bundle().items():
            (bundle / name).write_bytes(data)
        sha256 = Model.load(bundle).sha256
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
        cloud_run.send_traffic(settings.service, fast.name)
        assert " ms per poster (median of 20 requests, 95 % within " in caplog.text
        slow = slow_source(tmp_path / "slow", seconds=0.2)
        monkeypatch.setattr("tasks.candidate_revisions.function_source", lambda: slow)
        sentence = rf"version 3 \({sha256[:8]}\) takes [2-9]\d\d ms per poster .*, and 150 ms are allowed"
        with pytest.raises(DeploymentError, match=sentence):
            deploy_checked_candidate(settings, bundle, ["poster.jpg"], **model, max_milliseconds=150)
        assert cloud_run.live(settings.service).name == fast.name
        assert "deployed" not in caplog.text, "another revision would be no faster"
