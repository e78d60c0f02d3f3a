"""Going back and forward between models, and the commands and deployments around it, on a running stack."""

import json
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from prefect.artifacts import Artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun

from flows import status
from flows.cli import main
from flows.parameters import RetrainParameters
from flows.rollback import run_promote, run_rollback, show_history
from flows.schedule import machine_timezone
from flows.summary import RunSummary, run_retrain
from infra.cloud_run import CloudRun
from infra.errors import NotFound, ServiceUnavailable
from infra.local.processes import Processes
from infra.local.stack import Stack
from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.configuration import GateConfig
from tasks.bundles import fetch_bundle
from tasks.champion import live_champion
from tasks.comparisons import Comparison
from tasks.deployments import has_deployment
from tasks.events import read_events
from tasks.redeploy import redeploy
from tasks.rollouts import Hold, Overtaken, read_hold, read_rollouts
from tests.faults import Fault, fault_proxy
from tests.flows.live_model import bundle_with_threshold, is_answered_by
from tests.up import RUN_SECONDS

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def first_run(stack: Stack, parameters: RetrainParameters) -> RunSummary:
    """A run whose model is live. After test_retrain.py on the same stack, it reuses the training."""
    return run_retrain(parameters.model_copy(update={"promote": "always"}))


def test_rollback_keeps_the_earlier_model_live_until_a_person_wants_another(
    first_run, parameters: RetrainParameters, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, registry, first = read_settings(), Registry(read_settings()), first_run.record.training.bundle_sha256
    store, collection = Store(settings), settings.collection
    other = parameters.model_copy(update={"train": replace(parameters.train, epochs=1), "promote": "always"})
    later = run_retrain(other).record
    second = later.training.bundle_sha256
    assert later.evaluation.compared_with == first
    versions = {sha256: registry.version_of(sha256).version for sha256 in (first, second)}

    def is_live(sha256: str) -> bool:
        return is_answered_by(sha256, first_run) and registry.champion().tags["bundle_sha256"] == sha256

    assert is_live(second)
    run_rollback(collection, None)
    assert f"({first[:8]}) is live again, instead of version" in capsys.readouterr().out
    assert is_live(first) and not CloudRun(settings).traffic().moved
    with pytest.raises(NotFound, match="No earlier model than version"):
        run_rollback(collection, None)
    with pytest.raises(NotFound):
        run_rollback(collection, "99")
    run_rollback(collection, versions[second])
    assert is_live(second)
    record = first_run.record
    held = redeploy.__wrapped__(record.dataset, record.evaluation, record.model)
    assert isinstance(held, Hold) and is_live(second), "it was written after the comparison of a run"
    kept = run_retrain(parameters.model_copy(update={"gate": GateConfig(false_promotions=26)}))
    assert kept.record.evaluation.passed_gate and kept.record.deployment is None
    comparison = read_events(store, "comparisons", Comparison)[-1]
    assert (comparison.promote, comparison.challenger, comparison.champion) == (True, first, second)
    metrics, artifact = registry.metrics(kept.record.training.run_id), str(Artifact.get("5-evaluation").data)
    assert metrics["test/weighted_f1_minus/champion"] == comparison.weighted_f1_difference
    for rule in comparison.rules:
        assert metrics[f"gate/{rule.name}"] == 1 and f"| {rule.name} | passed | {rule.sentence} |" in artifact
    assert "A person chose version" in kept.message and "so nothing replaces it until" in kept.message
    assert is_live(second)

    run_promote(collection, versions[first])
    assert is_live(first) and read_hold(store) is None
    evaluation = later.evaluation.model_copy(update={"compared_with": None})
    overtaken = redeploy.__wrapped__(later.dataset, evaluation, later.model)
    assert isinstance(overtaken, Overtaken) and is_live(first), "it was not live at the comparison"
    run_rollback(collection, versions[second])
    run_retrain(parameters.model_copy(update={"promote": "always"}))
    assert is_live(first) and read_hold(store) is None, "a person's run lifts the hold"

    rollouts = read_rollouts(store)
    assert [each.what for each in rollouts][-6:] == [
        *("redeploy", "rollback", "rollback", "promote", "rollback", "redeploy")
    ]
    assert all(one.after == other.before for one, other in pairwise(rollouts[-6:]))
    show_history(collection)
    assert "What went live, myanimelist" in capsys.readouterr().out


def test_promoted_version_that_was_never_live_is_deployed_checked_and_undone_after_a_failure(
    first_run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, record = read_settings(), first_run.record
    store, registry, sha256 = Store(settings), Registry(settings), record.training.bundle_sha256
    before, other = registry.champion(), bundle_with_threshold(store, sha256, 0.998)
    never = registry.register(
        record.training.run_id,
        fetch_bundle(store, registry, settings.folder, other),
        {"bundle_sha256": other, "dataset_date": record.dataset.snapshot_date},
        "",
    )
    with (
        fault_proxy(
            stack.environment["MLFLOW_TRACKING_URI"], Fault("POST /api/2.0/mlflow/registered-models/alias")
        ) as mlflow,
        monkeypatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        patch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "1")
        with pytest.raises(ServiceUnavailable, match="Setting the champion failed"):
            run_promote(settings.collection, never.version)
    failed = read_rollouts(store)[-1]
    assert is_answered_by(before.bundle_sha256, first_run)
    assert failed.what == "promote failed" and failed.before == failed.after
    assert not has_deployment(store, other)
    assert failed.reason.startswith(f"version {never.version} ({other[:8]}): Setting the champion failed")

    run_promote(settings.collection, never.version)
    assert is_answered_by(other, first_run)
    assert (registry.champion().version, registry.previous().version) == (never.version, before.version)
    told = requests.get(f"{record.deployment.url}/model").json()["deployment"]
    assert (told["version"], told["previous_version"]) == (never.version, before.version)
    assert told["posters"] == record.dataset.parts and told["snapshot_date"] == record.dataset.snapshot_date
    with pytest.raises(NotFound):
        run_promote(settings.collection, "99")
    run_promote(settings.collection, before.version)


def test_status_says_what_is_live_what_ran_and_how_old_the_data_is(
    first_run, stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, catalogue = read_settings(), first_run.record.catalogue
    at = ["--workspace", str(settings.workspace)]
    assert main(["status", *at, "--collection", "myanimelist"]) == 0
    printed = capsys.readouterr().out
    live = live_champion(settings, Registry(settings))
    assert printed.startswith(
        f"Stack:    running: Prefect {stack.prefect_url}, MLflow {stack.environment['MLFLOW_TRACKING_URI']}\n"
    )
    assert f"Model:    {live.name} of myanimelist is live since {date.today()}" in printed
    assert re.search(r"test/weighted_f1 0\.\d{3}\nHold:     none\nRun:      \w+ 20\S+ .*, \w+ 20", printed)
    assert f"Data:     myanimelist, {catalogue.titles} titles of {catalogue.snapshot_date}, " in printed
    assert re.search(rf"Disk:     \d\.\d GB in {settings.workspace}, \d+ GB free\n$", printed)
    assert main(["logs", "function", *at, "--lines", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["logs", "redis", *at]) == 1
    assert "Choose from: cloud-run, function, mlflow, prefect, storage." in capsys.readouterr().err
    for name in stack.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert main(["status", "--workspace", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"Stack:    not running in {tmp_path}. Start it with: anime-genre up" in printed
    assert "Data:     nothing collected yet" in printed and "are known while the stack is running" in printed
    down = "http://127.0.0.1:9"
    for prefect, mlflow, services in (
        (
            down,
            stack.environment["MLFLOW_TRACKING_URI"],
            f"running: MLflow {stack.environment['MLFLOW_TRACKING_URI']}; Prefect {down} does not answer",
        ),
        (stack.prefect_url, down, f"running: Prefect {stack.prefect_url}; MLflow {down} does not answer"),
        (down, down, f"Prefect {down} does not answer; MLflow {down} does not answer"),
    ):
        monkeypatch.setenv("PREFECT_API_URL", f"{prefect}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
        status.show_status(tmp_path, "myanimelist")
        assert capsys.readouterr().out.startswith(f"Stack:    {services}\n")


def test_status_has_all_lines_in_a_new_checkout_and_beside_a_deployment_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_another_version = SimpleNamespace(parameters={"parameters": {"of_another_version": 1}})
    client = SimpleNamespace(
        read_deployment_by_name=lambda name: of_another_version, read_flow_runs=lambda **_: list[FlowRun]()
    )
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(status, "is_server_reachable", lambda: True)
    monkeypatch.setattr(status, "get_client", lambda **_: nullcontext(client))
    status.show_status(tmp_path / "workspace" / "live", None)
    printed = capsys.readouterr().out
    assert "Deployed: unknown. It is damaged, or another version of anime-genre has written it." in printed
    assert re.search(r"Disk: +0\.0 GB in \S+, \d+ GB free", printed)


def test_deployments_start_a_run_at_an_interval_and_a_rollback_beside_it(
    first_run, stack: Stack, parameters: RetrainParameters, tmp_path
) -> None:
    settings = read_settings()
    store, live = Store(settings), live_champion(settings, Registry(settings))
    earlier = read_rollouts(store)[-1].before.split()[1]
    command = [sys.executable, "-m", "flows.deployments", "--interval-seconds", "5"]
    command += ["--parameters", parameters.model_dump_json()]
    with Processes(tmp_path) as processes, get_client(sync_client=True) as client:
        processes.start("Deployment", command, stack.environment)
        scheduled = wait_for_scheduled_run(client)
        assert scheduled.state_type.value == "COMPLETED", processes.log("Deployment").read_text()
        assert json.dumps(scheduled.parameters).count(parameters.site_url) == 1
        train, daily = (client.read_deployment_by_name(name) for name in ("retrain/train", "collect/collect"))
        assert not train.parameters["parameters"]["crawl"] and not train.schedules
        assert daily.schedules[0].schedule.timezone == machine_timezone()
        client.pause_deployment(client.read_deployment_by_name("retrain/retrain").id)
        deployment = client.read_deployment_by_name("rollback/rollback")
        run = client.create_flow_run_from_deployment(deployment.id, parameters={"version": earlier})
        deadline = time.monotonic() + RUN_SECONDS
        while not (state := client.read_flow_run(run.id).state).is_final() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert client.read_flow_run(run.id).name == f"rollback {date.today()} to {earlier}"
    assert re.match(rf"version {earlier} \(.* is live again, instead of {re.escape(live.name)}\. Runs", state.message)
    last = read_rollouts(store)[-1]
    assert last.by.startswith("run rollback") and last.after == read_hold(store).version
    run_promote(settings.collection, live.version)


def wait_for_scheduled_run(client: SyncPrefectClient) -> FlowRun:
    """Wait for the first run that a schedule started to end, and return it."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        ended = [run for run in client.read_flow_runs() if run.auto_scheduled and run.state and run.state.is_final()]
        begun = [run for run in ended if run.state_name != "Cancelled"]
        if begun:
            return begun[0]
        time.sleep(1)
    pytest.fail("no scheduled run ended in time")
