"""A pretrained backbone with unchanged weights, and a kernel head on its cached features.

Heads are cheap, so each setting is tried out of fold: every poster of the training part is predicted by a head that has
not seen its franchise. The head that is compared with other networks on the validation part is fitted on the training
part alone. The final head is fitted on both parts with the same setting. Its logistic curves and thresholds use
out-of-fold predictions of both parts.
"""

import time
from dataclasses import dataclass

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
    fit_space,
)
from ml.reporting import Reporter
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import SELECTION, Bench
from ml.training.candidates import CANDIDATES, FROZEN, Candidate
from ml.training.features import Pretrained
from ml.training.outcome import NetworkOutcome
from ml.training.search import SearchPlan, Step, best_of, search

KERNEL_FIRST = KernelSetting(**CANDIDATES[FROZEN].first)
"""The setting of heads that are fitted without a search."""


@dataclass(frozen=True)
class _Fold:
    """A fold: positions of its posters and of all others, and its posters projected into the others' space."""

    inside: NDArray[np.int64]
    outside: NDArray[np.int64]
    space: Space
    points: torch.Tensor


class OutOfFoldHeads:
    """Kernel heads of any setting: their out-of-fold estimates, and a head fitted on all posters."""

    def __init__(self, features: FeatureTable, labels: Labels, franchises: NDArray[np.str_], seed: int) -> None:
        """Prepare the folds for features [n, F], labels uint8 [n, G] and franchises [n] of the same posters.

        Raises TrainingError if features are not finite or all posters are of one franchise.
        """
        self._features, self._truth, self._seed = features, labels, seed
        self._labels = torch.from_numpy(labels).float().to(features.device)
        self.fold_of = stratified_folds(franchises, labels)
        if len(np.unique(self.fold_of)) < 2:
            raise TrainingError("Out-of-fold predictions need posters of at least two franchises. Add posters.")
        self._folds = [self._fold(number) for number in np.unique(self.fold_of)]
        self.folds = len(self._folds)

    def _fold(self, number: int) -> _Fold:
        inside, outside = np.flatnonzero(self.fold_of == number), np.flatnonzero(self.fold_of != number)
        space = fit_space(self._features.select(outside), self._seed)
        return _Fold(inside, outside, space, space.project(self._features.select(inside)))

    def estimates(self, setting: KernelSetting, on_fold: Step = lambda fold, score: None) -> NDArray[np.float64]:
        """Out-of-fold estimates of a setting, float64 [n, G].

        `on_fold` is called after each fold but the last with the number of completed folds and their score.
        """
        estimates = np.zeros(self._truth.shape)
        for number, fold in enumerate(self._folds, 1):
            outside = torch.from_numpy(fold.outside).to(self._labels.device)
            ridge = KernelRidge(fold.space, self._labels[outside], setting.width, self._seed)
            estimates[fold.inside] = ridge.estimate(fold.points, setting.ridge)
            if number < len(self._folds):
                completed = np.concatenate([done.inside for done in self._folds[:number]])
                on_fold(number, self._score(estimates[completed], completed))
        return estimates

    def score(self, estimates: NDArray[np.float64]) -> float:
        """Weighted F1 of out-of-fold estimates [n, G], with thresholds cross-fitted over the same folds."""
        return self._score(estimates, np.arange(len(estimates)))

    def _score(self, estimates: NDArray[np.float64], posters: NDArray[np.int64]) -> float:
        labels = self._truth[posters]
        probabilities = fit_curves(estimates, labels).probabilities(estimates)
        return weighted_f1(cross_fitted_decisions(probabilities, labels, self.fold_of[posters]), labels)

    def fit(self, setting: KernelSetting, curves: LogisticCurves) -> KernelHead:
        """Fit a head on all posters."""
        return fit_kernel_head(fit_space(self._features, self._seed), self._labels, setting, curves, self._seed)


def train_frozen(candidate: Candidate, bench: Bench, pretrained: Pretrained, reporter: Reporter) -> NetworkOutcome:
    """Search the settings of a kernel head on the training part, and fit the best one on it and the validation part."""
    start = time.perf_counter()
    config, what = bench.config, f"training {candidate.name}"
    heads = _heads_for(bench, pretrained.features, bench.training)
    estimates_of: dict[int, NDArray[np.float64]] = {}

    def attempt(number: int, parameters: dict[str, float], trial_reporter: Reporter, step: Step) -> float:
        def on_fold(fold: int, score: float) -> None:
            reporter.progress((number - 1) * heads.folds + fold, config.trials * heads.folds, what, "heads")
            step(fold, score)

        estimates_of[number] = heads.estimates(KernelSetting(**parameters), on_fold)
        score = heads.score(estimates_of[number])
        trial_reporter.scalars({f"{SELECTION}/weighted_f1": score}, 1)
        reporter.progress(number * heads.folds, config.trials * heads.folds, what, "heads")
        return score

    reporter.progress(0, config.trials * heads.folds, what, "heads")
    plan = SearchPlan(candidate.name, candidate.space, candidate.first, config.trials, config.seed)
    trials = search(plan, attempt, reporter)
    best = best_of(trials)
    setting = KernelSetting(**best.parameters)
    curves = fit_curves(estimates_of[best.number], bench.dataset.labels[bench.training])
    compared = heads.fit(setting, curves)
    del heads  # their points need not be in memory beside those of the next ones
    rows = np.sort(np.concatenate([bench.training, bench.validation]))
    heads = _heads_for(bench, pretrained.features, rows)
    estimates = heads.estimates(setting)
    curves = fit_curves(estimates, bench.dataset.labels[rows])
    head = heads.fit(setting, curves)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        return head_probabilities(head, pretrained.features.select(rows))

    return NetworkOutcome(
        name=candidate.name,
        backbone=bench.backbone.name,
        weights=bench.backbone.weights_file,
        trained=candidate.trained,
        best=best,
        trials=trials,
        **bench.assess(
            head_probabilities(compared, pretrained.features.select(bench.validation)),
            rows,
            curves.probabilities(estimates),
        ),
        network=GenreNetwork(pretrained.body, head, bench.backbone.normalisation, frozen=True),
        predict=predict,
        device=str(bench.compute.device),
        precision=bench.compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=pretrained.images_per_second,
    )


def fit_head(bench: Bench, features: FeatureTable, rows: NDArray[np.int64], setting: KernelSetting) -> KernelHead:
    """A head fitted on these rows alone, with out-of-fold curves."""
    heads = _heads_for(bench, features, rows)
    curves = fit_curves(heads.estimates(setting), bench.dataset.labels[rows])
    return heads.fit(setting, curves)


@torch.no_grad()
def head_probabilities(head: KernelHead, features: FeatureTable) -> Probabilities:
    """Probabilities float32 [N, G] of features [N, F]. The head is moved to the features' device."""
    head.to(features.device)
    probabilities: Probabilities = torch.cat([head(block).sigmoid().cpu() for block in features.blocks()]).numpy()
    return probabilities


def _heads_for(bench: Bench, features: FeatureTable, rows: NDArray[np.int64]) -> OutOfFoldHeads:
    dataset = bench.dataset
    return OutOfFoldHeads(features.select(rows), dataset.labels[rows], dataset.franchises[rows], bench.config.seed)
