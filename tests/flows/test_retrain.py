"""The flow on a running stack: temporary faults, reuse, rejected revisions, the schedule."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from rich.console import Console

from flows.parameters import RetrainParameters
from flows.retrain import collect, retrain
from flows.summary import RunSummary, recorded_steps, run_retrain, show_predictions
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import DeploymentError
from infra.local.stack import Stack
from infra.registry import Registry
from infra.revisions import Resources
from infra.rights import BUCKET_RIGHTS, CREATE_SERVICE, PROJECT_RIGHTS, SERVICE_RIGHTS
from infra.settings import read_settings
from infra.store import Store
from ml.evaluation.gate import decide
from serving.bundle.files import sha256_of
from serving.bundle.model import Model
from tasks.champion import ChampionState, examine, live_champion, reason_to_redeploy, settings_environment
from tasks.deployments import write_deployment
from tasks.errors import StalePosterError
from tasks.evaluate import champion_decisions, verdict
from tasks.preprocess import fetch_dataset
from tasks.redeploy import redeploy
from tasks.register import register_champion_again
from tasks.rollouts import read_rollouts
from tasks.stored_posters import fetch_posters
from tests.faults import Fault, fault_proxy
from tests.flows.conftest import TITLES
from tests.flows.live_model import bundle_with_threshold, is_answered_by
from tests.google_roles import Caller
from tests.sink import running_sink
from tests.storage import delete

pytestmark = pytest.mark.stack

STEPS = ["scrape", "download posters", "preprocess", "train", "evaluate", "register", "upload", "redeploy"]
# Clients retry for one second, and a failed step is retried after two: a fault of this length fails a step once.
FAULT_SECONDS = 1.5
SITE_ATTEMPTS = 4  # attempts of the site's client per page


def pipeline() -> Caller:
    """A caller with exactly the rights that `anime-genre doctor` checks, before the service exists."""
    rights = {"bucket": BUCKET_RIGHTS, "project": (*PROJECT_RIGHTS, CREATE_SERVICE), "service": SERVICE_RIGHTS}
    return Caller({(resource, right.role) for resource, rights in rights.items() for right in rights})


@pytest.fixture(scope="module")
def first_run(stack: Stack, parameters: RetrainParameters) -> tuple[RunSummary, list[Fault]]:
    """A run with the rights of a pipeline on Google Cloud, in which each step meets a temporary fault of a service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "1")
        in_site = [Fault("/anime/season/2016/winter", times=SITE_ATTEMPTS)]
        in_storage = [
            Fault(name, FAULT_SECONDS) for name in ("poster-visits", "datasets", "trainings", "answers", "bundles")
        ]
        in_mlflow = [Fault("model-versions/create", FAULT_SECONDS)]
        in_cloud_run = [Fault("GET /v2/", FAULT_SECONDS, status=500), Fault("builds:submit", FAULT_SECONDS)]
        caller = pipeline()
        with (
            fault_proxy(parameters.site_url, *in_site) as site,
            fault_proxy(stack.environment["STORAGE_EMULATOR_HOST"], *in_storage, caller=caller) as storage,
            fault_proxy(stack.environment["MLFLOW_TRACKING_URI"], *in_mlflow) as mlflow,
            fault_proxy(stack.environment["ANIME_GENRE_CLOUD_RUN_ENDPOINT"], *in_cloud_run, caller=caller) as cloud_run,
        ):
            patch.setenv("STORAGE_EMULATOR_HOST", storage.url)
            patch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
            patch.setenv("ANIME_GENRE_CLOUD_RUN_ENDPOINT", cloud_run.url)
            summary = run_retrain(parameters.model_copy(update={"site_url": site.url}))
    assert caller.refused == []
    return summary, [*in_site, *in_storage, *in_mlflow, *in_cloud_run]


def test_steps_are_retried_after_a_temporary_fault(first_run) -> None:
    summary, faults = first_run
    assert [fault.matching for fault in faults if fault.hits == 0] == []
    assert [(step.name, step.tries, step.state) for step in summary.steps] == [(n, 2, "Completed") for n in STEPS]
    assert "is live" in summary.message


@pytest.mark.parametrize(
    ("roles", "missing"),
    [
        ({"roles/storage.objectUser"}, "storage.objects.get"),
        ({"roles/run.developer", "roles/run.viewer"}, "run.services.get"),
    ],
)
def test_run_whose_caller_lost_a_role_names_the_permission_and_is_not_retried(
    first_run, stack: Stack, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch, roles: set, missing: str
) -> None:
    caller = pipeline()
    caller.roles = {(resource, role) for resource, role in caller.roles if role not in roles}
    with (
        fault_proxy(stack.environment["STORAGE_EMULATOR_HOST"], caller=caller) as storage,
        fault_proxy(stack.environment["ANIME_GENRE_CLOUD_RUN_ENDPOINT"], caller=caller) as cloud_run,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
        monkeypatch.setenv("ANIME_GENRE_CLOUD_RUN_ENDPOINT", cloud_run.url)
        state = retrain(parameters, return_state=True)
    assert state.is_failed() and f"is not permitted: Permission '{missing}' denied" in str(state.message)
    assert len(caller.refused) == 1


def test_service_of_another_collection_is_refused_before_the_first_step(
    first_run, stack: Stack, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIME_GENRE_SERVICE", read_settings().service)
    monkeypatch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "1")
    fault = Fault("GET /v2/", times=2, status=500)
    with fault_proxy(stack.environment["ANIME_GENRE_CLOUD_RUN_ENDPOINT"], fault) as cloud_run:
        monkeypatch.setenv("ANIME_GENRE_CLOUD_RUN_ENDPOINT", cloud_run.url)
        state = retrain(parameters.model_copy(update={"collection": "films"}), return_state=True)
    assert fault.hits == 2, "the check is repeated after a temporary fault"
    assert state.is_failed() and "Set ANIME_GENRE_SERVICE to another name, or unset it." in str(state.message)
    assert recorded_steps(state.state_details.flow_run_id) == []


def test_deployed_function_predicts_and_champion_alias_follows_the_traffic(first_run) -> None:
    record = first_run[0].record
    response = request_prediction(record.deployment.url, record.evaluation.known_posters[0].name)
    assert response["model"]["sha256"] == record.training.bundle_sha256
    assert {genre["name"] for genre in response["genres"]} == set(record.dataset.genres)
    champion = Registry(read_settings()).champion()
    assert champion is not None
    assert champion.version == response["model"]["version"]
    assert champion.tags["bundle_sha256"] == record.training.bundle_sha256
    assert champion.tags["bundle_uri"].endswith(record.training.bundle_sha256)


def test_champion_loads_from_mlflow_without_a_checkout_and_predicts_as_the_function(first_run, tmp_path: Path) -> None:
    record, settings = first_run[0].record, read_settings()
    name = record.evaluation.known_posters[0].name
    (tmp_path / "poster").write_bytes(Store(settings).whole_bucket().read(name))
    script = f"""
import json, mlflow, sys
model = mlflow.pyfunc.load_model("models:/{settings.model_name}@champion")
print(json.dumps(model.predict([open("poster", "rb").read()])))
assert not {{"flows", "infra", "serving"}} & {{name.partition(".")[0] for name in sys.modules}}
"""
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    )
    (prediction,) = json.loads(loaded.stdout)
    expected = request_prediction(record.deployment.url, name)["genres"]
    assert len(prediction["genres"]) == len(record.dataset.genres)
    for genre, by_function in zip(prediction["genres"], expected, strict=True):
        assert genre == by_function | {"probability": pytest.approx(by_function["probability"], abs=1e-6)}
    run = MlflowClient().get_run(record.training.run_id)
    assert run.info.status == "FINISHED"
    version = MlflowClient().get_model_version_by_alias(settings.model_name, "champion")
    assert [each.model_id for each in run.outputs.model_outputs] == [version.source.rpartition("/")[2]]


def test_function_tells_since_when_its_model_is_live_and_how_it_did(first_run) -> None:
    record, store = first_run[0].record, Store(read_settings())
    deployment = requests.get(f"{record.deployment.url}/model").json()["deployment"]
    scores = record.evaluation.scores[0].model_dump()
    figures = {f"test/{name}": value for name, value in scores.items() if name != "name"}
    assert datetime.now(UTC) - datetime.fromisoformat(deployment["live_since"]) < timedelta(minutes=10)
    assert deployment == {
        "version": "1",
        "bundle_sha256": record.model.bundle_sha256,
        "live_since": deployment["live_since"],
        "previous_version": None,
        "previous_bundle_sha256": None,
        "collection": record.dataset.collection,
        "snapshot_date": record.dataset.snapshot_date,
        "posters": record.dataset.parts,
        "figures": figures,
    }
    key, arguments = f"deployments/{record.model.bundle_sha256}.json", (record.dataset, record.evaluation, record.model)
    written = store.read(key)
    live = CloudRun(read_settings()).live()
    write_deployment(store, live, *arguments)
    assert store.read(key) == written, "the bundle is live already"
    other = replace(live, environment={"BUNDLE_SHA256": "0" * 64, "MODEL_VERSION": "7"})
    write_deployment(store, other, *arguments)
    assert json.loads(store.read(key))["previous_version"] == "7"
    store.write(key, b'{"version": "1"')
    write_deployment(store, live, *arguments)
    assert json.loads(store.read(key))["figures"] == figures, "a damaged record is written again"
    store.write(key, written)


def test_first_run_stores_catalogue_posters_and_dataset_report(first_run) -> None:
    record, settings = first_run[0].record, read_settings()
    assert record.catalogue.titles == TITLES
    assert len(list((settings.workspace / "posters").glob("*.jpg"))) == record.posters.posters > 0.8 * TITLES
    assert "report.html" in [entry.path for entry in MlflowClient().list_artifacts(record.training.run_id)]
    page = Store(settings).read(record.dataset.report_key).decode()
    assert page.lstrip().startswith("<!doctype html>") and f"{record.catalogue.titles}" in page


def test_run_has_a_name_a_tag_and_a_summary_with_links(first_run) -> None:
    record, message = first_run[0].record, first_run[0].message
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(first_run[0].id)
        summaries = [each.data for each in client.read_artifacts() if each.flow_run_id == run.id]
    assert run.name == f"retrain {run.start_time.astimezone().date()} 2015-winter..2019-fall"
    assert run.tags == ["myanimelist"]
    what, _, reason = message.partition(": ")
    (summary,) = [text for text in summaries if isinstance(text, str) and text.startswith(f"**V{what[1:]}**")]
    assert reason in summary
    assert f"changes in {record.catalogue.titles} titles of {record.catalogue.snapshot_date}" in summary
    assert f"/runs/{record.training.run_id}/artifacts/model.html)" in summary
    assert f"[function]({record.deployment.url})" in summary


def test_artifacts_are_numbered_by_step_and_have_descriptions_without_addresses_that_nobody_can_open(first_run) -> None:
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first_run[0].id]))
        found = client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.ID_DESC)  # the default, as in the UI
    named = [each for each in found if each.key]  # the UI does not list those without a key, Prefect's own results
    (summary,) = [each for each in named if each.task_run_id is None]
    assert summary.key == "summary", "the UI lists it above those of tasks"
    of_steps = [each.key for each in named if each.task_run_id]
    assert {*of_steps} >= {
        *("1-pages", "1-crawl", "1-drift", "1-catalogue", "2-posters", "2-crawl", "2-dataset-report", "3-dataset"),
        *("4-training", "4-training-scratch", "5-evaluation", "6-model-version", "8-function"),
    }
    numbers = [int(key.split("-")[0]) for key in of_steps]
    assert numbers == sorted(numbers)
    assert [each.key for each in named if not each.description or "gs://" in each.description] == []


def test_worker_with_an_empty_disk_reuses_completed_steps_and_keeps_the_champion(
    first_run, parameters: RetrainParameters, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path))
    interrupted = tmp_path / "bundles" / first_run[0].record.training.bundle_sha256
    interrupted.mkdir(parents=True)
    (interrupted / "model.onnx").write_bytes(b"half of it")
    summary = run_retrain(parameters)
    record, first = summary.record, first_run[0].record
    assert summary.message.startswith("champion kept")
    assert [(step.name, step.state) for step in summary.steps] == [
        *(("scrape", "Completed"), ("download posters", "Completed"), ("preprocess", "Reused")),
        *(("train", "Reused"), ("evaluate", "Completed"), ("register", "Reused")),
    ]
    assert (record.dataset.dataset_key, record.training) == (first.dataset.dataset_key, first.training)
    assert (record.posters.sha256, record.posters.new) == (first.posters.sha256, 0)
    with get_client(sync_client=True) as client:  # Prefect's list of a deployment's runs hides states with other names
        (last,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    assert last.state_name == "Completed"
    predictions = show_predictions(summary, Console(file=StringIO()))
    assert [each["answer"]["model"]["version"] for each in predictions] == ["1", "1", "1"]


def test_champion_alias_is_repaired_from_the_traffic(first_run) -> None:
    settings = read_settings()
    registry = Registry(settings)
    MlflowClient().delete_registered_model_alias(settings.model_name, "champion")
    assert registry.champion() is None
    champion = live_champion(settings, registry)
    assert champion is not None
    assert (champion.version, champion.moved) == ("1", False)
    assert champion.bundle_sha256 == first_run[0].record.training.bundle_sha256
    assert registry.champion().version == "1"
    assert live_champion(settings.model_copy(update={"service": "deleted"}), registry) is None
    assert registry.champion() is None, "nothing is live"
    live_champion(settings, registry)
    assert registry.champion().version == "1"


def test_champion_whose_version_and_run_are_gone_is_registered_with_a_new_run(first_run) -> None:
    settings, client, run_id = read_settings(), MlflowClient(), first_run[0].record.training.run_id
    registry = Registry(settings)
    champion = live_champion(settings, registry)
    client.delete_registered_model(settings.model_name)
    client.delete_run(run_id)
    try:
        register_champion_again(champion, Store(settings), registry, settings)
        again = registry.champion()
        assert again.tags["bundle_sha256"] == champion.bundle_sha256
        assert again.run_id != run_id and registry.has_run(again.run_id)
    finally:
        client.restore_run(run_id)
    client.delete_registered_model(settings.model_name)
    register_champion_again(champion, Store(settings), registry, settings)
    assert registry.champion().run_id == run_id


def test_revision_with_other_predictions_than_its_bundle_does_not_go_live(
    first_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings()
    store, record = Store(settings), first_run[0].record
    sha256 = record.training.bundle_sha256
    other = bundle_with_threshold(store, sha256, 0.999)
    variables = settings_environment(settings) | {"BUNDLE_URI": store.uri(f"bundles/{other}"), "BUNDLE_SHA256": other}
    monkeypatch.setattr("tasks.candidate_revisions.settings_environment", lambda settings: variables)
    with pytest.raises(DeploymentError, match="so it does not go live") as raised:
        redeploy.__wrapped__(record.dataset, record.evaluation, record.model)
    failed = read_rollouts(store)[-1]
    assert (failed.what, failed.after) == ("redeploy failed", failed.before)
    assert failed.reason == f"version {record.model.version} ({sha256[:8]}): {raised.value.message}"
    assert CloudRun(settings).live().bundle_sha256 == sha256
    assert Registry(settings).champion().version == record.model.version


def bucket_objects(store: Store) -> set[str]:
    """The objects that a run needs of those that it stores."""
    prefixes = ("pages/", "posters/", "datasets/", "answers/", "bundles/", "trainings/", "deployments/")
    return {key for prefix in prefixes for key in store.keys(prefix)}


def forget_loaded_model(revision: str) -> None:
    """Kill the processes of a revision, so that the next request starts it and loads its bundle."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"K_REVISION={revision}\0" in (folder / "environ").read_text(errors="replace") + "\0":
                os.kill(int(folder.name), signal.SIGKILL)


def test_objects_missing_in_the_bucket_are_put_back(first_run, parameters: RetrainParameters) -> None:
    settings, record = read_settings(), first_run[0].record
    store, sha256 = Store(settings), record.training.bundle_sha256
    before = bucket_objects(store)
    page = store.keys("pages/")[0]
    here, nowhere = store.keys("posters/")[:2]
    lost = [page, here, nowhere, record.training.predictions_key, f"bundles/{sha256}/figures.json"]
    dataset = f"datasets/{record.dataset.dataset_key}"
    lost += [f"{dataset}/labels.npy", f"{dataset}/manifest.json", f"deployments/{sha256}.json"]
    deployment = json.loads(store.read(lost[-1]))
    del deployment["later"]  # the following run scores the champion on later titles again
    for key in lost:
        delete(store, key)
    for key in (page, nowhere, record.training.predictions_key, f"{dataset}/labels.npy"):
        (settings.workspace / key).unlink()
    summary = run_retrain(parameters)
    assert summary.record.training == record.training
    assert summary.record.dataset == record.dataset
    assert summary.record.posters.new == 1
    assert before - bucket_objects(store) == set()
    restored = json.loads(store.read(f"deployments/{sha256}.json"))
    assert restored | {"live_since": deployment["live_since"]} == deployment
    assert restored["live_since"] <= deployment["live_since"], "the revision was created before it got the traffic"
    assert summary.message.startswith("champion kept") and summary.record.deployment is None


def test_champion_that_refuses_the_call_is_neither_redeployed_nor_replaced_without_a_comparison(
    first_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANIME_GENRE_CORS_ORIGINS", "https://example.org")
    settings, record = read_settings(), first_run[0].record
    store, registry = Store(settings), Registry(settings)
    champion = live_champion(settings, registry)
    with fault_proxy(champion.revision.url, Fault("POST /", status=403)) as refusing:
        refused = replace(champion, revision=replace(champion.revision, url=refusing.url))
        state = examine(
            refused,
            record.evaluation.known_posters[0].name,
            store,
            registry,
            settings.model_copy(update={"workspace": tmp_path}),
        )
    assert state.model is not None and not state.damaged and "do not allow a call" in state.silent
    assert reason_to_redeploy(champion, state, settings) is None
    assert reason_to_redeploy(champion, replace(state, silent=None), settings) == "CORS_ORIGINS changed"
    lost = verdict("0" * 64, state.model, champion, replace(state, model=None), decide)
    assert not lost.promote and "cannot be compared: The credentials do not allow" in lost.reason


def change_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change what a revision gets."""
    monkeypatch.setenv("ANIME_GENRE_CORS_ORIGINS", "https://example.org")
    monkeypatch.setenv("ANIME_GENRE_FUNCTION_MEMORY", "2Gi")


def test_champion_without_bundle_and_image_is_restored_in_a_new_revision_with_the_present_settings(
    first_run, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sha256 = read_settings(), first_run[0].record.training.bundle_sha256
    store, before = Store(settings), CloudRun(settings).live()
    for key in store.keys(f"bundles/{sha256}/"):
        delete(store, key)
    shutil.rmtree(settings.workspace / "bundles" / sha256)
    for file in (settings.workspace / "cloud-run" / "images").glob("*/main.py"):
        file.write_bytes(b"")
    (settings.workspace / "cloud-run" / "images.json").unlink()
    forget_loaded_model(before.name)
    deployment = store.read(f"deployments/{sha256}.json")
    store.write(f"deployments/{sha256}.json", deployment[:-9])
    monkeypatch.setattr("tasks.champion.request_prediction", partial(request_prediction, startup_seconds=1))
    change_settings(monkeypatch)
    summary = run_retrain(parameters)
    assert [(step.name, step.state) for step in summary.steps][-1] == ("redeploy champion", "Completed")
    assert summary.message.startswith("champion kept")
    assert summary.record.evaluation.redeploy_champion == "its revision does not run any more"
    after = CloudRun(settings).live()
    assert after.name != before.name and after.resources == Resources("1", "2Gi")
    assert after.environment == {**before.environment, "CORS_ORIGINS": "https://example.org"}
    response = requests.get(f"{after.url}/health", headers={"Origin": "https://example.org"}, timeout=30)
    assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert is_answered_by(sha256, first_run[0])
    assert json.loads(store.read(f"deployments/{sha256}.json"))["figures"] == json.loads(deployment)["figures"]


def test_old_model_keeps_its_revision_if_the_decoder_changed(
    first_run, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    settings = read_settings()
    champion = live_champion(settings, Registry(settings))
    model = Model.load(settings.workspace / "bundles" / champion.bundle_sha256)
    state = ChampionState(model, damaged=False, silent=None)
    changed = settings.model_copy(update={"cors_origins": "https://other.example"})
    assert reason_to_redeploy(champion, state, changed)
    monkeypatch.setattr("tasks.champion.PREPROCESSING_VERSION", 2)
    assert reason_to_redeploy(champion, state, changed) is None


def test_old_model_is_asked_about_the_test_posters_if_the_decoder_changed(
    first_run, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    settings, record = read_settings(), first_run[0].record
    store, registry = Store(settings), Registry(settings)
    champion = live_champion(settings, registry)
    model = Model.load(settings.workspace / "bundles" / champion.bundle_sha256)
    data = fetch_dataset(store, settings.workspace, record.dataset.dataset_key)
    here = champion_decisions(champion, model, data, store, settings)
    assert here.any() and not here.all()
    monkeypatch.setattr("tasks.champion.PREPROCESSING_VERSION", 2)
    caplog.set_level("INFO", "tasks")
    assert np.array_equal(champion_decisions(champion, model, data, store, settings), here)
    assert f"is asked about {len(here)} test posters, because its decoder has version 1" in caplog.text
    silent = ChampionState(model, damaged=False, silent="there is no response.")
    kept = verdict("0" * 64, model, champion, silent, lambda *models: pytest.fail("it cannot be compared"))
    assert not kept.promote
    assert kept.reason.endswith("cannot be compared: there is no response.")


def test_registry_edited_by_hand_is_mended(
    first_run, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_settings(monkeypatch)  # to those of the live revision
    settings, record, client = read_settings(), first_run[0].record, MlflowClient()
    client.delete_registered_model(settings.model_name)
    client.delete_experiment(client.get_run(record.training.run_id).info.experiment_id)
    summary = run_retrain(parameters)
    assert summary.record.training == record.training
    champion = Registry(settings).champion()
    assert champion.tags["bundle_sha256"] == record.training.bundle_sha256
    assert champion.version == summary.record.model.version
    assert f"version 1 ({record.training.bundle_sha256[:8]}) is this model" in summary.message


def send_traffic_by_hand(stack: Stack, revision: str) -> None:
    """Move the traffic as `gcloud run services update-traffic` does."""
    settings = read_settings()
    cloud_run = CloudRun(settings)
    name = f"projects/{settings.google_project}/locations/{settings.google_region}/services/{settings.service}"
    target = {"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": revision, "percent": 100}
    requests.patch(
        f"{stack.environment['ANIME_GENRE_CLOUD_RUN_ENDPOINT']}/v2/{name}?updateMask=traffic",
        json={"traffic": [target]},
        headers={"Authorization": f"Bearer {stack.environment['ANIME_GENRE_CLOUD_RUN_TOKEN']}"},
        timeout=30,
    ).raise_for_status()
    deadline = time.monotonic() + 30
    while cloud_run.live().name != revision and time.monotonic() < deadline:
        time.sleep(0.1)


def test_traffic_moved_by_another_tool_stays_until_a_better_model_or_a_person_moves_it(
    first_run, stack: Stack, parameters: RetrainParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_settings(monkeypatch)  # to those of the live revision
    settings, first_sha256 = read_settings(), first_run[0].record.training.bundle_sha256
    cloud_run, client = CloudRun(settings), MlflowClient()
    first = cloud_run.live()
    other = parameters.model_copy(update={"train": replace(parameters.train, epochs=1)})
    second = run_retrain(other.model_copy(update={"promote": "always"})).record
    assert cloud_run.live().name == second.deployment.revision != first.name
    promoted = client.get_model_version(settings.model_name, second.model.version)
    assert promoted.tags["better_than_champion"] == str(second.evaluation.passed_gate).lower()

    send_traffic_by_hand(stack, first.name)
    kept = run_retrain(other)
    tagged = client.get_model_version(settings.model_name, second.model.version)
    assert tagged.tags == promoted.tags and second.model.bundle_sha256[:8] in tagged.description
    assert kept.message.startswith(f"champion kept: Another tool moved the traffic to {first.name}.")
    assert "Only a person moves it back" in kept.message and kept.record.deployment is None
    found = read_rollouts(Store(settings))[-1]
    assert (found.what, found.revision, found.after[-10:]) == ("found", first.name, f"({first_sha256[:8]})")
    assert cloud_run.live().name == first.name
    assert Registry(settings).champion().tags["bundle_sha256"] == first_sha256
    assert Registry(settings).previous().version == second.model.version

    run_retrain(other.model_copy(update={"promote": "always"}))
    traffic = cloud_run.traffic()
    assert not traffic.moved and traffic.revision.bundle_sha256 == second.training.bundle_sha256

    # A champion without a copy of its bundle is replaced without a comparison with it.
    store = Store(settings)
    for key in store.keys(f"bundles/{second.training.bundle_sha256}/"):
        delete(store, key)
    client.delete_model_version(settings.model_name, second.model.version)
    (model,) = Registry(settings).logged_models(second.training.run_id)
    (stored,) = (settings.workspace / "mlflow-artifacts").rglob(model)
    copies = [settings.workspace / "bundles" / second.training.bundle_sha256, stored]
    for copy in copies:
        copy.rename(tmp_path / copy.name)
    replaced = run_retrain(parameters)
    assert "has no intact copy" in replaced.message and "for the baseline 'every genre'" in replaced.message
    assert is_answered_by(first_sha256, first_run[0])
    for copy in copies:  # later tests use this model without another training
        (tmp_path / copy.name).rename(copy)


def test_version_numbers_that_begin_again_are_told_apart_by_the_bundle(
    first_run, parameters: RetrainParameters
) -> None:
    settings, client, name = read_settings(), MlflowClient(), read_settings().model_name
    other = parameters.model_copy(update={"train": replace(parameters.train, epochs=1)})
    client.delete_registered_model(name)
    live = run_retrain(other.model_copy(update={"promote": "always"})).record.model
    client.delete_registered_model(name)
    kept = run_retrain(other)
    assert f"version 2 ({live.bundle_sha256[:8]}) is this model" in kept.message
    first = run_retrain(parameters.model_copy(update={"promote": "never"})).record.model
    assert first.version == live.version == "2"
    assert kept.record.model.version == Registry(settings).champion().version == "1"
    answer = requests.get(f"{CloudRun(settings).live().url}/model").json()
    assert answer["model"]["version"] == answer["deployment"]["version"] == first.version
    assert answer["model"]["sha256"] == answer["deployment"]["bundle_sha256"] == live.bundle_sha256
    assert answer["deployment"]["previous_bundle_sha256"] == first.bundle_sha256
    for model in (kept.record.model, first):
        registered = client.get_model_version(name, model.version)
        assert registered.tags["bundle_sha256"] == model.bundle_sha256
        assert f"Bundle: {model.bundle_sha256[:8]}" in registered.description


def test_poster_with_another_hash_is_fetched_from_the_bucket(first_run, tmp_path) -> None:
    store = Store(read_settings())
    name = first_run[0].record.evaluation.known_posters[0].name
    id = name.removeprefix("posters/").removesuffix(".jpg")
    (tmp_path / f"{id}.jpg").write_bytes(b"an older poster")
    fetch_posters(store, tmp_path, {id: sha256_of(store.read(name))})
    assert (tmp_path / f"{id}.jpg").read_bytes() == store.read(name)
    with pytest.raises(StalePosterError, match=name):
        fetch_posters(store, tmp_path, {id: sha256_of(b"a replaced poster")})


def test_registry_knows_only_its_runs(first_run) -> None:
    assert Registry(read_settings()).has_run(first_run[0].record.training.run_id)
    assert not Registry(read_settings()).has_run("0" * 32)


def test_collecting_alone_requests_what_is_due_and_pings(
    first_run, parameters: RetrainParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_sink() as sink:
        monkeypatch.setenv("ANIME_GENRE_PING_URL", f"{sink.url}/collected")
        state = collect(parameters, return_state=True)
    assert [each.path for each in sink.received] == ["/collected"]
    assert re.match(rf"{TITLES} titles, \d+ changes since the last catalogue, \d+ posters, 0 new", state.message)
    assert [step.name for step in recorded_steps(state.state_details.flow_run_id)] == STEPS[:2]
