"""The workspace of a stack. tests/flows tests the running stack."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from infra import disk
from infra.errors import ConfigurationError, DiskFull, StackError
from infra.local.stack import local_stack, prepare_workspace, running_stack_environment
from tests.conftest import NewWorkspace
from tests.infra.conftest import BUCKET, TOKEN, Serve, run_api


def test_workspace_that_is_not_writable_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"The workspace .*/file/workspace is not writable"):
        prepare_workspace(tmp_path / "file" / "workspace")


def test_workspace_on_a_nearly_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
    with pytest.raises(
        DiskFull, match=r"is nearly full: it has \d+ MB left, and a run needs 1000000000000 MB\. Free \d+"
    ):
        prepare_workspace(tmp_path)


def test_workspace_has_one_stack_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "stack.lock"),
        pytest.raises(StackError, match="Another stack is running"),
        local_stack(tmp_path),
    ):
        pass


@pytest.mark.stack
def test_stack_with_google_cloud_has_no_stand_ins(
    storage_url: str, new_workspace: NewWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins that run elsewhere take the place of Google here."""
    with run_api(tmp_path / "google", storage_url) as (endpoint, _):
        for name, value in {"": "google", "_RUN_ENDPOINT": endpoint, "_RUN_TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"ANIME_GENRE_CLOUD{name}", value)
        monkeypatch.setenv("ANIME_GENRE_BUCKET", BUCKET)
        monkeypatch.setenv("ANIME_GENRE_GOOGLE_PROJECT", "test-project")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage_url)
        monkeypatch.setenv("ANIME_GENRE_SERVICE", "films-of-a-person")
        with local_stack(new_workspace(tmp_path / "workspace")) as stack:
            logs = {path.name for path in (tmp_path / "workspace" / "logs").glob("*.log")}
            assert logs == {"prefect.log", "mlflow.log"}
            assert stack.environment["ANIME_GENRE_CLOUD"] == "google"
            assert stack.environment["ANIME_GENRE_SERVICE"] == "films-of-a-person"
            assert "ANIME_GENRE_MODEL_NAME" not in stack.environment, "each collection has its own"
            assert not stack.environment.keys() & {"STORAGE_EMULATOR_HOST", "ANIME_GENRE_CLOUD_RUN_ENDPOINT"}
            assert stack.function_url == "", "it does not exist yet"
            assert running_stack_environment(tmp_path / "workspace") == stack.environment


def test_stack_is_joined_only_if_its_lock_is_held_and_it_is_reachable(tmp_path: Path, serve: Serve) -> None:
    assert running_stack_environment(tmp_path) is None
    for address, is_reachable in (("http://127.0.0.1:9", False), (serve((200, {}))[0], True)):
        environment = {"PREFECT_API_URL": f"{address}/api"}
        (tmp_path / "stack.json").write_text(json.dumps(environment))
        with FileLock(tmp_path / "stack.lock"):
            assert running_stack_environment(tmp_path) == (environment if is_reachable else None)
        assert running_stack_environment(tmp_path) is None, "it was killed, and another one has its port"
