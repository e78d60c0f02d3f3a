"""Compares the candidate networks with the recipe on all posters, by five-fold cross-validation over franchises.

Each fold is predicted by networks that were trained without it, the way `train` trains. The pooled folds of all posters
show small gains that a single test part of a thousand posters cannot distinguish from chance.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.errors import DatasetError
from ml.evaluation.baselines import EVERY_GENRE, every_genre
from ml.evaluation.judge import ModelFigures, model_figures, paired_differences
from ml.evaluation.predictions import NetworkPredictions
from ml.networks.backbones import Backbone
from ml.reporting import Reporter
from ml.scores.folds import FOLDS, stratified_folds
from ml.scores.intervals import Differences, Interval
from ml.scores.metrics import Scores
from ml.training.checkpoints import CHECKPOINTS, Checkpoints
from ml.training.learning import TRAINING_VERSION, choose_candidate, plan_trainings, training_settings
from ml.training.outcome import NetworkOutcome
from serving.bundle.files import sha256_of
from serving.bundle.wording import counted

logger = logging.getLogger(__name__)

CHOSEN = "chosen"


@dataclass(frozen=True)
class Comparison:
    """Out-of-fold figures of all networks on all posters, and the chosen network minus each other one, paired.

    The "chosen" network is the one that was chosen in each fold. `below_every_genre` lists the genres whose F1 is not
    above that of predicting the genre for every poster.
    """

    networks: Mapping[str, ModelFigures]
    differences: Mapping[str, Differences]
    every_genre: Scores
    below_every_genre: tuple[str, ...]
    posters: int

    def as_dict(self) -> dict[str, object]:
        """All figures as JSON values."""
        return {
            "posters": self.posters,
            "networks": {name: network.as_dict() for name, network in self.networks.items()},
            "differences": {name: asdict(each) for name, each in self.differences.items()},
            "every_genre": asdict(self.every_genre),
            "below_every_genre": self.below_every_genre,
        }

    def summary(self) -> str:
        """The main figures as tables for a terminal."""
        head = f"{'':22} {'weighted F1':>24} {'at 0.5':>7} {'common':>7} {'mAP':>24} {'ECE':>6} {'Brier skill':>11}"
        lines = [
            f"{counted(self.posters, 'poster')}, each predicted by networks that were trained without its franchise",
            head,
        ]
        for name, network in self.networks.items():
            f1, precision = network.intervals.weighted_f1, network.intervals.mean_average_precision
            lines.append(
                f"{name:22} {_text(f1):>24} {network.by_threshold.at_half:7.3f} "
                f"{network.by_threshold.at_common:7.3f} {_text(precision):>24} {network.calibration_error:6.3f} "
                f"{network.brier_skill:11.3f}"
            )
        every = self.every_genre
        lines.append(f"{EVERY_GENRE:22} {every.weighted_f1:24.3f} {'':7} {'':7} {every.mean_average_precision:24.3f}")
        lines += ["", f"{CHOSEN + ' minus':22} {'weighted F1':>24} {'':7} {'':7} {'mAP':>24}"]
        for name, each in self.differences.items():
            gains = _text(each.weighted_f1, "+"), _text(each.mean_average_precision, "+")
            lines.append(f"{name:22} {gains[0]:>24} {'':15} {gains[1]:>24}")
        below = ", ".join(self.below_every_genre) or "none"
        return "\n".join([*lines, "", f"Genres whose F1 is not above predicting them for every poster: {below}."])


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def compare(
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> Comparison:
    """Train without each of five folds in turn, with the next fold as the validation part, and pool the predictions.

    `checkpoints` let a killed comparison resume (see `comparison_checkpoints`). The caller clears them after it has
    stored the result.

    Raises DatasetError if there are fewer than five franchises.
    """
    fold_of = stratified_folds(dataset.franchises, dataset.labels)
    if fold_of.max() + 1 < FOLDS:
        raise DatasetError(f"The comparison needs posters of at least {FOLDS} franchises. Add posters of more titles.")
    pooled: dict[str, _Pooled] = {CHOSEN: _Pooled(dataset)}
    base_rates = np.zeros(dataset.labels.shape)
    for fold in range(FOLDS):
        parts = np.full(len(fold_of), TRAIN, dtype="<U10")
        parts[fold_of == (fold + 1) % FOLDS] = VALIDATION
        parts[fold_of == fold] = TEST
        view = replace(dataset, parts=parts)
        rows, name = view.rows(TEST), f"fold-{fold + 1}"
        base_rates[rows] = view.labels[view.rows(TRAIN)].mean(0)
        with reporter.run(name, {"fold": fold + 1}) as fold_reporter:
            results = _train_fold(name, view, config, backbone, fold_reporter, checkpoints)
        for network, result in results.items():
            pooled.setdefault(network, _Pooled(dataset)).add(rows, result)
    rows = np.arange(len(dataset.ids))
    networks = {name: model_figures(each.predictions(name), dataset, rows, base_rates) for name, each in pooled.items()}
    every = every_genre(dataset.labels, dataset.genre_names)
    return Comparison(
        networks=networks,
        differences=paired_differences(tuple(networks.values()), dataset, rows),
        every_genre=every,
        below_every_genre=tuple(
            genre.genre
            for genre, baseline in zip(networks[CHOSEN].scores.genres, every.genres, strict=True)
            if genre.f1 <= baseline.f1
        ),
        posters=len(rows),
    )


def comparison_checkpoints(workspace: Path, dataset: Dataset, config: TrainConfig, backbone: Backbone) -> Checkpoints:
    """The workspace's checkpoints of the comparison on this data with these settings."""
    content = {
        **training_settings(config, backbone),
        "dataset": dataset.key,
        "franchises": dataset.franchises_sha256,
        "version": TRAINING_VERSION,
    }
    name = sha256_of(json.dumps(content, sort_keys=True).encode())[:16]
    return Checkpoints(workspace / CHECKPOINTS / f"compare-{name}", content)


@dataclass(frozen=True)
class _Result:
    """What is kept of a network that was trained for a fold; checkpoints store the fields by name.

    Probabilities of the validation part [V, G] and of the tested fold [T, G], thresholds [G] and the common threshold
    [1]. `cost` is the number of weights that gradient steps train.
    """

    cost: int
    validation: torch.Tensor
    tested: torch.Tensor
    thresholds: torch.Tensor
    common_threshold: torch.Tensor

    @classmethod
    def of(cls, network: NetworkOutcome, rows: NDArray[np.int64]) -> "_Result":
        return cls(
            network.gradient_weights,
            torch.from_numpy(network.validation_probabilities),
            torch.from_numpy(network.predict(rows)),
            torch.from_numpy(network.thresholds),
            torch.tensor([network.common_threshold], dtype=torch.float64),
        )


def _train_fold(
    name: str,
    view: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> dict[str, _Result]:
    """The results of one fold by network, those of the chosen one first. Networks with a checkpoint are not trained."""
    trials = checkpoints.within(name)
    trainings = plan_trainings(view, config, backbone, reporter, trials, half_recipe=True)
    rows = view.rows(TEST)
    results = {}
    for network, train in {**trainings.candidates, **trainings.recipes}.items():
        slot = checkpoints.slot(f"{name}-{network}")
        if saved := slot.load():
            logger.info("The results of '%s' in %s are restored from a checkpoint.", network, name)
            results[network] = _Result(**saved)
        else:
            results[network] = _Result.of(train(), rows)
            slot.save(vars(results[network]))
        trials.clear()  # its trials are not needed any more, and take much space
    choice = choose_candidate(
        trainings.bench, {each: (results[each].cost, results[each].validation.numpy()) for each in trainings.candidates}
    )
    return {CHOSEN: results[choice.name], **results}


class _Pooled:
    """Collects one network's predictions for each poster from the fold in which the poster was tested."""

    def __init__(self, dataset: Dataset) -> None:
        shape = dataset.labels.shape
        self._probabilities = np.zeros(shape, np.float32)
        self._thresholds, self._common = np.zeros(shape), np.zeros((shape[0], 1))

    def add(self, rows: NDArray[np.int64], result: _Result) -> None:
        self._probabilities[rows] = result.tested.numpy()
        self._thresholds[rows], self._common[rows] = result.thresholds.numpy(), result.common_threshold.numpy()

    def predictions(self, name: str) -> NetworkPredictions:
        return NetworkPredictions(name, self._probabilities, self._thresholds, self._common)
