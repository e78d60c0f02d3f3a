"""Step 6: register the trained network as a version in MLflow's registry."""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from infra.errors import NotFound
from infra.registry import ModelVersion, Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.data.splits import TEST
from serving.bundle.model import Manifest
from tasks.artifacts import show_link
from tasks.bundles import check_bundle, fetch_bundle
from tasks.champion import Champion, live_champion, training_run, version_name
from tasks.deployments import restore_deployment
from tasks.records import DatasetRecord, EvaluationRecord, ModelRecord, TrainingRecord
from tasks.step import reused, step

logger = logging.getLogger("tasks")

BETTER_THAN_CHAMPION = "better_than_champion"
"""Tag of a version: whether it passed the gate, at its registration or later at its promotion."""
_LISTED_CHARACTERS = 4000


@step("register")
def register(dataset: DatasetRecord, training: TrainingRecord, evaluation: EvaluationRecord) -> ModelRecord:
    """Register the chosen network with its scores, the dataset's hash and the code's commit.

    Raises:
        ServiceUnavailable: MLflow is not reachable (retryable).
        NotFound: the bundle has no intact copy.
    """
    settings = read_settings(dataset.collection)
    store, registry = Store(settings), Registry(settings)
    champion = live_champion(settings, registry)
    is_live = champion is not None and champion.bundle_sha256 == training.bundle_sha256
    if champion is not None and not is_live and registry.version_of(champion.bundle_sha256) is None:
        register_champion_again(champion, store, registry, settings)
    if champion is not None:
        restore_deployment(settings, store, registry, champion)
    registered = registry.version_of(training.bundle_sha256)
    if registered is not None:
        record = _record(registered.version, registered.run_id, training, dataset)
        return reused(record, f"{version_name(record.version, record.bundle_sha256)} has this bundle")
    folder = fetch_bundle(store, registry, settings.folder, training.bundle_sha256, training.run_id)
    scores = evaluation.scores[0].model_dump(exclude={"name"})
    tags = {
        "dataset_key": dataset.dataset_key,
        "dataset_date": dataset.snapshot_date,
        "git_commit": git_commit(),
        "network": training.chosen,
        "collection": dataset.collection,
        **{f"{TEST}/{metric}": f"{value:.4f}" for metric, value in scores.items()},
    }
    if not is_live:  # that of a live version was true at its promotion, and is unknown now
        tags[BETTER_THAN_CHAMPION] = str(evaluation.passed_gate).lower()
    logger.info("Registering the model in MLflow.")
    version = _register(registry, training.run_id, folder, training.bundle_sha256, tags)
    live_champion(settings, registry)  # sets the alias, if the live version was deleted from the registry
    name = version_name(version.version, training.bundle_sha256)
    if settings.tracking_uri.startswith("http"):
        link = f"{settings.tracking_uri}/#/models/{settings.model_name}/versions/{version.version}"
        show_link("model-version", link, name[:1].upper() + name[1:])
    return _record(version.version, training.run_id, training, dataset)


def _register(registry: Registry, run_id: str, folder: Path, sha256: str, tags: dict[str, str]) -> ModelVersion:
    manifest = check_bundle(folder, sha256)
    tags = {"bundle_sha256": sha256, **tags}
    return registry.register(run_id, folder, tags, _description(manifest, tags))


def _description(manifest: Manifest, tags: Mapping[str, str]) -> str:
    known = {
        "Network": manifest.network["name"],
        "Bundle": tags["bundle_sha256"][:8],
        "Dataset": f"{tags['dataset_key'][:8]} of {tags['collection']}, {tags.get('dataset_date', 'date unknown')}",
        "Genres": _listed([genre.name for genre in manifest.genres]),
        f"{TEST}/weighted_f1": tags.get(f"{TEST}/weighted_f1", "unknown"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in known.items())


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are: some databases of MLflow refuse more than 5,000 characters."""
    shown = sum(end <= _LISTED_CHARACTERS for end in accumulate(len(name) + len(", ") for name in names))
    more = [f"… and {len(names) - shown} more"] if shown < len(names) else []
    return ", ".join([*names[:shown], *more])


def register_champion_again(champion: Champion, store: Store, registry: Registry, settings: Settings) -> None:
    """Register the live model, whose version somebody deleted, and set the alias.

    If its run is gone as well, it gets a new one. If its bundle is gone, the alias is removed, because it would name
    another model.
    """
    run_id = training_run(champion.bundle_sha256, store, registry)
    try:
        folder = fetch_bundle(store, registry, settings.folder, champion.bundle_sha256, run_id)
    except NotFound as error:
        registry.remove_champion()
        logger.warning("The champion, %s, cannot be registered again: %s", champion.name, error)
        return
    if run_id is None or not registry.has_run(run_id):
        with registry.run(f"{champion.name}, registered again", {}) as run_id:
            registry.log_bundle(run_id, folder, champion.bundle_sha256)
    tags = {"dataset_key": check_bundle(folder, champion.bundle_sha256).dataset_key, "collection": settings.collection}
    version = _register(registry, run_id, folder, champion.bundle_sha256, tags)
    registry.set_champion(version.version)
    logger.warning("The champion, %s, was deleted from the registry; it is version %s.", champion.name, version.version)


def _record(version: str, run_id: str, training: TrainingRecord, dataset: DatasetRecord) -> ModelRecord:
    return ModelRecord(
        version=version, run_id=run_id, bundle_sha256=training.bundle_sha256, collection=dataset.collection
    )


def git_commit() -> str:
    """The commit of the running code, or "unknown" outside a git checkout."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
