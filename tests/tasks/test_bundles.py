"""Bundles in the bucket, with the real client and a local emulator."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import NotFound
from infra.files import sha256_of
from infra.settings import Settings
from infra.store import Store
from serving.bundle.errors import BundleError
from tasks.bundles import bundle_key, check_bundle, fetch_uploaded_bundle, upload_bundle
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack

OLD = {"model.onnx": b"a network", "weights.safetensors": b"its weights"}
NEW = {**OLD, "figures.json": b"{}", "model-int8.onnx": b"a smaller network"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("storage")
    with storage_emulator(folder, "bundles") as url:
        yield Store(Settings(workspace=folder, bucket="bundles", storage_emulator_host=url, service_timeout_seconds=5))


def write(folder: Path, files: dict[str, bytes]) -> str:
    """Write a bundle of these files and a card, and return its sha256."""
    folder.mkdir()
    for name, data in {**files, "card.md": b"a card"}.items():
        (folder / name).write_bytes(data)
    manifest = {
        "format": 1,
        "genres": [{"id": 1, "name": "Action", "threshold": 0.5}],
        "preprocessing": {
            "size": 32,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
            "resize": "squash-bilinear",
            "version": 1,
        },
        "network": {},
        "dataset_key": "0" * 64,
        "files": {name: sha256_of(data) for name, data in files.items()},
    }
    data = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(data)
    return sha256_of(data)


@pytest.mark.parametrize("files", [OLD, NEW], ids=["old", "new"])
def test_fetch_uploaded_bundle_returns_every_file_of_the_bundle(
    files: dict[str, bytes], store: Store, tmp_path: Path
) -> None:
    sha256 = write(tmp_path / "bundle", files)
    upload_bundle(store, tmp_path / "bundle", sha256)
    folder = fetch_uploaded_bundle(store, tmp_path / "workspace", sha256)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    assert found.keys() == {*files, "card.md", "manifest.json"}
    assert check_bundle(folder, sha256).files.keys() == files.keys()


def test_fetch_uploaded_bundle_raises_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        fetch_uploaded_bundle(store, tmp_path, "0" * 64)


def test_fetch_uploaded_bundle_refuses_changed_files(store: Store, tmp_path: Path) -> None:
    sha256 = write(tmp_path / "bundle", {**NEW, "figures.json": b'{"posters": 1}'})
    upload_bundle(store, tmp_path / "bundle", sha256)
    store.write(f"{bundle_key(sha256)}/figures.json", b"{}")
    with pytest.raises(BundleError, match=r"figures.json has sha256"):
        fetch_uploaded_bundle(store, tmp_path / "workspace", sha256)
    store.write(f"{bundle_key(sha256)}/manifest.json", b"{}")
    with pytest.raises(BundleError, match=r"manifest.json has sha256"):
        fetch_uploaded_bundle(store, tmp_path / "other", sha256)
