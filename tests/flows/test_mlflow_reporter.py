"""Training while MLflow is down, with the MLflow of a running stack."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import Settings
from tasks import reporters
from tasks.reporters import MlflowReporter
from tests.faults import Fault, fault_proxy
from tests.messages import project_messages

pytestmark = pytest.mark.stack


@pytest.fixture
def mlflow_url(stack: Stack) -> Iterator[str]:
    """The address of MLflow. MLflow's own functions do not keep that of a proxy in front of it."""
    yield stack.environment["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(None)


def test_training_goes_on_while_mlflow_is_down_and_logs_later(
    mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    monkeypatch.setattr(reporters, "_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(reporters, "_PAUSE_SECONDS", 0.0)
    with fault_proxy(mlflow_url) as server:
        registry = Registry(Settings(workspace=tmp_path, mlflow_tracking_uri=server.url))
        with registry.run("training", {}) as outer, closing(MlflowReporter(registry, outer)) as reporter:
            with reporter.run("scratch", {"epochs": 3}) as network:
                network.scalars({"train/loss": 0.3}, 1)
                server.faults.append(Fault(""))  # the server is killed
                network.scalars({"train/loss": 0.2}, 2)
                network.images("posters", np.zeros((1, 3, 8, 8), np.uint8))
            with reporter.run("whole", {"epochs": 3}) as network, network.run("trial-1", {"width": 1}) as trial:
                trial.scalars({"train/loss": 0.1}, 1)
                server.faults.clear()  # and started again
                trial.scalars({"train/loss": 0.05}, 2)
        client = MlflowClient(server.url)
        experiment = client.get_run(outer).info.experiment_id
        found = {run.info.run_id: run for run in client.search_runs([experiment])}
        parent_of = {id: run.data.tags.get("mlflow.parentRunId", "") for id, run in found.items()}
        below = [id for id in found if outer in (id, parent_of[id], parent_of.get(parent_of[id]))]
        runs = {found[id].info.run_name: found[id] for id in below}
        parents = {found[id].info.run_name: parent_of[id] for id in below}
        losses = {
            name: [point.value for point in client.get_metric_history(run.info.run_id, "train/loss")]
            for name, run in runs.items()
        }
        pictures = client.list_artifacts(runs["scratch"].info.run_id, "images")
    assert losses == {"training": [], "scratch": [0.3, 0.2], "whole": [], "trial-1": [0.1, 0.05]}
    assert parents["whole"] == parents["scratch"] == outer and parents["trial-1"] == runs["whole"].info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"} and len(pictures) == 1
    assert project_messages(caplog) == [
        "Logging to MLflow failed temporarily: the server responded with status 503. The training goes on, and its "
        "curves are logged later.",
        "MLflow is available again, and has the training's curves.",
    ]


def test_training_keeps_its_own_error_while_mlflow_is_down(
    mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporters, "_TIMEOUT_SECONDS", 0.1)
    with fault_proxy(mlflow_url) as server:
        settings = Settings(workspace=tmp_path, mlflow_tracking_uri=server.url, service_timeout_seconds=0.1)
        registry = Registry(settings)
        with (
            pytest.raises(ZeroDivisionError),
            registry.run("training", {}) as outer,
            closing(MlflowReporter(registry, outer)) as reporter,
            reporter.run("scratch", {"epochs": 3}),
        ):
            server.faults.append(Fault(""))
            raise ZeroDivisionError
    assert project_messages(caplog) == [
        "Ending an MLflow run failed temporarily: the server responded with status 503. The training goes on, and its "
        "curves are logged later.",
        "Curves, pictures or ends of runs of this training are missing in MLflow.",
        f"The MLflow run {outer} stays RUNNING until the next start. Ending an MLflow run failed temporarily: the "
        "server responded with status 503.",
    ]
