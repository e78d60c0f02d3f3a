"""Thresholds per genre: fitted for F1, shrunk for rare genres, cross-fitted to compare candidates.

The search for thresholds is own code because training repeats it thousands of times (each epoch and setting, each
fold). For 2,500 posters and 20 genres a fit takes 10 ms. With scikit-learn's `precision_recall_curve` per genre and
`f1_score` per common threshold it takes 600 ms.
"""

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Decisions, Labels, Probabilities, f1_of_counts

PRIOR_POSTERS = 40.0
"""Weight of the common threshold, in posters: for a genre with 40 posters it counts half."""
_COMMON_CANDIDATES = 100


def fit_thresholds(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """The threshold of each genre, float [G], from probabilities and labels [N, G].

    Each threshold is a weighted mean of the one with the genre's highest F1 and of the common one with the highest
    weighted F1. The fewer posters have the genre, the more the common one counts, because on few posters the optimum is
    mostly chance.
    """
    common = common_threshold(probabilities, labels)
    support = labels.sum(0, dtype=np.int64)
    best = np.array([best_threshold(probabilities[:, g], labels[:, g]) for g in range(labels.shape[1])])
    shrunk: NDArray[np.float64] = (support * best + PRIOR_POSTERS * common) / (support + PRIOR_POSTERS)
    return shrunk


def best_threshold(probabilities: NDArray[np.floating], labels: Labels) -> float:
    """The threshold with the highest F1 for one genre, from probabilities and labels [N].

    It lies halfway between the lowest accepted probability and the next lower one.
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order].astype(np.float64)
    true_positives = labels[order].cumsum(dtype=np.int64)
    scores = f1_of_counts(true_positives, np.arange(1, len(ranked) + 1), true_positives[-1:])
    # A threshold cannot separate posters with equal probabilities.
    scores[:-1][ranked[:-1] == ranked[1:]] = -1
    best = int(scores.argmax())
    return float((ranked[best] + (ranked[best + 1] if best + 1 < len(ranked) else 0)) / 2)


def common_threshold(probabilities: Probabilities, labels: Labels) -> float:
    """The threshold with the highest weighted F1 if all genres share it, from probabilities and labels [N, G]."""
    support = labels.sum(0, dtype=np.int64)
    candidates = np.unique(np.quantile(probabilities, np.linspace(0, 1, _COMMON_CANDIDATES)))
    scores = np.zeros(len(candidates))
    for column, truth, positives in zip(probabilities.T, labels.T, support, strict=True):
        order = np.argsort(column)
        below = np.searchsorted(column[order], candidates)
        found = positives - np.append(0, truth[order].cumsum(dtype=np.int64))[below]
        scores += f1_of_counts(found, len(column) - below, positives) * positives
    return float(candidates[int(np.argmax(scores))])


def cross_fitted_decisions(probabilities: Probabilities, labels: Labels, folds: NDArray[np.int64]) -> Decisions:
    """Decisions [N, G] by thresholds that were fitted on the other folds; `folds` is the fold of each poster, [N].

    Thresholds that are fitted and scored on the same posters give scores that are too high, more so with many genres
    and few posters. If there is only one fold, its thresholds are fitted on itself.
    """
    decisions = np.zeros(labels.shape, np.bool_)
    for fold in np.unique(folds):
        inside = folds == fold
        others = inside if inside.all() else ~inside
        decisions[inside] = probabilities[inside] >= fit_thresholds(probabilities[others], labels[others])
    return decisions
