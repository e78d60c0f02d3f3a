"""The MLflow client with sqlite: runs, artifacts, model versions and the champion."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from flows.trial import _tiny_bundle
from infra.errors import NotFound, ServiceUnavailable
from infra.registry import Registry
from infra.settings import Settings
from serving.bundle.model import Model
from tests.faults import Fault, fault_proxy

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow") / "a 100% #1?"


@pytest.fixture
def registry(workspace: Path) -> Iterator[Registry]:
    yield Registry(Settings(workspace=workspace))
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def bundle(workspace: Path) -> Path:
    """The folder of a small bundle, with a name that has a meaning in addresses."""
    folder = workspace / "a bundle#1"
    folder.mkdir(parents=True)
    for name, data in _tiny_bundle().items():
        (folder / name).write_bytes(data)
    return folder


def poster(colour: str) -> bytes:
    """A PNG file of one colour."""
    stream = BytesIO()
    Image.new("RGB", (40, 60), colour).save(stream, "PNG")
    return stream.getvalue()


def test_runs_are_nested_and_log_parameters_metrics_and_images(registry: Registry) -> None:
    with registry.run("outer", {"epochs": 3}) as outer:
        inner = registry.start_run("inner", {"learning_rate": 0.1}, parent=outer)
        registry.log_metrics(inner, {"f1/Sci-Fi": 0.5}, step=2)
        registry.log_image(inner, "posters", np.zeros((4, 4, 3), np.uint8))
        registry.end_run(inner, "FINISHED")
    run = mlflow.get_run(inner)
    assert run.data.tags["mlflow.parentRunId"] == outer
    assert run.data.params == {"learning_rate": "0.1"}
    assert run.data.metrics == {"f1/Sci-Fi": 0.5}
    assert run.info.status == "FINISHED"
    assert mlflow.artifacts.list_artifacts(run_id=inner, artifact_path="images")


def test_metrics_of_all_labels_are_logged_under_names_that_mlflow_accepts(registry: Registry) -> None:
    labels = ["C#", "C+", "C_", "/Arts & Entertainment/Comics", "Kids/", "A//B", ".", "..", "a" * 300, "a" * 301]
    with registry.run("training", {}) as run_id:
        for step in (1, 2):
            registry.log_metrics(run_id, {f"f1/{label}": place + step for place, label in enumerate(labels)}, step)
    names = ["C_", "C_ 2", "C_ 3", "_/Arts _ Entertainment/Comics", "Kids/_", "A/_/B", "_", "_ 2"]
    names += ["a" * 237, f"{'a' * 237} 2"]
    assert registry.metrics(run_id) == {f"f1/{name}": place + 2 for place, name in enumerate(names)}


def test_run_that_raises_is_failed_and_still_exists(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.run("broken", {}) as run_id:
        raise ZeroDivisionError
    assert mlflow.get_run(run_id).info.status == "FAILED"
    assert registry.has_run(run_id)
    assert not registry.has_run("0" * 32)


def test_deleted_experiment_is_restored_with_its_runs(registry: Registry, workspace: Path) -> None:
    with registry.run("kept", {}) as run_id:
        pass
    mlflow.delete_experiment(mlflow.get_run(run_id).info.experiment_id)
    assert not registry.has_run(run_id)
    assert Registry(Settings(workspace=workspace)).has_run(run_id)


def test_registered_version_is_found_by_its_bundle_and_leaves_the_finished_run_alone(
    registry: Registry, bundle: Path
) -> None:
    with registry.run("training", {}) as run_id:
        pass
    ended = mlflow.get_run(run_id).info
    tags = {"bundle_sha256": Model.load(bundle).sha256, "dataset_key": "key"}
    version = registry.register(run_id, bundle, tags, "Network scratch.")
    info = mlflow.get_run(run_id).info
    assert (info.status, info.end_time) == ("FINISHED", ended.end_time)
    assert mlflow.MlflowClient().get_model_version("anime-genre", version.version).description == "Network scratch."
    with registry.run("other", {}) as other_id:
        registry.log_metrics(other_id, {"test/weighted_f1": 0.25})
    assert registry.metrics(other_id) == {"test/weighted_f1": 0.25}
    assert registry.version_of(tags["bundle_sha256"]) == version
    assert registry.version_of("another") is None
    assert registry.champion() is None
    registry.set_champion(version.version)
    champion = registry.champion()
    assert champion is not None
    assert (champion.version, champion.run_id, champion.tags["dataset_key"]) == (version.version, run_id, "key")


def test_register_creates_one_version_although_a_response_is_lost(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, lost = mlflow.register_model, [MlflowException("The response is lost.")]

    def register_and_lose(*args: Any, **options: Any) -> Any:
        version = register(*args, **options)
        if lost:
            raise lost.pop()
        return version

    monkeypatch.setattr(mlflow, "register_model", register_and_lose)
    with registry.run("training", {}) as run_id:
        pass
    version = registry.register(run_id, bundle, {"bundle_sha256": Model.load(bundle).sha256}, "Network scratch.")
    (only,) = mlflow.MlflowClient().search_model_versions(f"run_id = '{run_id}'")
    assert (str(only.version), only.description) == (version.version, "Network scratch.")


def test_registered_version_predicts_from_the_bytes_of_posters(registry: Registry, bundle: Path) -> None:
    with registry.run("training", {}) as run_id:
        pass
    model = Model.load(bundle)
    version = registry.register(run_id, bundle, {"bundle_sha256": model.sha256}, "")
    loaded = mlflow.pyfunc.load_model(f"models:/anime-genre/{version.version}")
    posters = [poster("red"), poster("green")]
    expected = [{"genres": [asdict(genre) for genre in genres]} for genres in model.predict(posters)]
    assert expected[0] != expected[1]
    assert loaded.predict(posters) == expected
    assert loaded.predict(pd.DataFrame({"poster": posters})) == expected
    with pytest.raises(Exception, match=r"^This is not a JPEG, PNG, WebP, AVIF or GIF image\.$"):
        loaded.predict([b"no image"])
    assert loaded.metadata.signature.inputs.to_dict() == [{"type": "binary", "required": True}]
    (genres,) = loaded.metadata.signature.outputs.to_dict()[0]["properties"].values()
    assert genres["items"]["properties"].keys() == expected[0]["genres"][0].keys()


def test_bundle_is_logged_once_and_completed_after_a_kill(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    sha256, client = Model.load(bundle).sha256, mlflow.MlflowClient()
    with registry.run("training", {}) as run_id:
        experiment = client.get_run(run_id).info.experiment_id
        begun = client.create_logged_model(
            experiment, "model", source_run_id=run_id, tags={"bundle_sha256": sha256}
        ).model_id
        with pytest.raises(NotFound, match="has no complete model with the bundle"):
            registry.fetch_bundle(run_id, sha256, tmp_path)
        assert registry.log_bundle(run_id, bundle, sha256) == registry.log_bundle(run_id, bundle, sha256) == begun
        assert registry.logged_models(run_id) == [begun]
    fetched = registry.fetch_bundle(run_id, sha256, tmp_path)
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == files
    stored = Path(mlflow.artifacts.download_artifacts(f"models:/{begun}", dst_path=str(tmp_path / "model")))
    assert [path.name for path in stored.rglob("*") if path.suffix in (".pkl", ".pyc")] == []
    written = "".join(path.read_text() for path in (stored / "MLmodel", stored / "requirements.txt"))
    assert str(Path.cwd()) not in written and str(bundle) not in written
    assert all(f"{package}==" in written for package in ("mlflow", "numpy", "onnxruntime", "pillow"))


def test_registry_is_unavailable_if_the_server_is_unreachable(tmp_path: Path) -> None:
    unreachable = Settings(workspace=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9", service_timeout_seconds=1)
    try:
        with pytest.raises(ServiceUnavailable, match="Opening MLflow failed temporarily: the server is not reachable"):
            Registry(unreachable)
    finally:
        mlflow.set_tracking_uri(None)


def test_registry_retries_for_the_time_limit_of_services_and_raises_the_first_failure(workspace: Path) -> None:
    started = time.monotonic()
    with (
        fault_proxy("http://127.0.0.1:9", Fault("", times=1, status=500), Fault("")) as proxy,
        pytest.raises(ServiceUnavailable, match=r"^Opening MLflow .*: the server responded with status 500\.$"),
    ):
        Registry(Settings(workspace=workspace, mlflow_tracking_uri=proxy.url, service_timeout_seconds=3))
    mlflow.set_tracking_uri(None)
    assert [fault.hits for fault in proxy.faults] == [1, 2]
    assert time.monotonic() - started < 5
