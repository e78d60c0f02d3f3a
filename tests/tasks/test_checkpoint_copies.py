"""Copies of checkpoints in a bucket, as a training on another machine makes and takes them."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ServiceUnavailable
from infra.store import Store
from tasks import checkpoint_copies
from tasks.checkpoint_copies import CheckpointCopies
from tests.storage import new_bucket, storage_emulator

pytestmark = pytest.mark.stack

NAME = "scratch-trial-1.pt"


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storage_emulator(tmp_path_factory.mktemp("storage"), "unused") as url:
        yield url


@pytest.fixture
def store(storage_url: str, tmp_path: Path) -> Store:
    return new_bucket(storage_url, tmp_path)


def checkpoint(machine: Path, content: bytes) -> Path:
    """A checkpoint of a training on a machine with this workspace."""
    file = machine / "checkpoints" / "key" / NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_copies_are_taken_by_another_machine_and_end_with_the_training(store: Store, tmp_path: Path) -> None:
    lost, other = tmp_path / "lost", tmp_path / "other"
    CheckpointCopies(store, lost, "key").save(checkpoint(lost, b"half"))
    copies = CheckpointCopies(store, other, "key")
    copies.fetch()
    file = other / "checkpoints" / "key" / NAME
    assert file.read_bytes() == b"half"
    file.write_bytes(b"most")
    copies.save(file)
    assert store.read(f"checkpoints/key/{NAME}") == b"most"
    CheckpointCopies(store, other, "another").fetch()
    assert not (other / "checkpoints" / "another").exists()
    copies.clear()
    assert store.keys("checkpoints/") == []


def test_copies_replace_only_older_files(store: Store, tmp_path: Path) -> None:
    file = checkpoint(tmp_path, b"copied")
    copies = CheckpointCopies(store, tmp_path, "key")
    copies.save(file)
    for modified, content in ((2**32, b"newer"), (0, b"copied")):
        file.write_bytes(b"newer" if modified else b"older")
        os.utime(file, (modified, modified))
        copies.fetch()
        assert file.read_bytes() == content


def test_copies_take_a_tenth_of_the_time_and_none_is_forgotten(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoint_copies.time, "monotonic", lambda: now)
    uploads: list[set[str]] = []

    def upload(files: dict[str, Path]) -> None:
        nonlocal now
        now += 6
        uploads.append({key.rpartition("/")[2] for key in files})

    monkeypatch.setattr(store, "upload", upload)
    copies = CheckpointCopies(store, tmp_path, "key")
    folder = tmp_path / "checkpoints" / "key"
    for wait, name in ((0, "a"), (20, "a"), (20, "b"), (20, "c"), (54, "d")):
        now += wait
        copies.save(folder / name)
    assert uploads == [{"a"}, {"a", "b", "c"}, {"d"}]


def test_copies_that_fail_do_not_stop_the_training(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ServiceUnavailable("The bucket is down.")

    copies = CheckpointCopies(store, tmp_path, "key")
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", fail)
        patch.setattr(store, "keys", fail)
        copies.save(checkpoint(tmp_path, b"half"))
        copies.clear()
    assert [each.message.partition(".")[0] for each in caplog.records] == [
        "A checkpoint is not copied into the bucket; the next one is",
        "Copies of checkpoints are left in the bucket; `prune` deletes them",
    ]
    time.sleep(0.5)  # more than nine times what the failure took
    copies.save(checkpoint(tmp_path, b"most"))
    assert store.read(f"checkpoints/key/{NAME}") == b"most"
