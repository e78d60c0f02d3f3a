"""Step 6: register the trained network as a version in MLflow's registry."""

import subprocess
from pathlib import Path

from prefect.artifacts import create_link_artifact

from infra.registry import Registry
from infra.settings import read_settings
from ml.data.splits import TEST
from serving.bundle.model import MODEL
from tasks.bundles import check_bundle, fetch_bundle
from tasks.records import DatasetRecord, EvaluationRecord, ModelRecord, TrainingRecord
from tasks.step import reused, step


@step("register")
def register(dataset: DatasetRecord, training: TrainingRecord, evaluation: EvaluationRecord) -> ModelRecord:
    """Register the chosen network with its scores, the dataset's hash and the code's commit.

    Raises:
        ServiceUnavailable: MLflow is not reachable (retryable).
        BundleError: the bundle does not match its hash.
    """
    settings = read_settings(dataset.collection)
    registry = Registry(settings)
    registered = registry.version_of(training.bundle_sha256)
    if registered is not None:
        record = _record(registered.version, registered.run_id, training, dataset)
        return reused(record, f"version {registered.version} has this bundle")
    folder = fetch_bundle(registry, settings.folder, training.run_id, training.bundle_sha256)
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
        "better_than_champion": str(evaluation.better).lower(),
    }
    version = registry.register(
        training.run_id, folder / MODEL, manifest.preprocessing.size, len(manifest.genres), tags
    )
    if settings.tracking_uri.startswith("http"):
        link = f"{settings.tracking_uri}/#/models/{settings.model_name}/versions/{version.version}"
        create_link_artifact(link, key="model-version", description=f"Version {version.version}")
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
