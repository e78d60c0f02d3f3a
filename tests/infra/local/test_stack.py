"""The workspace of a stack. tests/flows tests the running stack."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from infra import disk
from infra.errors import ConfigurationError, DiskFull, StackError
from infra.local.stack import local_stack, prepare_workspace, running_stack_environment


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


def test_stack_that_is_unreachable_is_not_joined(tmp_path: Path) -> None:
    assert running_stack_environment(tmp_path) is None
    (tmp_path / "stack.json").write_text(json.dumps({"PREFECT_API_URL": "http://127.0.0.1:9/api"}))
    assert running_stack_environment(tmp_path) is None
