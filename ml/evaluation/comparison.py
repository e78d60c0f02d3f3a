"""Compares the candidate networks with the recipe on all posters, by five-fold cross-validation over franchises.

Each fold is predicted by networks that were trained without it, the way `train` trains. The pooled folds of all posters
show small gains that a single test part of a thousand posters cannot distinguish from chance.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
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
from ml.training.learning import train_networks
from ml.training.outcome import NetworkOutcome
from serving.bundle.wording import counted

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
            "every_genre": self.every_genre.as_dict(),
            "below_every_genre": self.below_every_genre,
        }

    def summary(self) -> str:
        """The main figures as tables for a terminal."""
        head = f"{'':22} {'weighted F1':>24} {'at 0.5':>7} {'common':>7} {'mAP':>24} {'ECE':>6}"
        lines = [
            f"{counted(self.posters, 'poster')}, each predicted by networks that were trained without its franchise",
            head,
        ]
        for name, network in self.networks.items():
            f1, precision = network.intervals.weighted_f1, network.intervals.mean_average_precision
            lines.append(
                f"{name:22} {_text(f1):>24} {network.by_threshold.at_half:7.3f} "
                f"{network.by_threshold.at_common:7.3f} {_text(precision):>24} {network.calibration_error:6.3f}"
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


def compare(dataset: Dataset, config: TrainConfig, backbone: Backbone, reporter: Reporter) -> Comparison:
    """Train without each of five folds in turn, with the next fold as the validation part, and pool the predictions.

    Raises DatasetError if there are fewer than five franchises.
    """
    fold_of = stratified_folds(dataset.franchises, dataset.labels)
    if fold_of.max() + 1 < FOLDS:
        raise DatasetError(f"The comparison needs posters of at least {FOLDS} franchises. Add posters of more titles.")
    pooled: dict[str, _Pooled] = {CHOSEN: _Pooled(dataset)}
    for fold in range(FOLDS):
        parts = np.full(len(fold_of), TRAIN, dtype="<U10")
        parts[fold_of == (fold + 1) % FOLDS] = VALIDATION
        parts[fold_of == fold] = TEST
        view = replace(dataset, parts=parts)
        with reporter.run(f"fold-{fold + 1}", {"fold": fold + 1}) as fold_reporter:
            outcome = train_networks(view, config, backbone, fold_reporter, half_recipe=True)
        rows = view.rows(TEST)
        pooled[CHOSEN].add(rows, outcome.chosen)
        for network in (*outcome.networks, *outcome.recipes):
            pooled.setdefault(network.name, _Pooled(dataset)).add(rows, network)
        del outcome  # frees the posters that its networks keep on a GPU
    rows = np.arange(len(dataset.ids))
    networks = {name: model_figures(each.predictions(name), dataset, rows) for name, each in pooled.items()}
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


class _Pooled:
    """Collects one network's predictions for each poster from the fold in which the poster was tested."""

    def __init__(self, dataset: Dataset) -> None:
        shape = dataset.labels.shape
        self._probabilities = np.zeros(shape, np.float32)
        self._thresholds, self._common = np.zeros(shape), np.zeros((shape[0], 1))

    def add(self, rows: NDArray[np.int64], network: NetworkOutcome) -> None:
        self._probabilities[rows] = network.predict(rows)
        self._thresholds[rows], self._common[rows] = network.thresholds, network.common_threshold

    def predictions(self, name: str) -> NetworkPredictions:
        return NetworkPredictions(name, self._probabilities, self._thresholds, self._common)
