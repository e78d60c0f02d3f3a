"""`prune` on a bucket, a workspace, MLflow and revisions that are made by hand: what goes, and what never does."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest
from google.cloud import run_v2
from mlflow.entities import LoggedModelOutput
from mlflow.tracking import MlflowClient

import flows.prune
import tasks.prune
from flows.prune import prune
from infra.cloud_run import CloudRun
from infra.errors import OutdatedError
from infra.lease import bucket_lease
from infra.registry import DATASET_KEY, Registry
from infra.revisions import Image, Resources, Revision, latest_target
from infra.settings import MAIN_COLLECTION, Settings, read_settings
from infra.store import Store
from ml.data.decoding import PREPROCESSING_VERSION
from serving.bundle.files import sha256_of
from tasks.prune import Removal, plan
from tests.infra.conftest import TOKEN, run_api
from tests.storage import new_bucket, storage_emulator

pytestmark = pytest.mark.stack

REVISIONS = {f"anime-genre-{number}": f"served {number}" for number in range(1, 8)}
REVISIONS |= {f"anime-genre-{number}": "live" for number in range(8, 14)}  # its settings changed again and again

MANIFEST = {
    "format": 1,
    "genres": [{"id": 1, "name": "Action", "threshold": 0.5}],
    "preprocessing": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "squash-bilinear", "version": 1},
    "network": {},
    "files": {"model.onnx": "0" * 64},
}


def named(what: str) -> str:
    """A hash of its own for each thing."""
    return sha256_of(what.encode())


def write_revisions(folder: Path) -> None:
    """A service of the Cloud Run stand-in with revisions. The last one has the traffic."""
    succeeded = run_v2.Condition(type_="Ready", state=run_v2.Condition.State.CONDITION_SUCCEEDED)
    name = "projects/anime-genre/locations/europe-west1/services/anime-genre"
    revisions = []
    for number, (short, model) in enumerate(REVISIONS.items()):
        container = run_v2.Container(image="a", env=[run_v2.EnvVar(name="BUNDLE_SHA256", value=named(model))])
        revision = run_v2.Revision(name=f"{name}/revisions/{short}", containers=[container], conditions=[succeeded])
        revision.create_time = datetime(2026, 1, 1 + number, tzinfo=UTC)
        revisions.append(json.loads(run_v2.Revision.to_json(revision)))
    last = f"{name}/revisions/{short}"
    service = run_v2.Service(
        name=name,
        latest_created_revision=last,
        latest_ready_revision=last,
        traffic=[latest_target()],
        traffic_statuses=[run_v2.TrafficTargetStatus(revision=short, percent=100)],
    )
    state = {"service": json.loads(run_v2.Service.to_json(service)), "revisions": revisions, "ports": {}}
    (folder / "services").mkdir(parents=True)
    (folder / "services" / "anime-genre.json").write_text(json.dumps(state))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of an emulated bucket, a stand-in with revisions, and MLflow in the workspace."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    write_revisions(tmp_path / "cloud-run")
    with storage_emulator(tmp_path / "storage", "unused") as url, run_api(tmp_path / "cloud-run", url) as (run, _):
        environment = {
            "ANIME_GENRE_WORKSPACE": str(workspace),
            "ANIME_GENRE_BUCKET": new_bucket(url, workspace).name,
            "ANIME_GENRE_CLOUD_RUN_ENDPOINT": run,
            "ANIME_GENRE_CLOUD_RUN_TOKEN": TOKEN,
            "STORAGE_EMULATOR_HOST": url,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield read_settings()
    mlflow.set_tracking_uri(None)


def add_model(settings: Settings, model: str) -> str:
    """A training with everything that a run leaves: in MLflow, in the bucket and in the workspace."""
    store, registry, workspace = Store(settings), Registry(settings), settings.workspace
    client = MlflowClient(settings.tracking_uri)
    sha256, dataset, answers = named(model), named(f"dataset of {model}"), named(f"answers of {model}")
    with registry.run(model, {DATASET_KEY: dataset}) as run_id:
        nested = registry.start_run("network", {}, parent=run_id)
        registry.log_metrics(nested, {"loss": 1.0})
        registry.end_run(nested, "FINISHED")
    (workspace / "note.txt").write_text(model)
    registry.log_file(run_id, workspace / "note.txt")
    logged = client.create_logged_model(registry.runs_url.split("/")[-2], name="model", source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    tags = {"bundle_sha256": sha256, "dataset_key": dataset}
    client.create_model_version("anime-genre", f"runs:/{run_id}/bundle", run_id, tags=tags)
    training = {"run_id": run_id, "bundle_sha256": sha256, "chosen": "linear", "networks": [], "device": "cpu"}
    training |= {"answers_key": f"answers/{answers}.npz", "precision": "float32"}
    objects: dict[str, object] = {
        f"bundles/{sha256}/model.onnx": model,
        f"bundles/{sha256}/manifest.json": MANIFEST | {"dataset_key": dataset},
        f"datasets/{dataset}/rows.csv": model,
        f"datasets/{dataset}/manifest.json": {"preprocessing": {"size": 32 if model != "unused" else 64}},
        f"answers/{answers}.npz": model,
        f"predictions/{sha256}/{'0' * 64}.parquet": model,
        f"functions/{named(f'source of {model}')}.zip": model,
        f"trainings/{named(f'training of {model}')}.json": training,
    }
    for key, content in objects.items():
        data = json.dumps(content).encode()
        store.write(key, data)
        if key.split("/")[0] in ("bundles", "datasets", "answers"):
            (workspace / key).parent.mkdir(parents=True, exist_ok=True)
            (workspace / key).write_bytes(data)
    (workspace / "tensorboard" / f"2026-01-01_{run_id[:6]}").mkdir(parents=True)
    return run_id


def add_collected(store: Store, name: str) -> None:
    """A catalogue with its posters, which is the last one."""
    sha256 = named(name)
    catalogue = {"key": f"catalogues/{sha256}.csv", "sha256": sha256, "site_url": "", "seasons": "", "titles": 1}
    catalogue |= {"changes": 0, "snapshot_date": "2026-01-01"}
    posters = {"key": f"poster-sets/{sha256}.json", "sha256": sha256, "posters": 1, "new": 0, "without": {}}
    posters["report_key"] = f"reports/{sha256}/report.html"
    for key in (f"catalogues/{sha256}.csv", f"catalogues/{sha256}-left-out.csv", posters["key"], posters["report_key"]):
        store.write(str(key), b"data")
    store.write("catalogues/latest.json", json.dumps(catalogue).encode())
    store.write("collected.json", json.dumps({"catalogue": catalogue, "posters": posters}).encode())


def rows_without_owner(settings: Settings) -> set[str]:
    """The rows in MLflow's database that belong to a version or run that is gone."""
    with closing(sqlite3.connect(settings.workspace / "mlflow.db")) as database:
        (versions,) = database.execute(
            "SELECT group_concat(DISTINCT version) FROM model_version_tags JOIN model_versions USING (name, version) "
            "WHERE current_stage = 'Deleted_Internal'"
        ).fetchone()
        (runs,) = database.execute(
            "SELECT group_concat(source_id) FROM inputs WHERE source_id NOT IN (SELECT run_uuid FROM runs)"
        ).fetchone()
    return {each for each in (versions, runs) if each}


CANCELLED, RESUMABLE = (f"checkpoints/{named(name)}/scratch-trial-1.pt" for name in ("cancelled", "resumable"))
NEVER = (
    "posters/1.jpg",
    "pages/a.html.gz",
    "tables/a/films.csv",
    "history.csv",
    "parts-2.csv",
    "comparisons/a.json",
    "weights/mine.pth",
)


def state(settings: Settings) -> set[str]:
    """Everything that is there, in words."""
    store, registry, workspace = Store(settings), Registry(settings), settings.workspace
    files = {str(path.relative_to(workspace)) for path in workspace.rglob("*") if not path.name.endswith(".lock")}
    found = {f"bucket {key}" for key in store.keys("")} | {f"file {path}" for path in files if "mlflow" not in path}
    found |= {f"artifact {path.parent}" for path in workspace.glob("mlflow-artifacts/**/note.txt")}
    found |= {f"version {each.version}" for each in registry.all_versions()}
    found |= {f"run {each.run_id}" for each in registry.runs()}
    return found | {f"revision {each.name}" for each in CloudRun(settings).revisions()}


def test_prune_deletes_what_nothing_needs_and_continues_wherever_it_was_killed(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store, registry, workspace = Store(settings), Registry(settings), settings.workspace
    client = MlflowClient(settings.tracking_uri)
    client.create_registered_model("anime-genre")
    add_collected(store, "old")
    runs = {model: add_model(settings, model) for model in ("rolled back", "unused", "served 1", "served 3", "live")}
    registry.set_champion("5")
    rollout = {"when": "2026-01-01", "what": "redeploy", "by": "run a", "before": None, "revision": "a", "reason": "b"}
    rollout["after"] = f"version 1 ({named('rolled back')[:8]})"
    store.write("rollouts/2026-01-01.json", json.dumps(rollout).encode())
    for key in NEVER:
        store.write(key, b"data")
    (workspace / "collections" / "films" / "pixels").mkdir(parents=True)
    for name in ("pixels/32-v0", "pixels/64-v1", "features/resnet18-a", "checkpoints/a", "posters"):
        (workspace / name).mkdir(parents=True)
        (workspace / name / "a.npy").write_bytes(b"0" * 1_000_000)
    uploaded = f"weights/{named('weights')}.safetensors"
    for key in (CANCELLED, uploaded, "features/resnet18-a/a.json", "features/resnet18-b/a.json"):
        store.write(key, b"data")
    films = Store(read_settings("films"))
    for key in (f"answers/{named('films')}.npz", "posters/1.jpg"):
        films.write(key, b"data")
    time.sleep(0.1)
    (workspace / "features" / "resnet18-b").mkdir()
    (workspace / f"pixels/32-v{PREPROCESSING_VERSION}").mkdir(exist_ok=True)
    since = datetime.now(UTC)
    time.sleep(0.1)
    runs["recent"] = add_model(settings, "recent")
    add_collected(store, "new")
    uploading = f"bundles/{named('uploading')}/model.onnx"
    store.write(uploading, b"data")
    store.write(RESUMABLE, b"data")

    with bucket_lease(store, workspace):
        pass  # as every run does: the workspace has an id then
    before = state(settings)
    prune(since, dry_run=True)
    assert "Nothing was deleted." in capsys.readouterr().out
    assert state(settings) == before
    planned, _ = plan(since)

    registry.delete_run(runs["unused"])  # killed before it freed the run
    for count in (1, 2, 3, 5, 8):  # killed after so many deletions
        for removal in plan(since)[0][:count]:
            removal.delete()
    prune(since)
    said = capsys.readouterr().out
    assert "1.0 MB  checkpoints in the workspace: 1" in said
    assert "anime-genre 1, anime-genre 4, anime-genre 5, anime-genre 6" in said

    after = state(settings)
    gone = before - after
    assert after < before
    # The models that went: never live, and no revision that is left serves them.
    for model in ("unused", "served 1"):
        for name in (model, f"dataset of {model}", f"answers of {model}", f"training of {model}", f"source of {model}"):
            assert not any(named(name) in each for each in after)
        assert not any(runs[model] in each or f"_{runs[model][:6]}" in each for each in after)
    # What a rollback to each other model needs is there, and so is what is current.
    for model in ("rolled back", "served 3", "live", "recent"):
        for name in (model, f"dataset of {model}", f"answers of {model}", f"training of {model}"):
            assert not any(named(name) in each for each in gone)
        assert not any(runs[model] in each or f"_{runs[model][:6]}" in each for each in gone)
    assert {each for each in gone if each.startswith("revision")} == {
        "revision anime-genre-1",
        "revision anime-genre-2",
    }
    assert {each for each in gone if named("old") in each} == {
        f"bucket {each}"
        for each in (
            (f"catalogues/{named('old')}.csv"),
            (f"catalogues/{named('old')}-left-out.csv"),
            f"poster-sets/{named('old')}.json",
            f"reports/{named('old')}/report.html",
        )
    }
    caches = {each for each in gone if each.startswith("file") and "/a.npy" in each}
    assert caches == {
        f"file {each}/a.npy" for each in ("pixels/32-v0", "pixels/64-v1", "features/resnet18-a", "checkpoints/a")
    }
    assert {each for each in gone if "films" in each} == {f"bucket collections/films/answers/{named('films')}.npz"}
    assert {f"bucket {CANCELLED}", f"bucket {uploaded}", "bucket features/resnet18-a/a.json"} < gone
    assert "bucket features/resnet18-b/a.json" in after
    assert {
        f"bucket {key}" for key in (*NEVER, RESUMABLE, uploading, "rollouts/2026-01-01.json", "collected.json")
    } < after
    assert len({each for each in gone if each.startswith("version")}) == 2
    assert registry.runs(deleted=True) == []
    assert not rows_without_owner(settings)
    assert len(planned) > 20

    for name in ("pixels", "collections/films/pixels"):  # killed while it deleted the last thing
        (workspace / name / f".64-v0.{2**22 + 1}.part").mkdir()
    prune(since)
    assert "MB" not in capsys.readouterr().out
    assert state(settings) == after

    removals = {each.entry: each for each in plan(datetime.now(UTC))[0]}
    Store(settings).write(uploading, b"of another run, which took over the lease")
    with pytest.raises(OutdatedError):
        removals[uploading.rpartition("/")[0]].delete()


@pytest.mark.parametrize("is_shared", [True, False])
def test_prune_judges_the_revisions_of_a_service_once_by_the_history_of_the_collection_that_is_live(
    is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Service:
        """Its live revision serves films. It notes by whose history its revisions are judged."""

        def __init__(self, settings: Settings) -> None:
            self._service = settings.service

        def live(self) -> Revision:
            return Revision("revision", Image("", ""), {"COLLECTION": "films"}, True, None, Resources("1", "1Gi"))

        def revisions(self) -> list[Revision]:
            return []

        def unused_revisions(self, models: list[str], were_live: set[str]) -> list[Revision]:
            judged.append((self._service, *models, *were_live))
            return []

    judged: list[tuple[str, ...]] = []
    if is_shared:
        monkeypatch.setenv("ANIME_GENRE_SERVICE", "shared")
    collections = [read_settings(name) for name in (MAIN_COLLECTION, "books", "films", "games")]
    monkeypatch.setattr(tasks.prune, "CloudRun", Service)
    monkeypatch.setattr(tasks.prune, "Store", lambda settings: settings)
    monkeypatch.setattr(tasks.prune, "models_of", lambda revisions, store: [store.collection])
    monkeypatch.setattr(tasks.prune, "live_revisions", lambda store: {store.collection})
    for each in tasks.prune._by_service(collections):
        list(tasks.prune._plan_revisions(each, tasks.prune._Kept()))
    own = [(each.service, each.collection, each.collection) for each in collections]
    assert judged == ([("shared", "films", "films")] if is_shared else own)


def test_prune_counts_what_it_deleted_without_what_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replaced() -> None:
        raise OutdatedError("Another run has replaced it.")

    removals = [Removal("datasets", "a", 2_000_000, lambda: None), Removal("datasets", "b", 3_000_000, replaced)]
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(flows.prune, "plan", lambda since: (removals, "nothing."))
    for name in ("Store", "bucket_lease", "rollout_lease"):
        monkeypatch.setattr(flows.prune, name, lambda *_: nullcontext())
    prune(datetime.now(UTC))
    assert capsys.readouterr().out.endswith("Deleted 2.0 MB.\n")
