"""Progress with its remaining time, and training while MLflow is down."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from infra import disk
from infra.errors import DiskFull
from infra.local.processes import Processes, free_port
from infra.registry import Registry
from infra.settings import Settings
from ml.training.search import TrialProgress
from tasks import reporters
from tasks.reporters import MlflowReporter, ProgressLog
from tests.faults import Fault, fault_proxy
from tests.messages import project_messages

pytestmark = pytest.mark.stack


class Clock:
    """A clock that work moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_remaining_time_holds_when_the_first_batches_are_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, every_seconds=0, clock=clock)
    epochs, batches = 8, 6
    left_at: dict[int, tuple[float, float]] = {}
    progress = TrialProgress("scratch", 1, epochs, 64 * batches, log)
    progress.begin_trial(1)
    for epoch in range(1, epochs + 1):
        for batch in range(batches):
            clock.seconds += 3.0 if (epoch, batch) == (1, 0) else 1.0
            progress.add(64)
            found = re.search(r"(\d+) of (\d+) \(.*, (\d+) (s|min) left\)$", project_messages(caplog)[-1])
            if found:
                left_at[100 * int(found[1]) // int(found[2])] = (clock.seconds, float(found[3]))
        clock.seconds += 0.5  # the epoch's scores and checkpoint
        progress.end_epoch(epoch)
    progress.end()
    for percent in (20, 50):
        at, left = left_at[percent]
        assert 1 / 1.5 < left / (clock.seconds - at) < 1.5
    assert [each.partition(" (")[0] for each in project_messages(caplog)].count("training scratch: 3072 of 3072") == 1


def test_remaining_time_follows_a_machine_that_becomes_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, clock=clock)
    for done in range(101):
        log.progress(done, 150, "training scratch", "images")
        clock.seconds += 3.0 if done < 50 else 1.0  # another program ends
    left = re.search(r"(\d+) s left\)$", project_messages(caplog)[-1])
    assert left and 50 <= int(left[1]) <= 80


def test_remaining_time_counts_neither_restored_nor_pruned_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    progress = TrialProgress("scratch", 3, 4, 100, ProgressLog(tmp_path, every_seconds=5, clock=clock))
    progress.begin_trial(1)
    for epoch in range(1, 5):  # from a checkpoint
        progress.end_epoch(epoch)
    progress.begin_trial(2)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog) == ["training scratch: 100 of 800 (10.0 images per second, 70 s left)"]
    progress.begin_trial(3)  # the second was pruned after its first epoch
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog)[-1] == "training scratch: 200 of 500 (10.0 images per second, 30 s left)"
    progress.end()
    progress.end()
    assert project_messages(caplog)[2:] == ["training scratch: 200 of 200 (10.0 images per second)"]


def test_remaining_time_includes_the_training_after_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    progress = TrialProgress("scratch", 2, 4, 100, ProgressLog(tmp_path, every_seconds=5, clock=clock))
    progress.begin_trial(1)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog) == ["training scratch: 100 of 800 (10.0 images per second, 70 s left)"]
    for epoch in range(1, 5):
        progress.end_epoch(epoch)
    progress.begin_refit(epochs=2, images=120)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog)[-1] == "training scratch: 200 of 340 (10.0 images per second, 14 s left)"


def test_work_that_was_done_before_the_first_call_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, clock=clock)
    log.progress(1000, 4000, "backbone's features", "images")
    clock.seconds += 100
    log.progress(2000, 4000, "backbone's features", "images")
    assert project_messages(caplog) == ["backbone's features: 2000 of 4000 (10.0 images per second, 3 min left)"]


def test_progress_ends_a_step_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVED_BYTES", 10**18)
    with pytest.raises(DiskFull):
        ProgressLog(tmp_path, every_seconds=0).progress(1, 4, "training scratch")


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with Processes(folder) as processes:
        processes.start("MLflow", command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, f"{url}/health", folder)
        processes.wait_ready()
        yield url
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
        runs = {run.info.run_name: run for run in client.search_runs([experiment])}
        parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
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
