"""Runs that were killed or that meet another one: slots are freed, and one pipeline at a time uses a bucket."""

import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from uuid import uuid4

import prefect.flow_engine
import pytest
from mlflow.tracking import MlflowClient
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Crashed, Pending, Running

from flows.deployments import deployment
from flows.interrupted_runs import settle_earlier_runs, settle_interrupted_runs
from flows.one_run import WAITING, one_run
from flows.parameters import RetrainParameters
from flows.retrain import collect, retrain
from flows.rollback import rollback
from flows.summary import recorded_steps, run_retrain
from flows.train_step import train_step
from infra import lease
from infra.errors import ServiceUnavailable
from infra.files import workspace_lock
from infra.lease import LEASE, bucket_lease
from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from tasks import crawling
from tests.messages import project_messages

pytestmark = pytest.mark.stack


def test_run_killed_while_the_stack_goes_on_ends_at_the_next_run(stack: Stack, parameters: RetrainParameters) -> None:
    registry, settings = Registry(read_settings()), read_settings()
    settle_interrupted_runs()  # a run that became due while the deployment of an earlier test was stopped
    with get_client(sync_client=True) as client, registry.run("interrupted", {}) as mlflow_run_id:
        own, killed, pending = (client.create_flow_run(retrain) for _ in range(3))
        beside = client.create_flow_run(rollback)
        training = client.create_flow_run(train_step, state=Running())  # of a worker on another machine
        works = client.create_task_run(task(read_settings), training.id, "0", state=Running())
        trained = registry.start_run("network", {}, parent=registry.start_run("t", {}, flow_run=str(training.id)))
        deployed = client.create_flow_run_from_deployment(deployment(parameters).apply())
        client.set_flow_run_state(deployed.id, Running(), force=True)
        for run, state in ((own, Running()), (killed, Running()), (pending, Pending()), (beside, Running())):
            client.set_flow_run_state(run.id, state, force=True)
        with workspace_lock(settings.workspace):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PREFECT_API_URL", f"{os.environ['PREFECT_API_URL']}/")  # one that other machines share
                settle_earlier_runs(str(own.id))
            assert client.read_flow_run(killed.id).state.is_running()
            settle_earlier_runs(str(own.id))
            assert client.read_flow_run(deployed.id).state.is_running(), "it may be about to wait for the lock"
            settle_earlier_runs(str(own.id), str(deployed.id))
            assert client.read_flow_run(deployed.id).state.is_crashed(), "it held the lock"
        states = [client.read_flow_run(run.id).state for run in (own, killed, pending, beside)]
        assert [state.type.value for state in states] == ["RUNNING", "CRASHED", "PENDING", "RUNNING"]
        assert MlflowClient().get_run(mlflow_run_id).info.status == "KILLED"
        settle_interrupted_runs()
        assert all(client.read_flow_run(run.id).state.is_crashed() for run in (own, pending, beside))
        assert client.read_flow_run(training.id).state.is_running()
        assert client.read_task_run(works.id).state.is_running()
        assert MlflowClient().get_run(trained).info.status == "RUNNING"
        client.set_flow_run_state(training.id, Crashed(), force=True)
        settle_interrupted_runs()
        assert MlflowClient().get_run(trained).info.status == "KILLED"


def test_mlflow_run_ends_at_the_next_run_after_its_flow_run_has_ended_on_shared_services(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, mlflow = Registry(read_settings()), MlflowClient()
    monkeypatch.setenv("PREFECT_API_URL", f"{os.environ['PREFECT_API_URL']}/")  # not the stack of this workspace
    with get_client(sync_client=True) as client:
        crashed, active = (client.create_flow_run(retrain, state=Running()) for _ in range(2))
        client.set_flow_run_state(crashed.id, Crashed(), force=True)  # as Prefect does after two silent minutes
        roots = {
            registry.start_run(str(flow_run), {}, flow_run=flow_run and str(flow_run)): flow_run == crashed.id
            for flow_run in (crashed.id, active.id, uuid4(), None)
        }
        nested = {registry.start_run("network", {}, parent=root): is_ended for root, is_ended in roots.items()}
        settle_earlier_runs(None)
        for run_id, is_ended in (roots | nested).items():
            assert mlflow.get_run(run_id).info.status == ("KILLED" if is_ended else "RUNNING")
            registry.end_run(run_id, "FINISHED")
        client.set_flow_run_state(active.id, Crashed(), force=True)


@pytest.mark.parametrize("state", [Pending(), Running(), Cancelling()], ids=lambda state: state.name)
def test_interrupted_run_ends_at_the_next_start_and_frees_its_slot(
    stack: Stack, parameters: RetrainParameters, state: State[None]
) -> None:
    deployment_id = deployment(parameters).apply()
    registry = Registry(read_settings())
    with get_client(sync_client=True) as client, registry.run("interrupted", {}) as mlflow_run_id:
        run = client.create_flow_run_from_deployment(deployment_id)
        for each in (Pending(), state):
            client.set_flow_run_state(run.id, each)
        task_run = client.create_task_run(task(read_settings), run.id, "0", state=Running())
        killed = client.create_flow_run(retrain, parameters={}, state=Crashed())
        left = client.create_task_run(task(read_settings), killed.id, "0", state=Running())
        waiting = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(waiting.id, Pending())
        assert client.read_flow_run(waiting.id).state.is_cancelled()  # the first run holds the only slot
        with workspace_lock(read_settings().workspace):  # a run of another process
            settle_interrupted_runs()
        assert client.read_flow_run(run.id).state.is_final() == (state.type == StateType.PENDING)
        settle_interrupted_runs()
        ended = client.read_flow_run(run.id).state
        assert ended.is_cancelled() if state.type == StateType.CANCELLING else ended.is_crashed()
        assert client.read_task_run(task_run.id).state.is_final()
        assert client.read_task_run(left.id).state.is_crashed()
        assert MlflowClient().get_run(mlflow_run_id).info.status == "KILLED"
        following = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(following.id, Pending())
        assert client.read_flow_run(following.id).state.is_pending()
        settle_interrupted_runs()
        assert client.read_flow_run(following.id).state.is_crashed()


def test_run_whose_bucket_another_machine_uses_ends_before_its_first_step(
    stack: Stack, parameters: RetrainParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    store = Store(read_settings(parameters.collection_name))
    with bucket_lease(store, tmp_path / "elsewhere"):
        state = retrain(parameters, return_state=True)
        assert state.is_failed() and "Another pipeline is using the bucket anime-genre" in str(state.message)
        assert "/elsewhere, since 20" in str(state.message)
        assert store.whole_bucket().exists(LEASE)
    assert recorded_steps(state.state_details.flow_run_id) == []


def test_collecting_gives_up_beside_a_run_and_a_run_that_waits_begins_after_it(
    stack: Stack, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.one_run._POLL_SECONDS", 0.1)
    settings, waiting = read_settings(), FlowRunFilter(tags=FlowRunFilterTags(all_=[WAITING]))

    @flow
    def waits() -> str:
        with one_run(settings, waits=True):
            return "begun"

    with get_client(sync_client=True) as client, ThreadPoolExecutor(1) as pool:
        with workspace_lock(settings.workspace):
            state = collect(parameters, return_state=True)
            assert state.is_cancelled() and f"Another run is using {settings.workspace}" in str(state.message)
            begun = pool.submit(copy_context().run, waits)
            deadline = time.monotonic() + 30
            while not client.read_flow_runs(flow_run_filter=waiting) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not begun.done()
        assert begun.result(timeout=60) == "begun"
        assert client.read_flow_runs(flow_run_filter=waiting) == []


def test_run_goes_on_when_prefect_has_given_its_place_to_others(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect.concurrency._leases._RENEWAL_RETRY_BASE_DELAY", 0.01)
    lost = uuid4()  # the server does not know it, as after a laptop has slept
    with prefect.flow_engine.maintain_concurrency_lease(lost, 300, raise_on_lease_renewal_failure=True):
        while any(each.name.endswith(str(lost)) for each in threading.enumerate()):  # it tries to renew the place
            time.sleep(0.05)
        time.sleep(0.5)  # Prefect would interrupt this


def test_crawl_that_loses_prefect_keeps_what_it_has_read(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    url, away = "https://example.org", {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with ExitStack() as lost:
        with crawling._only_run(url):
            lost.enter_context(temporary_settings(away))
        said = "The Prefect server does not answer: .* The slot of the crawl is free in 60 s."
        assert any(re.fullmatch(said, message) for message in project_messages(caplog))
        with pytest.raises(ServiceUnavailable), crawling._only_run(url):
            pass


def test_run_whose_prefect_server_has_stopped_ends_with_a_sentence(stack: Stack, parameters: RetrainParameters) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(ServiceUnavailable, match=r"The Prefect server does not answer any more: .* Start the run"),
    ):
        run_retrain(parameters)
