"""Bundles in the bucket, with the real client and a local emulator."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from infra.errors import NotFound
from infra.registry import Registry
from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import sha256_of
from tasks.bundles import (
    bundle_key,
    check_bundle,
    fetch_bundle,
    fetch_predictions,
    upload_bundle,
)
from tests.damage import DAMAGES
from tests.storage import damage, delete, storage_emulator

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


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """MLflow in sqlite, whose tables take seconds to create."""
    yield Registry(Settings(workspace=tmp_path_factory.mktemp("registry")))
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("files", [OLD, NEW], ids=["old", "new"])
def test_bundle_of_the_bucket_has_every_file(
    files: dict[str, bytes], store: Store, registry: Registry, tmp_path: Path
) -> None:
    sha256 = write(tmp_path / "bundle", files)
    upload_bundle(store, tmp_path / "bundle", sha256)
    folder = fetch_bundle(store, registry, tmp_path / "workspace", sha256)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    assert found.keys() == {*files, "card.md", "manifest.json"}
    assert check_bundle(folder, sha256).files.keys() == files.keys()


def test_bundle_that_is_damaged_in_the_workspace_is_replaced_and_named_once(
    store: Store, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = write(tmp_path / "bundle", OLD)
    upload_bundle(store, tmp_path / "bundle", sha256)
    folder = fetch_bundle(store, registry, tmp_path / "workspace", sha256)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, how in itertools.product(["manifest.json", "model.onnx"], [*DAMAGES, Path.unlink]):
        how(folder / name)
        caplog.clear()
        for _ in range(2):
            assert fetch_bundle(store, registry, tmp_path / "workspace", sha256) == folder
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        (message,) = [record.getMessage() for record in caplog.records if record.name == "tasks"]
        assert message.startswith(f"The bundle in {folder} is damaged and is downloaded again. ")
    assert [path.name for path in folder.parent.glob("[!.]*")] == [sha256]


@pytest.mark.parametrize("lost", [["model.onnx"], ["card.md"], ["manifest.json"], ["card.md", *NEW, "manifest.json"]])
def test_upload_bundle_puts_back_what_is_missing_or_damaged(
    lost: list[str], store: Store, registry: Registry, tmp_path: Path
) -> None:
    sha256 = write(tmp_path / "bundle", NEW | {"figures.json": str(lost).encode()})
    assert len(upload_bundle(store, tmp_path / "bundle", sha256)) == 6
    for how in (None, *DAMAGES):
        for name in lost:
            key = f"{bundle_key(sha256)}/{name}"
            damage(store, key, how) if how else delete(store, key)
        assert sorted(upload_bundle(store, tmp_path / "bundle", sha256)) == sorted(lost)
    assert upload_bundle(store, tmp_path / "bundle", sha256) == []
    assert len(list(fetch_bundle(store, registry, tmp_path / "workspace", sha256).iterdir())) == 6


@pytest.mark.parametrize("as_model", [True, False], ids=["model", "earlier artifacts"])
def test_bundle_is_fetched_from_where_it_is_still_intact(
    as_model: bool, store: Store, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = write(tmp_path / "bundle", {**NEW, "figures.json": b'{"model": %d}' % as_model})
    workspace = tmp_path / "workspace"
    with registry.run("training", {}) as run_id:
        pass
    with pytest.raises(NotFound, match="no intact copy in the workspace, MLflow model, MLflow run, bucket"):
        fetch_bundle(store, registry, workspace, sha256, run_id)
    upload_bundle(store, tmp_path / "bundle", sha256)
    folder = fetch_bundle(store, registry, workspace, sha256, run_id)
    (folder / "figures.json").write_bytes(b"{}")
    assert check_bundle(fetch_bundle(store, registry, workspace, sha256, run_id), sha256)
    assert "figures.json has sha256" in caplog.text
    if as_model:
        registry.log_bundle(run_id, tmp_path / "bundle", sha256)
    else:
        mlflow.MlflowClient().log_artifacts(run_id, str(tmp_path / "bundle"), "bundle")
    store.write(f"{bundle_key(sha256)}/figures.json", b"{}")
    (folder / "manifest.json").unlink()
    assert check_bundle(fetch_bundle(store, registry, workspace, sha256, run_id), sha256)
    (folder / "manifest.json").unlink()
    with pytest.raises(NotFound, match="no intact copy in the workspace, bucket"):
        fetch_bundle(store, registry, workspace, sha256)


def test_predictions_are_fetched_from_where_they_are_and_put_back(
    store: Store, registry: Registry, tmp_path: Path
) -> None:
    data = b"predictions"
    key = f"answers/{sha256_of(data)}.npz"
    path = tmp_path / "workspace" / key
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    with registry.run("training", {}) as run_id:
        registry.log_file(run_id, path)

    def fetched() -> bytes:
        return fetch_predictions(store, registry, tmp_path / "workspace", run_id, key).read_bytes()

    assert fetched() == data == store.read(key)  # the workspace has it
    path.write_bytes(b"cut")
    assert fetched() == data  # the bucket has it
    path.unlink()
    store.write(key, b"cut")
    assert fetched() == data == store.read(key)  # only MLflow has it
    with pytest.raises(NotFound):
        fetch_predictions(store, registry, tmp_path / "workspace", run_id, f"answers/{'0' * 64}.npz")
