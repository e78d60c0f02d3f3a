"""A pretrained backbone that stays as it is, with a kernel head on its cached features.

Heads cost so little that each setting is tried out of fold: every poster of train and validation is judged by a head
that has not seen its franchise. The search, the logistic curves and the thresholds rest on all of these, and the head
that is kept is fitted on all of them.
"""

import logging
import time
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from ml.data.feature_table import FeatureTable
from ml.errors import TrainingError
from ml.networks.backbones import GenreNetwork
from ml.networks.kernel import (
    KernelHead,
    KernelRidge,
    KernelSetting,
    LogisticCurves,
    Space,
    fit_curves,
    fit_kernel_head,
    space,
)
from ml.reporting import Reporter
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, weighted_f1
from ml.scores.thresholds import common_threshold, cross_fitted_decisions, fit_thresholds
from ml.training.bench import Bench
from ml.training.candidates import FROZEN, KERNEL_FIRST, KERNEL_SPACE
from ml.training.features import Features
from ml.training.outcome import NetworkOutcome
from ml.training.search import Step, best_of, search

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Fold:
    """The posters of one fold, seen from the space of all others; `inside` and `outside` are places among all."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]
    where: Space
    points: torch.Tensor


class FrozenSearch:
    """Kernel heads on features of some posters, tried out of fold."""

    def __init__(self, features: FeatureTable, labels: Labels, franchises: NDArray[np.str_], seed: int) -> None:
        """`features` [n, F], `labels` uint8 [n, G] and `franchises` [n] of the same posters. Raises TrainingError
        for features that are no numbers."""
        self._features, self._truth, self._seed = features, labels, seed
        self._labels = torch.from_numpy(labels).float().to(features.device)
        self.fold_of = stratified_folds(franchises, labels)
        if len(np.unique(self.fold_of)) < 2:
            raise TrainingError("All posters to learn from are of one franchise: out of fold there is none to try on.")
        self._folds = [self._fold(number) for number in np.unique(self.fold_of)]

    def _fold(self, number: int) -> _Fold:
        inside, outside = np.flatnonzero(self.fold_of == number), np.flatnonzero(self.fold_of != number)
        where = space(self._features.only(outside), self._seed)
        return _Fold(inside, outside, where, where.project(self._features.only(inside)))

    def estimates(self, setting: KernelSetting, on_fold: Step = lambda fold, score: None) -> NDArray[np.float64]:
        """Estimates out of fold, float64 [n, G]; `on_fold` is told the folds that are done and the score so far."""
        estimates = np.zeros(self._truth.shape)
        for number, fold in enumerate(self._folds, 1):
            ridge = KernelRidge(fold.where, self._labels[_index(fold.outside, self._labels)], setting.width, self._seed)
            estimates[fold.inside] = ridge.estimate(fold.points, setting.ridge)
            judged = np.concatenate([done.inside for done in self._folds[:number]])
            if number < len(self._folds):
                on_fold(number, self._score(estimates[judged], judged))
        return estimates

    def score(self, estimates: NDArray[np.float64]) -> float:
        """Weighted F1 of estimates out of fold, thresholds cross-fitted over the same folds."""
        return self._score(estimates, np.arange(len(estimates)))

    def _score(self, estimates: NDArray[np.float64], judged: NDArray[np.int64]) -> float:
        labels = self._truth[judged]
        probabilities = fit_curves(estimates, labels).probabilities(estimates)
        return weighted_f1(cross_fitted_decisions(probabilities, labels, self.fold_of[judged]), labels)

    def head(self, setting: KernelSetting, curves: LogisticCurves) -> KernelHead:
        """The head of a setting on all posters."""
        return fit_kernel_head(space(self._features, self._seed), self._labels, setting, curves, self._seed)


def train_frozen(
    bench: Bench, body: torch.nn.Module, backbone: str, weights_sha256: str, features: Features, reporter: Reporter
) -> NetworkOutcome:
    """Search settings of a kernel head on features of train and validation, and fit the best one on both parts."""
    start = time.perf_counter()
    rows = np.sort(np.concatenate([bench.training, bench.validation]))
    labels = bench.dataset.labels[rows]
    trying = FrozenSearch(features.values.only(rows), labels, bench.dataset.franchises[rows], bench.config.seed)
    found: dict[int, NDArray[np.float64]] = {}

    def attempt(number: int, parameters: dict[str, float], own: Reporter, step: Step) -> float:
        setting = KernelSetting(**parameters)
        found[number] = trying.estimates(setting, step)
        score = trying.score(found[number])
        own.scalars({"weighted_f1/validation": score}, 1)
        reporter.progress(number, bench.config.trials, f"training {FROZEN}", "trials")
        return score

    first = {entry.name: getattr(KERNEL_FIRST, entry.name) for entry in fields(KERNEL_FIRST)}
    reporter.progress(0, bench.config.trials, f"training {FROZEN}", "trials")
    trials = search(FROZEN, KERNEL_SPACE, first, bench.config.trials, bench.config.seed, reporter, attempt)
    best = best_of(trials)
    estimates = found[best.number]
    curves = fit_curves(estimates, labels)
    probabilities = curves.probabilities(estimates)
    # Compared with other networks on the validation part alone, where those are scored too.
    validation = probabilities[np.searchsorted(rows, bench.validation)]
    head = trying.head(KernelSetting(**best.parameters), curves)
    network = GenreNetwork(body, head, bench.dataset.preprocessing, frozen=True)

    def predict(asked: NDArray[np.int64]) -> Probabilities:
        return answers_of(head, features.values.only(asked))

    return NetworkOutcome(
        name=FROZEN,
        backbone=backbone,
        weights_sha256=weights_sha256,
        trained="frozen",
        best=best,
        trials=trials,
        validation=bench.score(validation),
        validation_probabilities=validation,
        fitted_rows=rows,
        fitted_probabilities=probabilities,
        thresholds=fit_thresholds(probabilities, labels),
        common_threshold=common_threshold(probabilities, labels),
        network=network,
        predict=predict,
        device=str(bench.compute.device),
        precision=bench.compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=features.images_per_second,
    )


def head_of_training_part(bench: Bench, features: Features, setting: KernelSetting) -> KernelHead:
    """A head fitted on the training part alone, its curves out of fold: where fine-tuning starts."""
    rows = bench.training
    labels = bench.dataset.labels[rows]
    trying = FrozenSearch(features.values.only(rows), labels, bench.dataset.franchises[rows], bench.config.seed)
    return trying.head(setting, fit_curves(trying.estimates(setting), labels))


@torch.no_grad()
def answers_of(head: KernelHead, features: FeatureTable) -> Probabilities:
    """Probabilities float32 [N, G] for features [N, F]; the head moves to their device."""
    head.to(features.device)
    answers: Probabilities = torch.cat([head(block).sigmoid().cpu() for block in features.blocks()]).numpy()
    return answers


def _index(rows: NDArray[np.int64], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(rows).to(like.device)
