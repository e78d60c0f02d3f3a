"""The MLflow client with sqlite: runs, artifacts, model versions and the champion."""

import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from infra.errors import ServiceUnavailable
from infra.registry import Registry
from infra.settings import Settings
from tests.faults import Fault, fault_proxy

pytestmark = pytest.mark.stack

GENRES, SIZE = 3, 8


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def registry(workspace: Path) -> Iterator[Registry]:
    yield Registry(Settings(workspace=workspace))
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def model(workspace: Path) -> Path:
    """An ONNX file that maps uint8 [N, 3, 8, 8] to the mean of each channel, float32 [N, 3]."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["probabilities"], axes=[2, 3], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", GENRES])]
    graph = helper.make_graph(nodes, "means", inputs, outputs)
    path = workspace / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_runs_are_nested_and_log_parameters_metrics_and_images(registry: Registry) -> None:
    with (
        registry.run("outer", {"epochs": 3}) as outer,
        registry.run("inner", {"learning_rate": 0.1}, parent=outer) as inner,
    ):
        registry.log_metrics(inner, {"f1/Sci-Fi": 0.5}, step=2)
        registry.log_image(inner, "posters", np.zeros((4, 4, 3), np.uint8))
    run = mlflow.get_run(inner)
    assert run.data.tags["mlflow.parentRunId"] == outer
    assert run.data.params == {"learning_rate": "0.1"}
    assert run.data.metrics == {"f1/Sci-Fi": 0.5}
    assert run.info.status == "FINISHED"
    assert mlflow.artifacts.list_artifacts(run_id=inner, artifact_path="images")


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


def test_registered_version_is_found_by_bundle_and_predicts_in_mlflow(registry: Registry, model: Path) -> None:
    with registry.run("training", {}) as run_id:
        pass
    tags = {"bundle_sha256": "abc", "dataset_key": "key"}
    version = registry.register(run_id, model, SIZE, GENRES, tags, "Network scratch.")
    assert mlflow.MlflowClient().get_model_version("anime-genre", version.version).description == "Network scratch."
    with registry.run("other", {}) as other_id:
        registry.log_metrics(other_id, {"test/weighted_f1": 0.25})
    assert registry.metrics(other_id) == {"test/weighted_f1": 0.25}
    assert registry.version_of("abc") == version
    assert registry.version_of("another") is None
    assert registry.champion() is None
    registry.set_champion(version.version)
    champion = registry.champion()
    assert champion is not None
    assert (champion.version, champion.tags["dataset_key"]) == (version.version, "key")
    loaded = mlflow.pyfunc.load_model("models:/anime-genre@champion")
    prediction = loaded.predict(np.full((2, 3, SIZE, SIZE), 7, np.uint8))
    assert np.array_equal(prediction["probabilities"], np.full((2, GENRES), 7, np.float32))
    signature = loaded.metadata.signature
    assert [list(field.shape) for field in signature.inputs] == [[-1, 3, SIZE, SIZE]]
    assert [list(field.shape) for field in signature.outputs] == [[-1, GENRES]]


def test_artifacts_are_stored_in_the_workspace(registry: Registry, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "card.md").write_text("a card")
    with registry.run("artifacts", {}) as run_id:
        registry.log_folder(run_id, tmp_path / "bundle", "bundle")
    assert list(workspace.rglob("card.md"))
    assert (registry.fetch_folder(run_id, "bundle", tmp_path / "fetched") / "card.md").read_text() == "a card"


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
