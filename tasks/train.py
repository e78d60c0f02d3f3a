"""Step 4: networks are trained and compared; the best one becomes a bundle, kept with its MLflow run."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from prefect.artifacts import create_markdown_artifact

from infra.errors import NotFound
from infra.files import sha256_of
from infra.registry import Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.configuration import TrainConfig
from ml.evaluation.predictions import collect_answers
from ml.export.bundle_writer import write_bundle
from ml.export.model_card import model_card
from ml.export.quantisation import served_best
from ml.networks.weights import read_weights
from ml.reporting import Reporters, TensorBoardReporter
from ml.training.learning import TRAINING_VERSION, checkpoints_of, train_networks
from ml.training.outcome import NetworkOutcome
from tasks.bundles import bundle_key, log_bundle, move_bundle
from tasks.preprocess import fetch_dataset
from tasks.records import DatasetRecord, NetworkRecord, TrainingRecord
from tasks.reporters import MlflowReporter, ProgressLog
from tasks.step import reused, step


@step("train")
def train(dataset: DatasetRecord, config: TrainConfig) -> TrainingRecord:
    """Search the networks' hyperparameters on the dataset and keep the best network as a bundle.

    Raises:
        WeightsError: the given weights cannot be read or do not fit the backbone.
        TrainingError: no trial could be trained.
        ServiceUnavailable: the store or MLflow does not answer (retryable).
    """
    settings = read_settings()
    store, workspace = Store(settings), settings.workspace
    config = replace(config, weights=_local_weights(config.weights, settings))
    weights = read_weights(config.weights, config.backbone, workspace / "weights")
    key = _training_key(dataset, config, weights.sha256 if weights else None)
    registry = Registry(settings)
    done = _done(store, key)
    if done is not None and registry.has_run(done.run_id):
        return reused(done, f"bundle {done.bundle_sha256[:12]} was trained on this dataset with these settings")

    data = fetch_dataset(store, workspace, dataset.dataset_key)
    parameters = {"dataset_key": dataset.dataset_key, "posters": dataset.posters, **asdict(config)}
    with registry.run("retrain", parameters) as run_id:
        started = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
        board = TensorBoardReporter(workspace / "tensorboard" / f"{started}_{run_id[:6]}")
        try:
            reporter = Reporters(ProgressLog(), board, MlflowReporter(registry, run_id))
            checkpoints = checkpoints_of(workspace, key, data, config, weights)
            outcome = train_networks(data, config, weights, reporter, checkpoints)
            outcome = served_best(outcome, data, workspace / "bundles", reporter)
        finally:
            board.close()
        beside = workspace / "bundles" / f"{run_id}.new"
        bundle = write_bundle(beside, outcome.chosen, config, data, model_card(outcome, data, dataset.snapshot_date))
        log_bundle(registry, run_id, beside)
        registry.log_file(run_id, store.fetch(dataset.report_key, workspace / dataset.report_key))
        registry.log_metrics(run_id, {f"validation/{k}": v for k, v in outcome.chosen.validation.scalars().items()})
    move_bundle(beside, workspace / bundle_key(bundle.sha256))
    answers = collect_answers(outcome, data).to_bytes()
    record = TrainingRecord(
        run_id=run_id,
        bundle_sha256=bundle.sha256,
        chosen=outcome.chosen.name,
        networks=[_network(network) for network in (*outcome.networks, *outcome.recipes)],
        answers_key=f"answers/{sha256_of(answers)}.npz",
        device=outcome.chosen.device,
        precision=outcome.chosen.precision,
    )
    store.write(record.answers_key, answers)
    store.write(_manifest_key(key), record.model_dump_json().encode())
    checkpoints.clear()
    create_markdown_artifact(_report(record), key="training")
    return record


def _local_weights(spec: str, settings: Settings) -> str:
    """The weights' setting with a gs:// address fetched to a file of this machine."""
    address = urlsplit(spec)
    if address.scheme != "gs":
        return spec
    key = address.path.lstrip("/")
    path = settings.workspace / "weights" / sha256_of(spec.encode())[:16] / Path(key).name
    store = Store(settings.model_copy(update={"bucket": address.netloc}))
    return str(store.fetch(key, path))


def _training_key(dataset: DatasetRecord, config: TrainConfig, weights_sha256: str | None) -> str:
    """The hash of everything that decides which network comes out; weights by content, not by address."""
    content = {
        "version": TRAINING_VERSION,
        "dataset": dataset.dataset_key,
        "config": {**asdict(config), "weights": weights_sha256},
    }
    return sha256_of(json.dumps(content, sort_keys=True).encode())


def _manifest_key(key: str) -> str:
    return f"trainings/{key}.json"


def _done(store: Store, key: str) -> TrainingRecord | None:
    """What an earlier run with the same data and settings left, if there was one."""
    try:
        return TrainingRecord.model_validate_json(store.read(_manifest_key(key)))
    except NotFound:
        return None


def _network(network: NetworkOutcome) -> NetworkRecord:
    return NetworkRecord(
        name=network.name,
        backbone=network.backbone,
        pretrained=network.weights_sha256 is not None,
        trained=network.trained,
        weighted_f1=network.validation.weighted_f1,
        mean_average_precision=network.validation.mean_average_precision,
        seconds=network.seconds,
        images_per_second=network.images_per_second,
    )


def _report(record: TrainingRecord) -> str:
    rows = "\n".join(
        f"| {n.name}{' (chosen)' if n.name == record.chosen else ''} | {n.backbone or ''} | {n.trained} | "
        f"{n.weighted_f1:.3f} | {n.mean_average_precision:.3f} | {n.seconds:.0f} |"
        for n in record.networks
    )
    return (
        f"Trained on {record.device}, {record.precision}.\n\n"
        "| network | backbone | trained | weighted F1 (validation) | mAP | seconds |\n"
        f"| --- | --- | --- | --- | --- | --- |\n{rows}"
    )
