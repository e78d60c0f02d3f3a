"""The workspace a stack lives in, and who else lives there. The stack itself is tried by the flows' tests."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from infra.errors import ConfigurationError, StackError
from infra.local import stack
from infra.local.stack import local_stack, prepare_workspace, running_stack_environment


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"The workspace .*/file/workspace cannot be written"):
        prepare_workspace(tmp_path / "file" / "workspace")


def test_a_disk_that_is_as_good_as_full_is_named_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "LEAST_FREE_BYTES", 10**18)
    with pytest.raises(ConfigurationError, match=r"MB left; a run needs 1000000000000 MB"):
        prepare_workspace(tmp_path)


def test_two_stacks_do_not_share_a_workspace(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "stack.lock"),
        pytest.raises(StackError, match="Another stack is running"),
        local_stack(tmp_path),
    ):
        pass


def test_a_stack_that_does_not_answer_is_not_joined(tmp_path: Path) -> None:
    assert running_stack_environment(tmp_path) is None
    (tmp_path / "stack.json").write_text(json.dumps({"PREFECT_API_URL": "http://127.0.0.1:9/api"}))
    assert running_stack_environment(tmp_path) is None
