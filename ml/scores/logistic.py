"""One logistic curve per genre, from scores to calibrated probabilities (Platt 1999)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Labels

_NEWTON_STEPS = 30
_CONVERGED = 1e-9
"""Largest last step of slopes and offsets, for standardised scores."""
_MIN_SLOPE = 1e-2


@dataclass(frozen=True)
class LogisticCurves:
    """One curve per genre: logit = slope * estimate + offset, [G] each."""

    slope: NDArray[np.float64]
    offset: NDArray[np.float64]

    def logits(self, estimates: NDArray[np.float64]) -> NDArray[np.float64]:
        return estimates * self.slope + self.offset

    def probabilities(self, estimates: NDArray[np.float64]) -> NDArray[np.float32]:
        return (1 / (1 + np.exp(-self.logits(estimates)))).astype(np.float32)


def fit_curves(estimates: NDArray[np.float64], labels: Labels) -> LogisticCurves:
    """Fit logistic curves to out-of-fold estimates [N, G] by Newton's method.

    Targets are smoothed (Platt 1999) and slopes are kept positive: if estimates do not predict a genre, their order
    stays and probabilities are near the genre's frequency.
    """
    positives = labels.sum(0, dtype=np.float64)
    negatives = len(labels) - positives
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets = np.where(labels == 1, high, low)
    centre, scale = estimates.mean(0), np.maximum(estimates.std(0), 1e-6)
    x = (estimates - centre) / scale
    odds = np.log((positives + 1) / (negatives + 1))
    slope, offset = np.ones_like(odds), odds.copy()
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(x * slope + offset)))
        error, weight = p - targets, np.maximum(p * (1 - p), 1e-6)
        # The 2 x 2 Newton system of each genre. A small ridge on the slope keeps separable genres finite.
        ridge = 1e-2
        g0, g1 = error.sum(0), (error * x).sum(0) + ridge * slope
        h00, h01, h11 = weight.sum(0), (weight * x).sum(0), (weight * x * x).sum(0) + ridge
        determinant = h00 * h11 - h01 * h01
        steps = np.clip([(h00 * g1 - h01 * g0) / determinant, (h11 * g0 - h01 * g1) / determinant], -2, 2)
        slope, offset = slope - steps[0], offset - steps[1]
        if np.abs(steps).max() < _CONVERGED:
            break
    raised = np.maximum(slope, _MIN_SLOPE)
    for _ in range(_NEWTON_STEPS):
        # After its slope was raised, a genre needs a new offset to keep its frequency.
        p = 1 / (1 + np.exp(-(x * raised + offset)))
        change = (p - targets).sum(0) / np.maximum(p * (1 - p), 1e-6).sum(0)
        step = np.where(raised > slope, np.clip(change, -2, 2), 0)
        offset = offset - step
        if np.abs(step).max() < _CONVERGED:
            break
    slope = raised
    return LogisticCurves(slope / scale, offset - slope * centre / scale)
