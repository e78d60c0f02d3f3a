"""Step 4: train and compare the networks. The best one becomes a bundle that is kept with its MLflow run."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from infra.errors import NotFound
from infra.files import move_folder, remove_temporary_files, write_bytes
from infra.registry import DATASET_KEY, Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.configuration import LOCAL_FOLDER, TrainConfig, stored_settings
from ml.data.splits import VALIDATION
from ml.networks.backbones import Backbone, read_backbone
from ml.reporting import Reporter, Reporters, TensorBoardReporter
from ml.training.checkpoints import CHECKPOINTS, remove_old_checkpoints
from ml.training.learning import TRAINING_VERSION, checkpoints_of, training_settings
from ml.training.outcome import NetworkOutcome, weights_record
from ml.training_run import TrainingRun, run_training
from serving.bundle.files import sha256_of, temporary_path
from serving.bundle.wording import counted
from tasks.artifacts import markdown_table, show_text
from tasks.bundles import bundle_key, fetch_bundle, fetch_predictions
from tasks.checkpoint_copies import CheckpointCopies
from tasks.features import StoredFeatures
from tasks.preprocess import fetch_dataset
from tasks.records import DatasetRecord, NetworkRecord, TrainingRecord
from tasks.reporters import MlflowReporter, ProgressLog
from tasks.step import reused, step

logger = logging.getLogger("tasks")


@dataclass(frozen=True)
class Training:
    """A training by everything that determines it. `key` is the hash of that; `config` has files on this machine."""

    settings: Settings
    store: Store
    registry: Registry
    config: TrainConfig
    backbone: Backbone
    key: str

    @classmethod
    def of(cls, dataset: DatasetRecord, config: TrainConfig) -> Self:
        """Read the weights, and find the key. Raises as `train`."""
        settings = read_settings(dataset.collection)
        config = replace(
            config,
            weights=_local_weights(config.weights, settings),
            backbone=_local_backbone(config.backbone, settings),
        )
        backbone = read_backbone(config.backbone, config.weights, settings.workspace / "weights")
        key = _training_key(dataset, config, backbone)
        return cls(settings, Store(settings), Registry(settings), config, backbone, key)

    @property
    def folder(self) -> Path:
        """The collection's folder in the workspace."""
        return self.settings.folder

    def stored(self) -> TrainingRecord | None:
        """The record of this training; None if it is not complete, or its bundle or predictions are gone."""
        stored = self.store.read_parsed(_manifest_key(self.key), TrainingRecord.model_validate_json)
        return stored if stored and _is_intact(stored, self.store, self.registry, self.folder) else None


@step("train")
def train(dataset: DatasetRecord, config: TrainConfig, copies_checkpoints: bool = False) -> TrainingRecord:
    """Search the networks' hyperparameters on the dataset and keep the best network as a bundle.

    With `copies_checkpoints`, checkpoints are copied into the bucket, so that another machine can resume the training.

    Raises:
        WeightsError: the given weights cannot be read or do not fit the backbone.
        TrainingError: every trial failed.
        ServiceUnavailable: the store or MLflow is not reachable (retryable).
    """
    training = Training.of(dataset, config)
    settings, store, registry, folder = training.settings, training.store, training.registry, training.folder
    config, backbone, key = training.config, training.backbone, training.key
    remove_old_checkpoints(folder / CHECKPOINTS)
    # Those of killed trainings: on a train-worker, another process may be training beside this one.
    remove_temporary_files(folder / "bundles")
    if stored := training.stored():
        return reused_training(stored)

    data = fetch_dataset(store, folder, dataset.dataset_key)
    backbone.check_size(data.preprocessing.size)
    copies = CheckpointCopies(store, folder, key)
    copies.fetch()
    saved = copies.save if copies_checkpoints else lambda file: None
    checkpoints = checkpoints_of(folder, key, data, config, backbone, saved)
    parameters = {
        DATASET_KEY: dataset.dataset_key,
        "posters": dataset.posters,
        "collection": dataset.collection,
        "image_size": data.preprocessing.size,
        **stored_settings(config),
        **weights_record(backbone.weights.file if backbone.weights else None),
    }
    name = f"{dataset.collection} {dataset.snapshot_date}, {counted(dataset.posters, 'poster')}, {backbone.name}"
    flow_run_id = str(flow_run.id) if flow_run.id else None
    with (
        registry.run(name, parameters, description=_description(dataset), flow_run=flow_run_id) as run_id,
        ExitStack() as ended,
    ):
        bundle_folder = temporary_path(folder / "bundles" / run_id)
        ended.callback(shutil.rmtree, bundle_folder, ignore_errors=True)
        with _reporter(registry, run_id, settings.workspace) as reporter:
            run = run_training(
                data,
                config,
                backbone,
                reporter,
                checkpoints,
                bundle_folder=bundle_folder,
                temporary_folder=bundle_folder,  # its name has the process, so it is removed after a kill
                date=dataset.snapshot_date,
                exchange=StoredFeatures(store, settings),
            )
            logger.info("Storing the bundle in MLflow.")
            registry.log_bundle(run_id, bundle_folder, run.bundle.sha256)
            registry.log_file(run_id, store.fetch(dataset.report_key, folder / dataset.report_key))
        move_folder(bundle_folder, folder / bundle_key(run.bundle.sha256))
    record = _store(store, registry, folder, key, run_id, run)
    checkpoints.clear()
    copies.clear()
    show_networks(record)
    return record


def reused_training(stored: TrainingRecord) -> TrainingRecord:
    """The state "Reused" of the step, with its artifact."""
    show_networks(stored)
    return reused(stored, f"bundle {stored.bundle_sha256[:12]} was trained on this dataset with these settings")


def _description(dataset: DatasetRecord) -> str:
    """What the MLflow run says about itself, with a link to the Prefect run that it belongs to."""
    genres = f"{counted(len(dataset.genres), 'genre')} of {dataset.collection}, read on {dataset.snapshot_date}"
    address = url_for("flow-run", flow_run.id) if flow_run.id else None
    prefect_run = f" [Run in Prefect]({address})" if address else ""
    return f"Networks for {genres}, with one nested run per network. `model.html` is the report.{prefect_run}"


@contextmanager
def _reporter(registry: Registry, run_id: str, workspace: Path) -> Iterator[Reporter]:
    """Reports to the log, to the MLflow run and to TensorBoard files in the workspace."""
    started = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
    with (
        closing(TensorBoardReporter(workspace / "tensorboard" / f"{started}_{run_id[:6]}")) as tensorboard,
        closing(MlflowReporter(registry, run_id)) as mlflow,
    ):
        yield Reporters(ProgressLog(workspace), tensorboard, mlflow)


def _local_weights(spec: str, settings: Settings) -> str:
    """The weights setting. The file at a gs:// address is downloaded, and its local path returned."""
    address = urlsplit(spec)
    if address.scheme != "gs":
        return spec
    key = address.path.lstrip("/")
    path = settings.workspace / "weights" / sha256_of(spec.encode())[:16] / Path(key).name
    store = Store(settings).of_bucket(address.netloc)
    return str(store.fetch(key, path))


def _local_backbone(name: str, settings: Settings) -> str:
    """The backbone setting. The files of a folder at a gs:// address are downloaded, and their local folder named."""
    address = urlsplit(name.removeprefix(LOCAL_FOLDER))
    if address.scheme != "gs":
        return name
    prefix = address.path.lstrip("/")
    folder = settings.workspace / prefix
    store = Store(settings).of_bucket(address.netloc)
    for key in store.keys(f"{prefix}/"):
        store.fetch(key, folder / Path(key).name)
    return f"{LOCAL_FOLDER}{folder}"


def _training_key(dataset: DatasetRecord, config: TrainConfig, backbone: Backbone) -> str:
    """The hash of everything that determines the result."""
    content = {
        "version": TRAINING_VERSION,
        "dataset": dataset.dataset_key,
        "config": training_settings(config, backbone),
    }
    return sha256_of(json.dumps(content, sort_keys=True).encode())


def _manifest_key(key: str) -> str:
    return f"trainings/{key}.json"


def _is_intact(stored: TrainingRecord, store: Store, registry: Registry, folder: Path) -> bool:
    """Whether the run, the bundle and the predictions of an earlier training still exist."""
    try:
        if not registry.has_run(stored.run_id):
            raise NotFound(f"MLflow has no run {stored.run_id}.")
        fetch_bundle(store, registry, folder, stored.bundle_sha256, stored.run_id)
        fetch_predictions(store, registry, folder, stored.run_id, stored.predictions_key)
    except NotFound as error:
        logger.warning("An earlier training with these settings is repeated: %s", error)
        return False
    return True


def _store(store: Store, registry: Registry, folder: Path, key: str, run_id: str, run: TrainingRun) -> TrainingRecord:
    """Store the predictions, then the record: its presence means that the training is complete."""
    outcome, predictions = run.outcome, run.predictions.to_bytes()
    record = TrainingRecord(
        run_id=run_id,
        bundle_sha256=run.bundle.sha256,
        chosen=outcome.chosen.name,
        networks=[_network_record(network) for network in (*outcome.networks, *outcome.recipes)],
        predictions_key=f"answers/{sha256_of(predictions)}.npz",
        device=outcome.chosen.device,
        precision=outcome.chosen.precision,
        reason=outcome.reason,
    )
    write_bytes(folder / record.predictions_key, predictions)
    registry.log_file(run_id, folder / record.predictions_key)
    store.write(record.predictions_key, predictions)
    store.write(_manifest_key(key), record.model_dump_json().encode())
    return record


def _network_record(network: NetworkOutcome) -> NetworkRecord:
    return NetworkRecord(
        name=network.name,
        backbone=network.backbone,
        pretrained=network.weights is not None,
        trained=network.trained,
        weighted_f1=network.validation.weighted_f1,
        mean_average_precision=network.validation.mean_average_precision,
        seconds=network.seconds,
        images_per_second=network.images_per_second,
    )


def show_networks(record: TrainingRecord) -> None:
    """The artifact with the networks, in every run, also where the training is reused."""
    metrics = (f"{VALIDATION}/weighted_f1", f"{VALIDATION}/mean_average_precision")
    table = markdown_table(
        ["network", "backbone", "trained", *metrics, "seconds"],
        [
            [
                f"{n.name} (chosen)" if n.name == record.chosen else n.name,
                n.backbone or "",
                str(n.trained),
                f"{n.weighted_f1:.3f}",
                f"{n.mean_average_precision:.3f}",
                f"{n.seconds:.0f}",
            ]
            for n in record.networks
        ],
    )
    text = f"Trained on {record.device} in {record.precision}. {record.reason}\n\n{table}"
    show_text("training", text, "The networks, with their figures on the validation part")
