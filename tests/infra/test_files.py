"""Files and folders that are written at once, and the lock of a workspace."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import BusyError
from infra.files import move_folder, remove_temporary_files, workspace_lock, write_bytes
from serving.bundle.files import temporary_path


def test_atomic_write_is_on_the_disk_before_it_is_moved_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []

    def recorded(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
        fsync(descriptor)
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", recorded)
    write_bytes(tmp_path / "file", b"content")
    assert synced == [(str(temporary_path(tmp_path / "file")), False), (str(tmp_path), True)]
    synced.clear()
    write_bytes(tmp_path / "poster.jpg", b"content", durable=False)
    assert synced == []

    complete = tmp_path / "complete"
    write_bytes(complete / "part" / "manifest.json", b"new", durable=False)
    write_bytes(tmp_path / "folder" / "of" / "before", b"old", durable=False)
    move_folder(complete, tmp_path / "folder")
    assert [str(path.relative_to(tmp_path / "folder")) for path in (tmp_path / "folder").rglob("*")] == [
        *("part", "part/manifest.json")
    ]
    assert {path for path, _ in synced} == {
        str(complete),
        str(complete / "part"),
        str(complete / "part/manifest.json"),
        str(tmp_path),
    }


def test_temporary_files_are_removed_unless_their_process_is_running(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = [tmp_path / ".a.part", tmp_path / "in" / f".a.{dead.pid}.part", tmp_path / f".own.{os.getpid()}.part"]
    old += [tmp_path / f".bundle.{dead.pid}.part" / "file"]
    running = [tmp_path / "in" / f".a.b.{os.getppid()}.part", tmp_path / "in" / "a.part"]
    for file in (*old, *running):
        write_bytes(file, b"")
    remove_temporary_files(tmp_path)
    assert [file for file in (*old, *running) if file.exists()] == running


def test_workspace_lock_has_one_holder_and_is_released(tmp_path: Path) -> None:
    with workspace_lock(tmp_path), pytest.raises(BusyError, match="Another run is using"), workspace_lock(tmp_path):
        pass
    with workspace_lock(tmp_path):
        pass
