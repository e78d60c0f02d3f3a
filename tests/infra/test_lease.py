"""The leases of a bucket: one pipeline and one rollout at a time, and no clock is compared."""

import json
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import lease
from infra.errors import BusyError
from infra.lease import LEASE, bucket_lease, rollout_lease
from infra.settings import Settings
from infra.store import Store
from tests.storage import delete, new_bucket

pytestmark = pytest.mark.stack


@pytest.fixture
def store(storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A new bucket, and a lease that is renewed and becomes stale within seconds."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.1)
    return new_bucket(storage_url, tmp_path)


def another(store: Store) -> Store:
    """The same bucket in another pipeline."""
    return Store(Settings(bucket=store.name, storage_emulator_host=store._client._connection.API_BASE_URL))


def test_lease_refuses_a_second_pipeline_and_ends_with_the_first(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    busy = rf"using the bucket {store.name}: \S+/one, since 20\S+. Wait until it ends"
    with bucket_lease(store, tmp_path / "one"):
        for _ in range(2):
            with pytest.raises(BusyError, match=busy), bucket_lease(another(store), tmp_path / "two"):
                pass
        assert caplog.text.count("Waiting for it") == 1, "a run that waits tries again for hours"
        assert json.loads(store.read(LEASE))["place"].endswith("/one")
    with bucket_lease(another(store), tmp_path / "two"):
        assert json.loads(store.read(LEASE))["place"].endswith("/two")
    assert not store.exists(LEASE)


def test_lease_of_the_same_workspace_is_taken_at_once(store: Store, tmp_path: Path) -> None:
    with bucket_lease(store, tmp_path):
        killed = store.read(LEASE)
    store.write(LEASE, killed)
    began = time.monotonic()
    with bucket_lease(store, tmp_path):
        assert time.monotonic() - began < 1, "nobody waits for a process that the workspace's lock excludes"


def test_lease_of_another_workspace_with_the_same_name_and_path_is_another_ones(store: Store, tmp_path: Path) -> None:
    """As in two containers that have the host's name and a volume each, at the same path."""
    workspace = tmp_path / "workspace"
    with bucket_lease(store, workspace):
        workspace.rename(tmp_path / "first container")
        with pytest.raises(BusyError, match=r"/workspace, since 20"), bucket_lease(another(store), workspace):
            pass


def test_lease_of_an_earlier_version_in_the_same_workspace_is_taken_at_once(store: Store, tmp_path: Path) -> None:
    with bucket_lease(store, tmp_path):
        killed = json.loads(store.read(LEASE))
    store.write(LEASE, json.dumps({name: value for name, value in killed.items() if name != "workspace"}).encode())
    began = time.monotonic()
    with bucket_lease(store, tmp_path):
        assert time.monotonic() - began < 1


def test_workspace_has_one_id_although_two_processes_start_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, link = threading.Barrier(2), os.link

    def link_together(source: Path, target: Path) -> None:
        both.wait(10)
        link(source, target)

    monkeypatch.setattr(os, "link", link_together)
    with ThreadPoolExecutor(2) as pool:
        ids = set(pool.map(lease._workspace_id, [tmp_path, tmp_path]))
    assert ids == {lease._workspace_id(tmp_path)} and len(ids.pop()) == 32
    assert [file.name for file in tmp_path.iterdir()] == ["workspace.id"]


def test_lease_that_is_not_renewed_is_taken_over(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "RENEW_SECONDS", 3.0)  # cut off from the bucket for longer than a lease lives
        cut_off = bucket_lease(another(store), tmp_path / "one")
        cut_off.__enter__()
    with bucket_lease(store, tmp_path / "two"):
        assert "has not written for a minute" in caplog.text
        deadline = time.monotonic() + 10
        while "What this run writes may fail" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        cut_off.__exit__(None, None, None)
        assert "Another pipeline has taken over the bucket" in caplog.text
        assert json.loads(store.read(LEASE))["place"].endswith("/two"), "the first pipeline leaves it alone"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_lease_that_is_damaged_is_replaced(store: Store, content: bytes, tmp_path: Path) -> None:
    store.write(LEASE, content)
    with bucket_lease(store, tmp_path):
        assert json.loads(store.read(LEASE))["place"].endswith(tmp_path.name)
        delete(store, LEASE)
        time.sleep(0.5)
    assert not store.exists(LEASE)


def test_lease_is_one_for_all_collections(settings: Settings, store: Store, tmp_path: Path) -> None:
    films = Store(settings.model_copy(update={"bucket": store.name, "collection_name": "films"}))
    with (
        bucket_lease(store, tmp_path / "one"),
        pytest.raises(BusyError),
        bucket_lease(films, tmp_path / "two"),
    ):
        pass


@pytest.mark.parametrize("other", ["one", "two"], ids=["same workspace", "another machine"])
def test_rollout_waits_for_another_one_beside_a_pipeline(
    store: Store, tmp_path: Path, other: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with bucket_lease(store, tmp_path / "one"), ThreadPoolExecutor(1) as pool:

        def roll_out() -> float:
            with rollout_lease(another(store), tmp_path / other):
                return time.monotonic()

        with rollout_lease(store, tmp_path / "one"):
            with monkeypatch.context() as patch:
                patch.setattr(lease, "ROLLOUT_WAIT_SECONDS", 0.3)
                with pytest.raises(BusyError, match=r"Another rollout is using .*/one, since 20"):
                    roll_out()
            waiting = pool.submit(roll_out)
            time.sleep(0.6)
            ended = time.monotonic()
        assert waiting.result() > ended
    assert "/one, since 20" in caplog.text and not store.keys("")
