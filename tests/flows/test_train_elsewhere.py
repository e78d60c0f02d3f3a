"""Training on another machine: a worker with its own workspace, folder and Prefect home trains for a run."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx
import psutil
import pytest
import torch
import torchvision
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate, WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running

import flows.train_step as train_steps
from flows.deployments import deployment
from flows.parameters import RetrainParameters
from flows.retrain import configure_logging, retrain
from flows.summary import recorded_steps, run_retrain
from flows.train_step import train_step
from infra.errors import RunFailed
from infra.local.processes import Processes, terminate_trees
from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.configuration import TrainConfig
from tasks import train_elsewhere
from tasks.posters import collected_before
from tasks.preprocess import preprocess
from tasks.records import DatasetRecord, TrainingRecord
from tasks.train import train
from tests.up import RUN_SECONDS, outside_environment

pytestmark = [pytest.mark.stack, pytest.mark.train]

POOL, EMPTY_POOL = "other", "empty"
COLLECTION = "elsewhere"


class Worker:
    """The command `anime-genre train-worker` on a machine of its own: it shares only the addresses of services."""

    def __init__(self, stack: Stack, machine: Path) -> None:
        shared = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "STORAGE_EMULATOR_HOST")
        self.output = machine / "out.txt"
        machine.mkdir()
        environment = outside_environment() | {name: stack.environment[name] for name in shared}
        environment |= {"PREFECT_HOME": str(machine / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        command = [sys.executable, "-P", "-m", "flows.cli", "train-worker", "--pool", POOL, "--workspace"]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, str(machine / "workspace")], stdout=out, stderr=out, env=environment, cwd=machine
            )

    def kill(self) -> None:
        """End the worker and what it trains at once, as a machine that loses its power."""
        trees = psutil.Process(self.process.pid)
        for each in [trees, *trees.children(recursive=True)]:
            each.kill()
        self.process.wait()

    def stop(self) -> None:
        terminate_trees([self.process.pid], 30)
        self.process.wait()


@pytest.fixture(scope="module")
def small(parameters: RetrainParameters, tmp_path_factory: pytest.TempPathFactory) -> RetrainParameters:
    """Parameters of a run that deploys nothing, and trains for some seconds, with weights in a file of this machine."""
    weights = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), weights)
    longer = replace(parameters.train, trials=2, epochs=8, weights=str(weights))
    return parameters.model_copy(update={"collection": COLLECTION, "promote": "never", "train": longer})


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def trainings() -> list[FlowRun]:
    """The runs of the flow `train-step`, the newest first."""
    of_flow = FlowFilter(name=FlowFilterName(any_=[train_step.name]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=of_flow, sort=FlowRunSort.EXPECTED_START_TIME_DESC)


def train_here(parameters: RetrainParameters) -> tuple[str, str]:
    """Train on what was collected last. The MLflow run of the training, and its bundle."""

    @flow(persist_result=False)
    def steps() -> TrainingRecord:
        configure_logging()
        collected = collected_before(parameters.collection_name)
        return train(preprocess(collected.catalogue, collected.posters, parameters.preprocess), parameters.train)

    training = steps()
    return training.run_id, training.bundle_sha256


def test_unknown_deployment_is_refused_before_the_first_step(stack: Stack, small: RetrainParameters) -> None:
    state = retrain(small.model_copy(update={"train_on": "train-step/nowhere"}), return_state=True)
    assert state.is_failed() and "Prefect has no deployment train-step/nowhere to train on." in str(state.message)
    assert recorded_steps(state.state_details.flow_run_id) == []


def test_pool_without_workers_is_told_with_the_command_that_starts_one(
    stack: Stack, small: RetrainParameters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(train_elsewhere, "WORKER_SECONDS", 1.0)
    monkeypatch.setattr(train_elsewhere, "WAIT_SECONDS", 5.0)
    follow, followed = train_elsewhere._Following.until_end, list[object]()

    def interrupted(following: train_elsewhere._Following) -> object:
        followed.append(following)
        if len(followed) == 1:
            raise httpx.ConnectError("refused")
        return follow(following)

    monkeypatch.setattr(train_elsewhere._Following, "until_end", interrupted)
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=EMPTY_POOL, type="process"))
    train_step.to_deployment(EMPTY_POOL, work_pool_name=EMPTY_POOL).apply()
    with pytest.raises(RunFailed, match=r"No worker has taken .* `prefect worker start --pool empty`"):
        run_retrain(small.model_copy(update={"train_on": f"train-step/{EMPTY_POOL}"}))
    (said,) = [each.message for each in caplog.records if "waits for a worker" in each.message]
    assert "The pool 'empty' has no worker: start one with `prefect worker start --pool empty`." in said
    assert any("trains this already" in each.message for each in caplog.records), "Prefect was away for a moment"
    run = trainings()[0]
    assert run.parameters["versions"] == train_elsewhere.training_versions()
    assert run.state.is_cancelled(), "a worker that starts later trains for nobody"

    # What runs that were killed left behind.
    name, (collection, training) = f"train-step/{EMPTY_POOL}", run.tags
    left = {
        "other data": (run.parameters, "training of other data"),
        "an earlier version": (run.parameters | {"versions": {}}, training),
        "another bucket": (run.parameters | {"bucket": "another"}, training),
    }
    with get_client(sync_client=True) as client:
        deployment_id = client.read_deployment_by_name(name).id
        runs = {
            what: client.create_flow_run_from_deployment(
                deployment_id, parameters=parameters, tags=[collection, tag]
            ).id
            for what, (parameters, tag) in left.items()
        }
        started = train_elsewhere._start(name, run.parameters, collection, training)
        assert started.id not in runs.values()
        states = {what: client.read_flow_run(id).state for what, id in runs.items()}
        assert [what for what, state in states.items() if state.is_cancelled()] == ["other data", "an earlier version"]
        assert train_elsewhere._start(name, run.parameters, collection, training).id == started.id
        for id in (started.id, runs["another bucket"]):
            client.delete_flow_run(id)


def test_training_that_ends_without_a_result_is_retried_only_if_its_worker_crashed() -> None:
    crashed = train_elsewhere._failed(Crashed(message="Process exited with status code -9."), "train-step/gpu")
    assert crashed.retryable and crashed.message == (
        "The training on train-step/gpu crashed: Process exited with status code -9. A retry resumes it."
    )
    for state in (Failed(message="Its machine is too small."), Cancelled()):
        assert not train_elsewhere._failed(state, "train-step/gpu").retryable


def test_machine_with_other_versions_is_refused_by_their_names(stack: Stack) -> None:
    installed, dataset = train_elsewhere.training_versions()["torch"], DatasetRecord.model_construct()
    state = train_step.fn(dataset, TrainConfig(), "", {"torch": "0.1"})
    failed = train_elsewhere._failed(state, "train-step/other")
    assert isinstance(failed, RunFailed)
    assert failed.message.startswith(
        f"The training on train-step/other failed: Its machine has torch {installed} instead of 0.1."
    )


@pytest.mark.parametrize("state", [Crashed(), Cancelled(), None, Running()], ids=["lost", "cancelled", "deleted", "-"])
def test_process_stops_once_its_run_has_ended_in_prefect(
    stack: Stack, state: State | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = not (state and state.is_running())
    stopped = threading.Event()
    monkeypatch.setattr(train_steps, "_WATCH_SECONDS", 0.1)
    monkeypatch.setattr(train_steps.os, "kill", lambda process, signal: stopped.set())
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(train_step, state=Running())
        monkeypatch.setattr(train_steps, "flow_run", SimpleNamespace(id=str(run.id)))
        with monkeypatch.context() as away, train_steps._stopped_if_lost():
            away.setattr(train_steps, "get_client", lambda **_: 1 / 0)  # it does not reach Prefect
            assert not stopped.wait(0.5)
            away.undo()
            if state:
                client.set_flow_run_state(run.id, state, force=True)
            else:
                client.delete_flow_run(run.id)
            assert stopped.wait(5 if ended else 0.5) == ended
        if state:
            client.set_flow_run_state(run.id, Crashed(), force=True)


def test_time_in_which_prefect_does_not_answer_is_no_silence(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read = [0.0], SyncPrefectClient.read_flow_run

    def answer_late(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
        clock[0] += 300
        return read(client, run_id)

    def sleep(seconds: float) -> None:
        clock[0] += 60
        if clock[0] > 1000:
            client.set_flow_run_state(run.id, Completed(), force=True)

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(train_step, state=Running())
        monkeypatch.setattr(train_elsewhere, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
        monkeypatch.setattr(SyncPrefectClient, "read_flow_run", answer_late)
        assert train_elsewhere._Following(run, "train-step/gpu").until_end().is_completed()


def test_run_whose_clock_is_set_back_is_not_taken_for_lost(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    began, clock = datetime.now(UTC), [0.0]
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(train_step, state=Running())

        def sleep(seconds: float) -> None:
            """The worker logs a line at each tick, and its clock is an hour late from the fourth one on."""
            clock[0] += 8
            tick = int(clock[0] / 8)
            if tick <= 40:
                at = began + timedelta(seconds=clock[0]) - timedelta(hours=1 if tick > 3 else 0)
                line = LogCreate(name="tasks", level=20, message=f"line {tick}", timestamp=at, flow_run_id=run.id)
                client.create_logs([line])
            else:
                client.set_flow_run_state(run.id, Completed(), force=True)

        monkeypatch.setattr(train_elsewhere, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
        assert train_elsewhere._Following(run, "train-step/gpu").until_end().is_completed()
    said = [each.message for each in caplog.records if each.message.startswith("line ")]
    assert said == [f"line {tick}" for tick in range(1, 41)]


@pytest.fixture(scope="module")
def worker(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker on another machine. A test kills it."""
    started = Worker(stack, tmp_path_factory.mktemp("machines") / "first")
    wait_for(lambda: "is registered" in started.output.read_text())
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.mark.long
def test_training_stops_if_it_was_taken_for_lost_and_is_cancelled_with_its_run(
    worker: Worker, stack: Stack, small: RetrainParameters, tmp_path: Path
) -> None:
    endless = small.model_copy(
        update={
            "train_on": f"train-step/{POOL}",
            "train": replace(small.train, epochs=10_000),
        }
    )
    with Processes(tmp_path) as processes:
        processes.start("Deployment", [sys.executable, "-m", "flows.deployments"], stack.environment)
        with get_client(sync_client=True) as client:
            deployment_id = deployment(endless).apply()
            run = client.create_flow_run_from_deployment(deployment_id)
            wait_for(lambda: (runs := trainings()) and runs[0].state.is_running())
            lost = trainings()[0].id
            client.set_flow_run_state(lost, Crashed(), force=True)  # as if its machine did not reach Prefect
            wait_for(lambda: (newest := trainings()[0]).id != lost and newest.state.is_running())
            client.set_flow_run_state(run.id, Cancelling())
            wait_for(lambda: client.read_flow_run(run.id).state.is_cancelled())
    wait_for(lambda: trainings()[0].state.is_cancelled())
    assert psutil.Process(worker.process.pid).children() == [], "its process has ended"


def test_training_whose_machine_dies_is_resumed_by_another_and_gives_the_bundle_of_one_machine(
    worker: Worker,
    stack: Stack,
    small: RetrainParameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(train_elsewhere, "SILENT_SECONDS", 25.0)
    store, here = Store(read_settings(COLLECTION)), small.model_copy(update={"crawl": False})
    of_others = store.keys("checkpoints/")

    def kill_and_start() -> Worker:
        """Kill the first worker as soon as a checkpoint is in the bucket; start another one with an empty disk."""
        wait_for(lambda: store.keys("checkpoints/") != of_others)
        worker.kill()
        return Worker(stack, tmp_path / "second")

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(kill_and_start)
        try:
            elsewhere = run_retrain(here.model_copy(update={"train_on": f"train-step/{POOL}"})).record.training
        finally:
            second.result().stop()
    said = [each.message for each in caplog.records]
    assert "Resuming from the checkpoint 'scratch-trial-1'." in said
    assert any("is lost: it has logged nothing for " in each for each in said)
    killed, resumed = reversed(trainings()[:2])
    assert killed.state.is_crashed() and resumed.state.is_completed()
    assert store.keys("checkpoints/") == of_others
    assert not any(each.is_running for each in Registry(read_settings(COLLECTION)).runs())

    for key in store.keys("trainings/"):
        store.delete(key)
    # In a new process, like those of the worker: one that has trained before may differ in the last bits.
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        run_id, bundle_sha256 = processes.submit(train_here, here).result()
    assert run_id != elsewhere.run_id
    assert bundle_sha256 == elsewhere.bundle_sha256
