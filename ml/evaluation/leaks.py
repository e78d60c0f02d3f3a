"""The leak gauge: how much a random split would overstate the figures, and what folds of franchises still miss.

The same methods are scored on the same posters twice: over random folds and over folds of whole franchises. Only the
training and validation parts are used. Copying the genres of siblings reads no pixel, so its gain in random folds is a
pure leak.

Two figures use what the keys of franchises do not know: titles that share most of their three-letter runs, and posters
that look a little less alike than those that are joined. What is left in the folds of franchises is an upper bound of
the siblings that the keys missed, because some similar titles and posters have nothing to do with each other. Siblings
with another title and another poster are the blind spot: only relations from pages name them
(`ml.data.splits.relations_notice`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ml.data.duplicates import look_alikes, perceptual_hash, thumbnail
from ml.data.feature_table import FeatureTable
from ml.data.franchise_keys import franchise_key
from ml.data.shards import Rows
from ml.evaluation.baselines import colour_histograms, sibling_copy
from ml.networks.kernel import fit_curves
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import Bench
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads

SIMILAR_TITLES = 0.6
"""The smallest share of common three-letter runs (Dice 1945) of titles that count as similar."""
NEAR_POSTERS = 10
"""The largest number of differing bits of posters that count as near. Posters that differ in 6 are one franchise."""
_ROWS = 500  # titles compared at once


@dataclass(frozen=True)
class Leak:
    """One figure of one method, over random folds and over folds of whole franchises."""

    name: str
    random_split: float
    franchise_folds: float


def leak_gauge(bench: Bench, features: FeatureTable | None) -> tuple[Leak, ...]:
    """Shares of posters with a likely sibling in training, then weighted F1 and mAP of three methods, over both folds.

    The methods are copying the genres of siblings, a kernel head on colours, and one on the backbone's features [N, F]
    (omitted if `features` is None).
    """
    rows = np.sort(np.concatenate([bench.training, bench.validation]))
    labels, franchises = bench.dataset.labels[rows], bench.dataset.franchises[rows]
    single_posters = np.arange(len(rows)).astype(np.str_)
    random, grouped = stratified_folds(single_posters, labels), stratified_folds(franchises, labels)
    likely = {
        "posters with a similar title in training": similar_titles([bench.dataset.titles[row] for row in rows]),
        "posters with a near poster in training": _near_posters(bench.dataset.images, rows),
    }
    leaks = [
        Leak(name, *(_share_with_other_fold(pairs, folds) for folds in (random, grouped)))
        for name, pairs in likely.items()
    ]
    copied = [sibling_copy(labels, franchises, folds) for folds in (random, grouped)]
    leaks += _leaks("copying siblings' genres", labels, copied, (random, grouped))
    tables = {"colours alone": FeatureTable(colour_histograms(bench.dataset.images, rows))}
    if features is not None:
        tables["the backbone's features"] = features.select(rows)
    for name, table in tables.items():
        predicted = [_out_of_fold(table, labels, groups, bench.config.seed) for groups in (single_posters, franchises)]
        leaks += _leaks(name, labels, predicted, (random, grouped))
    return tuple(leaks)


def similar_titles(titles: Sequence[str]) -> set[tuple[int, int]]:
    """Index pairs of titles that share most of their three-letter runs."""
    runs_of = [{text[start : start + 3] for start in range(len(text) - 2)} for text in map(_spaced, titles)]
    number = {run: place for place, run in enumerate(sorted(set().union(*runs_of)))}
    columns = [number[run] for runs in runs_of for run in sorted(runs)]
    sizes = np.array([len(runs) for runs in runs_of])
    pointers = np.concatenate([[0], np.cumsum(sizes)])
    has = csr_array((np.ones(len(columns), np.float32), columns, pointers), (len(titles), max(len(number), 1)))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(titles), _ROWS):
        common = (has[start : start + _ROWS] @ has.T).tocoo()
        one, other = common.row + start, common.col
        near = (one < other) & (2 * common.data >= SIMILAR_TITLES * (sizes[one] + sizes[other]))
        pairs.update(zip(one[near].tolist(), other[near].tolist(), strict=True))
    return pairs


def _spaced(title: str) -> str:
    return f" {franchise_key(title)} "


def _near_posters(images: Rows, rows: NDArray[np.int64]) -> set[tuple[int, int]]:
    hashes = {str(place): perceptual_hash(thumbnail(images[row])) for place, row in enumerate(rows.tolist())}
    return {(int(one), int(other)) for one, other in look_alikes(hashes, NEAR_POSTERS)}


def _share_with_other_fold(pairs: Iterable[tuple[int, int]], folds: NDArray[np.int64]) -> float:
    """The share of posters that a pair joins with a poster of another fold."""
    apart = {place for pair in pairs if folds[pair[0]] != folds[pair[1]] for place in pair}
    return len(apart) / len(folds)


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
