"""Thresholds a genre: fitted for F1, shrunk for rare genres, cross-fitted where candidates are compared."""

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Decisions, Labels, Probabilities, f1

PRIOR_POSTERS = 40.0
"""Weight of the common threshold, in posters that have the genre: at 40 of them it counts half."""
_COMMON_CANDIDATES = 100


def fit_thresholds(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """The threshold of each genre, float [G], from probabilities and labels [N, G].

    A genre's own F1-optimal threshold is drawn towards the common one that is best for all genres together,
    the more so the fewer posters have the genre: on few posters the optimum is mostly chance.
    """
    common = common_threshold(probabilities, labels)
    support = labels.sum(0, dtype=np.int64)
    own = np.array([best_threshold(probabilities[:, g], labels[:, g]) for g in range(labels.shape[1])])
    shrunk: NDArray[np.float64] = (support * own + PRIOR_POSTERS * common) / (support + PRIOR_POSTERS)
    return shrunk


def best_threshold(probabilities: NDArray[np.floating], labels: Labels) -> float:
    """The threshold of one genre, [N] each, with the highest F1, halfway to the next lower probability."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order].astype(np.float64)
    true_positives = labels[order].cumsum(dtype=np.int64)
    scores = f1(true_positives, np.arange(1, len(ranked) + 1), true_positives[-1:])
    # A threshold cannot part posters of one probability.
    scores[:-1][ranked[:-1] == ranked[1:]] = -1
    best = int(scores.argmax())
    return float((ranked[best] + (ranked[best + 1] if best + 1 < len(ranked) else 0)) / 2)


def common_threshold(probabilities: Probabilities, labels: Labels) -> float:
    """The one threshold for all genres with the highest weighted F1."""
    support = labels.sum(0, dtype=np.int64)
    candidates = np.unique(np.quantile(probabilities, np.linspace(0, 1, _COMMON_CANDIDATES)))
    scores = np.zeros(len(candidates))
    for own, truth, positives in zip(probabilities.T, labels.T, support, strict=True):
        order = np.argsort(own)
        below = np.searchsorted(own[order], candidates)
        found = positives - np.append(0, truth[order].cumsum(dtype=np.int64))[below]
        scores += f1(found, len(own) - below, positives) * positives
    return float(candidates[int(np.argmax(scores))])


def cross_fitted_decisions(probabilities: Probabilities, labels: Labels, folds: NDArray[np.int64]) -> Decisions:
    """Decisions [N, G], each by thresholds that were fitted on the other folds.

    Fitting and scoring on the same posters flatters, the more so the more genres and the fewer posters. A
    single fold leaves no others, and is fitted on itself.
    """
    decisions = np.zeros(labels.shape, np.bool_)
    for fold in np.unique(folds):
        inside = folds == fold
        others = inside if inside.all() else ~inside
        decisions[inside] = probabilities[inside] >= fit_thresholds(probabilities[others], labels[others])
    return decisions
