"""`anime-genre doctor --try` against the stand-ins: it deploys, checks each step, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from google.cloud import run_v2

from flows import trial
from flows.cli import main
from flows.trial import run_trial
from infra import revisions
from infra.cloud_run import CloudRun
from infra.errors import DeploymentError
from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import sha256_of
from tasks.champion import function_source
from tests.infra.conftest import TOKEN, run_api
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack

BUCKET = "trial-bucket"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings for a storage emulator and a Cloud Run stand-in."""
    folder = tmp_path_factory.mktemp("trial")
    with storage_emulator(folder, BUCKET) as storage_url, run_api(folder / "run", storage_url) as (endpoint, _):
        yield Settings.model_validate(
            {
                "bucket": BUCKET,
                "google_project": "my-project-1",
                "workspace": folder / "workspace",
                "storage_emulator_host": storage_url,
                "cloud_run_endpoint": endpoint,
                "cloud_run_token": TOKEN,
            }
        )


def test_trial_checks_each_step_and_leaves_nothing_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = run_v2.Probe(revisions._LOADED)
    probe.failure_threshold = 10  # seconds that a broken revision is waited for, instead of a minute
    monkeypatch.setattr(revisions, "_LOADED", probe)
    source = f"functions/{sha256_of(function_source())}.zip"
    Store(settings).write(source, function_source())  # of an earlier run of the flow
    Store(settings).write("trial/poster.png", b"of a trial that was killed")
    checks = list(run_trial(settings))
    assert [(check.name, check.problem) for check in checks] == [(check.name, "") for check in checks]
    assert [check.name for check in checks][-2:] == ["The service is deleted", "The objects are deleted"]
    assert len(checks) == 11
    assert Store(settings).keys("") == [source]
    assert CloudRun(settings.model_copy(update={"service": "anime-genre-trial"})).url() is None


def test_failed_step_ends_the_trial_and_is_cleaned_up(settings: Settings) -> None:
    checks = list(run_trial(settings.model_copy(update={"function_memory": "1Ti"})))
    assert [check.name for check in checks if check.problem] == ["A first revision starts once its model is loaded"]
    assert "gcloud run services logs read anime-genre-trial" in checks[2].remedy
    assert [check.name for check in checks][3:] == ["The service is deleted", "The objects are deleted"]
    assert not any(key.startswith(("bundles/", "trial/")) for key in Store(settings).keys(""))


def test_trial_without_anything_to_try_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--try", "--workspace", str(tmp_path)]) == 1
    assert "There is nothing to try: no stack is running" in capsys.readouterr().err


def test_trial_deletes_service_and_objects_if_its_reader_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(trial._Trial, "write_objects", lambda self: None)
    monkeypatch.setattr(trial._Trial, "delete_service", lambda self: deleted.append("service"))
    monkeypatch.setattr(trial._Trial, "delete_objects", lambda self: deleted.append("objects"))
    checks: Any = run_trial(Settings())
    assert next(checks).name == "Objects can be written and read"
    checks.close()
    assert deleted == ["service", "objects"]


def test_trial_waits_until_a_new_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []

    def answer(url: str, timeout: float) -> SimpleNamespace:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(status_code=found)

    monkeypatch.setattr(requests, "get", answer)
    monkeypatch.setattr(trial, "_PAUSE_SECONDS", 0)
    tried: Any = trial._Trial(Settings())
    tried.first = SimpleNamespace(url="https://trial")
    answers += [requests.ConnectionError(), 404, 403]
    tried.check_private()
    assert answers == []
    answers.append(200)
    with pytest.raises(DeploymentError, match="The response is 200"):
        tried.check_private()
    monkeypatch.setattr(trial, "STARTUP_SECONDS", -1)
    answers.append(requests.ConnectionError())
    with pytest.raises(DeploymentError, match="The response is ConnectionError"):
        tried.check_private()
