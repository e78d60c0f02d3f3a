"""Step 6: register the trained network as a version in MLflow's registry."""

import subprocess
from pathlib import Path

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.data.splits import TEST
from serving.bundle.model import MODEL
from tasks.artifacts import show_link
from tasks.bundles import check_bundle, fetch_bundle
from tasks.champion import live_champion, version_name
from tasks.records import DatasetRecord, EvaluationRecord, ModelRecord, TrainingRecord
from tasks.step import reused, step

BETTER_THAN_CHAMPION = "better_than_champion"
"""Tag of a version: whether it passed the gate, at its registration or later at its promotion."""


@step("register")
def register(dataset: DatasetRecord, training: TrainingRecord, evaluation: EvaluationRecord) -> ModelRecord:
    """Register the chosen network with its scores, the dataset's hash and the code's commit.

    Raises:
        ServiceUnavailable: MLflow is not reachable (retryable).
        NotFound: the bundle has no intact copy.
    """
    settings = read_settings(dataset.collection)
    registry = Registry(settings)
    registered = registry.version_of(training.bundle_sha256)
    if registered is not None:
        live_champion(settings, registry)
        record = _record(registered.version, registered.run_id, training, dataset)
        return reused(record, f"{version_name(record.version, record.bundle_sha256)} has this bundle")
    folder = fetch_bundle(Store(settings), registry, settings.folder, training.bundle_sha256, training.run_id)
    manifest = check_bundle(folder, training.bundle_sha256)
    scores = evaluation.scores[0].model_dump(exclude={"name"})
    tags = {
        "bundle_sha256": training.bundle_sha256,
        "dataset_key": dataset.dataset_key,
        "dataset_date": dataset.snapshot_date,
        "git_commit": git_commit(),
        "network": training.chosen,
        "collection": dataset.collection,
        **{f"{TEST}/{metric}": f"{value:.4f}" for metric, value in scores.items()},
        BETTER_THAN_CHAMPION: str(evaluation.passed_gate).lower(),
    }
    version = registry.register(
        training.run_id, folder / MODEL, manifest.preprocessing.size, len(manifest.genres), tags
    )
    live_champion(settings, registry)  # the alias goes to this version if it is live and was deleted
    name = version_name(version.version, training.bundle_sha256)
    if settings.tracking_uri.startswith("http"):
        link = f"{settings.tracking_uri}/#/models/{settings.model_name}/versions/{version.version}"
        show_link("model-version", link, name[:1].upper() + name[1:])
    return _record(version.version, training.run_id, training, dataset)


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
