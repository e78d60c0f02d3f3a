"""Thresholds per genre for the highest expected F1, and cross-fitted ones to compare candidates.

The search for a common threshold is own code because training repeats it (each setting, each fold). For 2,500 posters
and 20 genres a search takes 10 ms. With scikit-learn's `f1_score` per threshold it takes 600 ms.
"""

import numpy as np
from numpy.typing import NDArray

from ml.scores.logistic import fit_curves
from ml.scores.metrics import Decisions, Labels, Probabilities, f1_of_counts

_MAX_LOG_ODDS = 15.0
_COMMON_CANDIDATES = 100


def fit_thresholds(probabilities: Probabilities, labels: Labels) -> NDArray[np.float64]:
    """The threshold of each genre, float [G], from probabilities and labels [N, G].

    A logistic curve per genre calibrates the probabilities. The threshold with the highest expected F1 is half of that
    F1 (Lipton et al. 2014, https://arxiv.org/abs/1402.1892), here as a probability before calibration. The threshold
    with the highest F1 on the labels themselves is mostly chance: two numbers per genre follow single posters less.
    """
    odds = _log_odds(probabilities)
    curves = fit_curves(odds, labels)
    ranked = -np.sort(-_probability(curves.logits(odds)), axis=0)
    accepted = np.arange(1, len(ranked) + 1)[:, None]
    expected_f1 = 2 * ranked.cumsum(0) / (accepted + ranked.sum(0))
    return _probability((_log_odds(expected_f1.max(0) / 2) - curves.offset) / curves.slope)


def _log_odds(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log odds of probabilities, within +- `_MAX_LOG_ODDS`."""
    inside = np.clip(probabilities.astype(np.float64), _probability(-_MAX_LOG_ODDS), _probability(_MAX_LOG_ODDS))
    odds: NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _probability(log_odds: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Probabilities of log odds, those of +- `_MAX_LOG_ODDS` at the most."""
    probability: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(log_odds, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))
    return probability


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
