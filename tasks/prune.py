"""What nothing needs any more, in the bucket, in the workspace, in MLflow and among the function's revisions.

A version of the model is kept if it is or was live, if it is held, if a revision of the function serves it, if it has
an alias, or if it was registered lately. What a kept version, the last training or a record of what is current names
is needed. Everything else goes once it is old. Posters, kept pages, tables, ledgers, and the events of rollouts and
comparisons are never deleted.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from infra.cloud_run import CloudRun
from infra.disk import size_bytes
from infra.mlflow_database import database_file, free_rows, free_run
from infra.registry import DATASET_KEY, Registry, StoredVersion
from infra.settings import MAIN_COLLECTION, Settings, read_settings
from infra.store import Listed, Store
from ml.data.decoding import PREPROCESSING_VERSION
from ml.training.checkpoints import CHECKPOINTS, KEPT_DAYS
from ml.training.features import FEATURES
from serving.bundle.files import sha256_of, temporary_path
from serving.bundle.model import MANIFEST, Manifest
from tasks.catalogue.last_good import about_last_good
from tasks.catalogue_predictions import PREDICTIONS
from tasks.champion import function_source
from tasks.deployments import deployed_bundles
from tasks.errors import CatalogueError
from tasks.posters import read_collected
from tasks.records import CatalogueRecord, TrainingRecord
from tasks.rollouts import live_revisions, models_of, read_hold, read_rollouts
from tasks.scrape import LATEST

_NEEDS_POINTERS = ("catalogues", "poster-sets", "reports")


@dataclass(frozen=True)
class Removal:
    """Something to delete. `entry` is what it belongs to, such as a dataset of several objects."""

    kind: str
    entry: str
    size_bytes: int
    delete: Callable[[], None]


@dataclass
class _Kept:
    """What is needed: hashes of bundles, their beginnings, datasets, sources and files, and ids of MLflow runs."""

    bundles: set[str] = field(default_factory=set)
    bundle_starts: set[str] = field(default_factory=set)
    datasets: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    versions: list[StoredVersion] = field(default_factory=list)

    def has_bundle(self, sha256: str) -> bool:
        return sha256 in self.bundles or sha256[:8] in self.bundle_starts


def plan(since: datetime) -> tuple[list[Removal], str]:
    """What nothing needs, in the order in which it can be deleted safely, and a sentence about what is kept.

    All collections of the bucket are looked at. What was written, registered or started after `since` is kept.

    The order is such that a process that is killed leaves nothing that names what is gone: revisions before their
    bundles, records of trainings before predictions, manifests before the files that they list, and versions in MLflow
    before their runs. What is left is found again, because only what is kept decides about it.
    """
    settings = read_settings()
    registry = Registry(settings)
    versions = registry.all_versions()
    collections = Store(settings).collections()
    stores = {each.collection: Store(each) for each in collections}
    kept, removals = _Kept(), list[Removal]()
    for each in _by_service(collections):
        removals += _plan_revisions(each, kept)
    for store in stores.values():
        _keep_what_was_live(store, kept)
    address = f"gs://{settings.bucket}/"
    kept.versions = [each for each in versions if _is_kept(each, kept, since, address)]
    for version in kept.versions:
        kept.bundles.add(version.bundle_sha256)
        kept.runs.add(version.run_id)
        kept.datasets.add(version.tags.get("dataset_key", ""))
    lists = {each.collection: _listed(stores[each.collection]) for each in collections}
    for name, store in stores.items():
        _keep_trainings(store, lists[name]["trainings"], registry, kept, since)
    for name, store in stores.items():
        _keep_datasets(store, lists[name], kept)
        removals += _plan_bucket(store, lists[name], kept, since)
    for each in collections:
        removals += _plan_folder(each.folder, kept, since)
    removals += _plan_tensorboard(settings.workspace, kept, since)
    # Versions and runs last: until then, a process that was killed finds again what they named.
    removals += _plan_mlflow(settings, registry, versions, kept, since)
    names = ", ".join(f"{each.name} {each.version}" for each in kept.versions) or "none"
    keeps = (
        "versions that are or were live, are held, are served by a revision, have an alias, or are younger than "
        f"{since:%Y-%m-%d} ({names}), with their bundles, datasets and runs; the last training; what is younger than "
        "that; all posters, pages, tables, ledgers, rollouts and comparisons."
    )
    return removals, keeps


def _by_service(collections: list[Settings]) -> list[Settings]:
    """One collection for each service: the one that its live revision serves. A setting may give all the same one."""
    found: dict[str, Settings] = {}
    for each in collections:
        live = CloudRun(each).live()
        served = live.environment.get("COLLECTION", MAIN_COLLECTION) if live else None
        if each.service not in found or served == each.collection:
            found[each.service] = each
    return list(found.values())


def _plan_revisions(settings: Settings, kept: _Kept) -> Iterator[Removal]:
    """The revisions to delete. The bundles and sources of the others are kept."""
    cloud_run = CloudRun(settings)
    revisions = cloud_run.revisions()
    store = Store(settings)
    models, were_live = models_of(revisions, store), live_revisions(store)
    unused = {each.name for each in cloud_run.unused_revisions(models, were_live)}
    for revision in revisions:
        if revision.name in unused:
            delete = partial(cloud_run.delete_revision, revision.name)
            yield Removal("revisions of the function", revision.name, 0, delete)
        else:
            kept.bundles.add(revision.bundle_sha256)
            kept.files.add(revision.image.source_sha256)


def _keep_what_was_live(store: Store, kept: _Kept) -> None:
    kept.bundles |= set(deployed_bundles(store))
    hold = read_hold(store)
    names = [hold.version] if hold else []
    names += [name for each in read_rollouts(store) for name in (each.before, each.after) if name]
    kept.bundle_starts |= {start for name in names for start in re.findall(r"\(([0-9a-f]{8})\)", name)}


def _is_kept(version: StoredVersion, kept: _Kept, since: datetime, address: str) -> bool:
    """Whether a version is kept. Those of other programs, and those that another bucket serves, are."""
    sha256, uri = version.bundle_sha256, version.tags.get("bundle_uri", address)
    elsewhere = not sha256 or not uri.startswith(address)
    return elsewhere or version.has_alias or version.created >= since or kept.has_bundle(sha256)


_Listing = Mapping[str, Listed]


def _listed(store: Store) -> dict[str, _Listing]:
    """The objects that may be deleted, by the folder in which they are."""
    results = ("trainings", "answers", "datasets", "bundles", "functions", PREDICTIONS)
    caches = ("weights", CHECKPOINTS, FEATURES)
    return {folder: store.listing(f"{folder}/") for folder in (*results, *caches, *_NEEDS_POINTERS)}


def _keep_trainings(store: Store, trainings: _Listing, registry: Registry, kept: _Kept, since: datetime) -> None:
    """Keep the last training, those of kept versions and recent ones, with what they name."""
    bundles, runs = set(kept.bundles), set(kept.runs)
    last = _last(trainings)
    for key, listed in trainings.items():
        record = store.read_parsed(key, TrainingRecord.model_validate_json)
        if record is None:
            continue
        if key == last or listed.written >= since or record.run_id in runs or record.bundle_sha256 in bundles:
            kept.files |= {Path(key).stem, Path(record.predictions_key).stem}
            kept.bundles.add(record.bundle_sha256)
            kept.runs.add(record.run_id)
            kept.datasets.add(registry.parameter(record.run_id, DATASET_KEY) or "")


def _keep_datasets(store: Store, lists: Mapping[str, _Listing], kept: _Kept) -> None:
    """Keep the last dataset, and those of kept bundles."""
    if last := _last(lists["datasets"]):
        kept.datasets.add(last.split("/")[1])
    for key in lists["bundles"]:
        if key.endswith(f"/{MANIFEST}") and kept.has_bundle(key.split("/")[1]):
            manifest = store.read_parsed(key, Manifest.parse)
            kept.datasets.add(manifest.dataset_key if manifest else "")


def _last(listing: _Listing) -> str | None:
    return max(listing, key=lambda key: (listing[key].written, key), default=None)


def _plan_bucket(store: Store, lists: Mapping[str, _Listing], kept: _Kept, since: datetime) -> Iterator[Removal]:
    """The objects to delete. If a record is missing or damaged, what it named is unknown, and stays."""
    latest, collected = store.read_parsed(LATEST, CatalogueRecord.model_validate_json), read_collected(store)
    if latest and collected:
        kept.files |= {"latest", latest.sha256, collected.catalogue.sha256, collected.posters.sha256}
        kept.files.add(collected.posters.report_key.split("/")[1])
    kept.files.add(sha256_of(function_source()))
    if newest := _last(lists[FEATURES]):
        kept.files.add(newest.split("/")[1])
    resumable = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
    for folder, listing in lists.items():
        if folder in _NEEDS_POINTERS and not (latest and collected):
            continue
        # No training resumes from older checkpoints, also of a run that was cancelled.
        oldest = max(since, resumable) if folder == CHECKPOINTS else since
        # The manifest of an entry first: without it, what is left counts as incomplete and is written again.
        for key in sorted(listing, key=lambda key: (key.split("/")[1], not key.endswith(f"/{MANIFEST}"), key)):
            entry = re.sub(r"(-left-out)?\.\w+$", "", key.split("/")[1])
            if listing[key].written < oldest and not _is_needed(folder, entry, kept):
                # The store deletes the generation that was listed, and no other one.
                yield Removal(
                    f"{folder} in the bucket", f"{folder}/{entry}", listing[key].size_bytes, partial(store.delete, key)
                )


def _is_needed(folder: str, entry: str, kept: _Kept) -> bool:
    if folder in ("bundles", PREDICTIONS):
        return kept.has_bundle(entry)
    if folder == "weights":
        was_uploaded_for_a_worker = re.fullmatch("[0-9a-f]{64}", entry)  # named by its hash
        return not was_uploaded_for_a_worker
    return entry in (kept.datasets if folder == "datasets" else kept.files)


def _plan_folder(folder: Path, kept: _Kept, since: datetime) -> Iterator[Removal]:
    """The files and folders of a collection's workspace to delete: caches of what is not needed."""
    sizes = set()
    for dataset in _entries(folder / "datasets"):
        if dataset.name in kept.datasets or _changed(dataset) >= since:
            sizes |= _image_size(dataset)
    with suppress(CatalogueError):
        here = about_last_good(folder)
        kept.files.add(here.sha256 if here else "")
    pixels = {f"{size}-v{PREPROCESSING_VERSION}" for size in sizes}
    features = _entries(folder / FEATURES)
    newest = max(features, key=_changed).name if features else ""
    needed: dict[str, Callable[[Path], bool]] = {
        "pixels": lambda path: path.name in pixels if pixels else path.name.endswith(f"-v{PREPROCESSING_VERSION}"),
        FEATURES: lambda path: path.name == newest,
        PREDICTIONS: lambda path: kept.has_bundle(path.name),
        CHECKPOINTS: lambda path: False,
        "datasets": lambda path: path.name in kept.datasets,
        "bundles": lambda path: kept.has_bundle(path.name),
        "answers": lambda path: path.stem in kept.files,
        "catalogues": lambda path: path.name.partition(".")[0].removesuffix("-left-out") in kept.files,
        "reports": lambda path: path.name in kept.files | kept.runs,
    }
    for name, is_needed in needed.items():
        for path in _entries(folder / name):
            if _changed(path) < since and not is_needed(path):
                yield Removal(f"{name} in the workspace", str(path), size_bytes(path), partial(_delete, path))


def _plan_tensorboard(workspace: Path, kept: _Kept, since: datetime) -> Iterator[Removal]:
    """The curves of runs that are not kept. A folder is named by time and the beginning of the run's id."""
    starts = {run_id[:6] for run_id in kept.runs}
    for path in _entries(workspace / "tensorboard"):
        if _changed(path) < since and path.name.rpartition("_")[2] not in starts:
            yield Removal("TensorBoard curves", str(path), size_bytes(path), partial(_delete, path))


def _entries(folder: Path) -> list[Path]:
    """What a folder has, without locks and what is being written."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def _changed(path: Path) -> datetime:
    """When a file or anything in a folder was last written."""
    times = []
    for each in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # a training beside this process has deleted it
            times.append(each.lstat().st_mtime)
    return datetime.fromtimestamp(max(times, default=time.time()), UTC)


def _image_size(dataset: Path) -> set[int]:
    try:
        return {int(json.loads((dataset / MANIFEST).read_bytes())["preprocessing"]["size"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _delete(path: Path) -> None:
    """Delete a file or folder. It has another name meanwhile, so that nobody takes a part of it for the whole."""
    aside = temporary_path(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _plan_mlflow(
    settings: Settings, registry: Registry, versions: list[StoredVersion], kept: _Kept, since: datetime
) -> Iterator[Removal]:
    """Versions that are not kept, and runs without a kept version. A training's run and those below it go together."""
    database = database_file(settings)

    def delete_version(version: StoredVersion) -> None:
        registry.delete_version(version)
        if database:
            free_rows(database)

    for version in versions:
        if version not in kept.versions:
            yield Removal(
                "versions in MLflow", f"{version.name} {version.version}", 0, partial(delete_version, version)
            )
    kind = "runs in MLflow" if database else "runs in MLflow, whose files its owner frees with `mlflow gc`"

    def free(run_id: str) -> None:
        if database:
            free_run(settings, database, run_id)
            free_rows(database)

    def delete(run_id: str) -> None:
        registry.delete_run(run_id)
        free(run_id)

    runs = registry.runs()
    busy = {run.root for run in runs if run.is_running or run.started >= since or run.run_id in kept.runs}
    for run in registry.runs(deleted=True) if database else []:  # an earlier process was killed before it freed them
        yield Removal(kind, run.root, 0, partial(free, run.run_id))
    for run in sorted(runs, key=lambda run: (run.root, run.run_id == run.root)):  # the root last: it names the others
        if run.root not in busy:
            folders = (run.run_id, *(f"models/{model}" for model in registry.logged_models(run.run_id)))
            files = (each for name in folders for each in settings.workspace.glob(f"mlflow-artifacts/*/{name}"))
            yield Removal(kind, run.root, sum(map(size_bytes, files)), partial(delete, run.run_id))
