"""The leak gauge: how much a random split would overstate the figures.

The same methods are scored on the same posters twice: over random folds and over folds of whole franchises. Only the
training and validation parts are used. Copying the genres of siblings reads no pixel, so its gain in random folds is a
pure leak.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.feature_table import FeatureTable
from ml.evaluation.baselines import colour_histograms, sibling_copy
from ml.networks.kernel import fit_curves
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import Bench
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads


@dataclass(frozen=True)
class Leak:
    """One figure of one method, over random folds and over folds of whole franchises."""

    name: str
    random_split: float
    franchise_folds: float


def leak_gauge(bench: Bench, features: FeatureTable | None) -> tuple[Leak, ...]:
    """Weighted F1 and mAP of three methods, over both kinds of folds.

    The methods are copying the genres of siblings, a kernel head on colours, and one on the backbone's features [N, F]
    (omitted if `features` is None).
    """
    rows = np.sort(np.concatenate([bench.training, bench.validation]))
    labels, franchises = bench.dataset.labels[rows], bench.dataset.franchises[rows]
    single_posters = np.arange(len(rows)).astype(np.str_)
    random, grouped = stratified_folds(single_posters, labels), stratified_folds(franchises, labels)
    shares = (_share_with_siblings(franchises, folds) for folds in (random, grouped))
    leaks = [Leak("posters with a sibling in training", *shares)]
    copied = [sibling_copy(labels, franchises, folds) for folds in (random, grouped)]
    leaks += _leaks("copying siblings' genres", labels, copied, (random, grouped))
    tables = {"colours alone": FeatureTable(colour_histograms(bench.dataset.images, rows))}
    if features is not None:
        tables["the backbone's features"] = features.select(rows)
    for name, table in tables.items():
        predicted = [_out_of_fold(table, labels, groups, bench.config.seed) for groups in (single_posters, franchises)]
        leaks += _leaks(name, labels, predicted, (random, grouped))
    return tuple(leaks)


def _share_with_siblings(franchises: NDArray[np.str_], folds: NDArray[np.int64]) -> float:
    shared = [np.isin(franchises[folds == fold], franchises[folds != fold]) for fold in np.unique(folds)]
    return float(np.concatenate(shared).mean())


def _out_of_fold(table: FeatureTable, labels: Labels, groups: NDArray[np.str_], seed: int) -> Probabilities:
    estimates = OutOfFoldHeads(table, labels, groups, seed).estimates(KERNEL_FIRST)
    return fit_curves(estimates, labels).probabilities(estimates)


def _leaks(
    name: str, labels: Labels, predicted: Sequence[Probabilities], folds: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> list[Leak]:
    """Weighted F1 and mAP of probabilities [N, G] over random folds and over folds of franchises."""
    random, grouped = (
        score(probabilities, cross_fitted_decisions(probabilities, labels, fold), labels, [""] * labels.shape[1])
        for probabilities, fold in zip(predicted, folds, strict=True)
    )
    return [
        Leak(f"{name}: weighted F1", random.weighted_f1, grouped.weighted_f1),
        Leak(f"{name}: mAP", random.mean_average_precision, grouped.mean_average_precision),
    ]
