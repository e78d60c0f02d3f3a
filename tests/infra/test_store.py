"""The bucket, through the real client and a local emulator."""

from pathlib import Path

import pytest

from infra.errors import NotFound, ServiceUnavailable
from infra.settings import Settings
from infra.store import Store
from tests.faults import Fault, fault_proxy

pytestmark = pytest.mark.stack


def test_what_is_written_is_read_back(settings: Settings) -> None:
    store = Store(settings)
    assert not store.exists("a/b.json")
    store.write("a/b.json", b"content")
    assert store.exists("a/b.json")
    assert store.read("a/b.json") == b"content"
    assert store.uri("a/b.json") == "gs://test-bucket/a/b.json"


def test_objects_are_listed_by_how_their_names_begin(settings: Settings) -> None:
    store = Store(settings)
    for key in ("listed/one.json", "listed/two.npy", "listed-not/three"):
        store.write(key, b"content")
    assert sorted(store.keys("listed/")) == ["listed/one.json", "listed/two.npy"]
    assert store.keys("nothing/") == []


def test_many_files_go_up_and_come_down_whole(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings)
    files = {f"many/{i}": tmp_path / "up" / str(i) for i in range(40)}
    (tmp_path / "up").mkdir()
    for i, path in enumerate(files.values()):
        path.write_bytes(bytes([i]) * 1000)
    store.upload(files)
    down = {key: tmp_path / "down" / path.name for key, path in files.items()}
    store.download(down)
    assert all(down[key].read_bytes() == files[key].read_bytes() for key in files)


def test_a_missing_object_is_not_found_and_leaves_no_file(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings)
    with pytest.raises(NotFound):
        store.read("nothing/there")
    with pytest.raises(NotFound):
        store.fetch("nothing/there", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_what_is_here_already_is_not_fetched_again(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"mine")
    assert Store(settings).fetch("nothing/there", tmp_path / "here").read_bytes() == b"mine"


def test_a_store_that_answers_503_is_unavailable_for_now(settings: Settings, storage_url: str) -> None:
    with fault_proxy(storage_url, Fault("busy", seconds=30)) as proxy:
        store = Store(settings.model_copy(update={"storage_emulator_host": proxy.url}))
        with pytest.raises(ServiceUnavailable) as raised:
            store.read("busy")
    assert raised.value.retryable
    assert "gs://test-bucket/busy" in str(raised.value)


def test_a_store_that_is_not_there_is_unavailable_for_now(settings: Settings) -> None:
    store = Store(settings.model_copy(update={"storage_emulator_host": "http://127.0.0.1:9"}))
    with pytest.raises(ServiceUnavailable):
        store.write("key", b"data")
