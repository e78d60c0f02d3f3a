"""Both networks, each with a small search over its hyperparameters; validation chooses between them."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.candidates import Candidate, Space, scratch, transfer
from ml.compute import Compute, choose_compute, one_thread
from ml.configuration import TrainConfig
from ml.dataset import Dataset
from ml.errors import TrainingError, needs_package
from ml.features import extract_features
from ml.metrics import Scores, score
from ml.networks import GenreNetwork, feature_count, head
from ml.reporting import Reporter
from ml.splits import TRAIN, VALIDATION
from ml.thresholds import cross_fitted_decisions, fit_thresholds, folds_by_franchise
from ml.training import Fit, Hyperparameters, Schedule, TrainingData, fit, predict_probabilities
from ml.weights import Weights

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_SAMPLES = 16


@dataclass(frozen=True)
class Trial:
    """One setting of a network's hyperparameters, and what came of it."""

    hyperparameters: Hyperparameters
    fit: Fit
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The trial without its weights, ready for JSON."""
        return {
            **asdict(self.hyperparameters),
            "validation_weighted_f1": self.fit.validation_weighted_f1,
            "best_epoch": self.fit.best_epoch,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class NetworkOutcome:
    """A network at its best hyperparameters, on the CPU.

    `trained` says whether all of it was trained or the head alone. `validation` are scores on the validation
    part with cross-fitted thresholds; `thresholds`, float [G], are fitted on all of it. `images_per_second`
    are posters in training, and for a frozen backbone posters through it.
    """

    name: str
    backbone: str | None
    weights_sha256: str | None
    trained: Literal["whole", "head"]
    best: Trial
    trials: tuple[Trial, ...]
    validation: Scores
    thresholds: NDArray[np.float64]
    network: GenreNetwork
    device: str
    precision: str
    seconds: float
    images_per_second: float

    def as_dict(self) -> dict[str, object]:
        """What is known about the network, ready for JSON."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "weights_sha256": self.weights_sha256,
            "trained": self.trained,
            "best": self.best.as_dict(),
            "trials": [trial.as_dict() for trial in self.trials],
            "validation": self.validation.as_dict(),
            "device": self.device,
            "precision": self.precision,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(frozen=True)
class TrainingOutcome:
    """All networks that were trained, and the one with the best weighted F1 on the validation part."""

    networks: tuple[NetworkOutcome, ...]
    chosen: NetworkOutcome


def train_networks(
    dataset: Dataset, config: TrainConfig, weights: Weights | None, reporter: Reporter
) -> TrainingOutcome:
    """Train the network from scratch and the one that transfers, and choose between them.

    `weights` are the backbone's; without them its network is trained whole. Raises SettingError, WeightsError and
    TrainingError.
    """
    compute = choose_compute(config.device)
    samples = dataset.rows(TRAIN)[:_SAMPLES]
    reporter.images("posters", dataset.images[samples], [dataset.titles[row] for row in samples])
    # Seeds are set on the way; the caller's random state is to be as it was.
    with torch.random.fork_rng(devices=[compute.device] if compute.device.type == "cuda" else []):
        candidates = (scratch(dataset.preprocessing.size), transfer(config.backbone, weights))
        outcomes = tuple(_search(candidate, dataset, config, compute, reporter) for candidate in candidates)
    chosen = max(outcomes, key=lambda outcome: outcome.validation.weighted_f1)
    logger.info("Chosen on the validation part: the network '%s'.", chosen.name)
    return TrainingOutcome(outcomes, chosen)


@dataclass(frozen=True)
class _Bench:
    """What all trials of a candidate share."""

    candidate: Candidate
    dataset: Dataset
    config: TrainConfig
    compute: Compute
    data: TrainingData
    features: int

    def network(self, hyperparameters: Hyperparameters) -> GenreNetwork:
        """A network to train, on the device; its random weights follow from the seed."""
        torch.manual_seed(self.config.seed)
        frequencies = self.dataset.labels[self.data.training].mean(0)
        network = GenreNetwork(
            self.candidate.body(),
            head(self.features, frequencies, hyperparameters.hidden, hyperparameters.dropout),
            self.dataset.preprocessing,
            frozen=self.candidate.trained == "head",
        )
        return network.to(self.compute.device).to(memory_format=torch.channels_last)

    def fit(self, hyperparameters: Hyperparameters, reporter: Reporter, on_epoch: Callable[[int], None]) -> Fit:
        """Train with these hyperparameters; TrainingError where the loss is no number."""
        whole = self.candidate.trained == "whole"
        schedule = Schedule(self.config.epochs, self.config.batch_size, self.config.seed, flip=whole)
        model = self.trained(self.network(hyperparameters))
        if whole:
            return fit(model, self.data, hyperparameters, schedule, self.compute, reporter, on_epoch)
        # A head is so small that neither bfloat16 nor a second thread would save anything.
        precise = replace(self.compute, bf16=False)
        with one_thread():
            return fit(model, self.data, hyperparameters, schedule, precise, reporter, on_epoch)

    def fitted(self, trial: Trial) -> GenreNetwork:
        """The network of a trial at its best epoch."""
        network = self.network(trial.hyperparameters)
        self.trained(network).load_state_dict(trial.fit.state)
        return network

    def trained(self, network: GenreNetwork) -> nn.Module:
        """What is trained of a network."""
        return network if self.candidate.trained == "whole" else network.head


def _search(
    candidate: Candidate, dataset: Dataset, config: TrainConfig, compute: Compute, reporter: Reporter
) -> NetworkOutcome:
    """Try settings of a network's hyperparameters, and keep the best on the validation part."""
    start = time.perf_counter()
    about = {
        "network": candidate.name,
        "weights_sha256": candidate.weights_sha256,
        "trained": candidate.trained,
        "compute": f"{compute.device} {compute.precision}",
    }
    with reporter.run(candidate.name, {**asdict(config), **about}) as own:
        bench, extracted_per_second = _bench(candidate, dataset, config, compute, own)
        trials = _trials(bench, own)
        best = max(trials, key=lambda trial: trial.fit.validation_weighted_f1)
        network = bench.fitted(best)
        # In float32 and from the pixels on, as the exported network is going to answer.
        validation = bench.data.validation
        images = torch.from_numpy(dataset.images[validation]).to(compute.device)
        every = np.arange(len(validation))
        probabilities = predict_probabilities(network, images, every, replace(compute, bf16=False))
        labels = dataset.labels[validation]
        decisions = cross_fitted_decisions(probabilities, labels, bench.data.folds)
        scores = score(probabilities, decisions, labels, dataset.genre_names)
        own.scalars(scores.scalars(), config.epochs)
        own.scalars({f"genre_f1/{genre.genre}": genre.f1 for genre in scores.genres}, config.epochs)
    seconds = time.perf_counter() - start
    logger.info("%s: weighted F1 %.3f on validation, %.0f s", candidate.name, scores.weighted_f1, seconds)
    return NetworkOutcome(
        name=candidate.name,
        backbone=candidate.backbone,
        weights_sha256=candidate.weights_sha256,
        trained=candidate.trained,
        best=best,
        trials=trials,
        validation=scores,
        thresholds=fit_thresholds(probabilities, labels),
        network=network.cpu().eval(),
        device=str(compute.device),
        precision=compute.precision,
        seconds=seconds,
        images_per_second=extracted_per_second or best.fit.images_per_second,
    )


def _bench(
    candidate: Candidate, dataset: Dataset, config: TrainConfig, compute: Compute, reporter: Reporter
) -> tuple[_Bench, float | None]:
    """What all trials share, and for a frozen backbone the posters a second that went through it."""
    training, validation = dataset.rows(TRAIN), dataset.rows(VALIDATION)
    images = torch.from_numpy(dataset.images)
    body = candidate.body()
    features = feature_count(body, dataset.preprocessing.size, candidate.backbone or candidate.name)
    labels = torch.from_numpy(dataset.labels).float().to(compute.device)
    folds = folds_by_franchise(dataset.franchises[validation])
    data = TrainingData(images, labels, training, validation, folds)
    bench = _Bench(candidate, dataset, config, compute, data, features)
    if candidate.trained == "whole":
        return replace(bench, data=replace(data, inputs=images.to(compute.device))), None
    network = bench.network(candidate.space.first)
    inputs, per_second = extract_features(network, images, compute, reporter)
    return replace(bench, data=replace(data, inputs=inputs)), per_second


def _trials(bench: _Bench, reporter: Reporter) -> tuple[Trial, ...]:
    """Train with one setting after the other; TrainingError where none could be trained."""
    with needs_package("The search over hyperparameters"):
        import optuna
    # A trial that diverged is told by this module; Optuna would add its traceback.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, name = bench.config, bench.candidate.name
    trials: list[Trial] = []
    failures: list[TrainingError] = []

    def objective(trial: optuna.Trial) -> float:
        start = time.perf_counter()
        hyperparameters = _suggest(trial, bench.candidate.space)

        def on_epoch(epoch: int) -> None:
            done, total = trial.number * config.epochs + epoch, config.trials * config.epochs
            reporter.progress(done, total, f"training {name}")

        with reporter.run(f"trial-{trial.number + 1}", asdict(hyperparameters)) as own:
            try:
                result = bench.fit(hyperparameters, own, on_epoch)
            except TrainingError as error:
                logger.warning("%s, trial %d: %s", name, trial.number + 1, error)
                failures.append(error)
                raise
        trials.append(Trial(hyperparameters, result, time.perf_counter() - start))
        return result.validation_weighted_f1

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.seed))
    study.enqueue_trial(asdict(bench.candidate.space.first))
    study.optimize(objective, n_trials=config.trials, catch=TrainingError)
    if not trials:
        raise failures[0]
    return tuple(trials)


def _suggest(trial: "optuna.Trial", space: Space) -> Hyperparameters:
    return Hyperparameters(
        learning_rate=trial.suggest_float("learning_rate", *space.learning_rate, log=True),
        weight_decay=trial.suggest_float("weight_decay", *space.weight_decay, log=True),
        dropout=trial.suggest_float("dropout", *space.dropout),
        hidden=trial.suggest_categorical("hidden", space.hidden),
    )
