"""Do probabilities mean what they say? The calibration error, and the reliability curve behind it.

Of the posters that get a genre with a probability of 0.3, three in ten should have it (Guo et al. 2017,
https://arxiv.org/abs/1706.04599). Here over all pairs of a poster and a genre.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Labels, Probabilities

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, and the points of the reliability curve, [B] each, from low to high.

    A point is a bin's mean probability, the share of its pairs that are there, and how many pairs it holds.
    """

    expected_error: float
    mean_probability: NDArray[np.float64]
    observed_share: NDArray[np.float64]
    count: NDArray[np.int64]


def calibrate(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> Calibration:
    """Calibration of probabilities against labels, of one shape.

    Bins hold about equally many pairs, where Guo et al. have them equally wide: most genres are improbable for
    most posters, and nearly all pairs would share the first bin. Such bins are also the less biased estimate
    (Nixon et al. 2019, https://arxiv.org/abs/1904.01685; Roelofs et al. 2022, https://arxiv.org/abs/2012.08668).
    Pairs of one probability share a bin, so there are fewer of them where probabilities are few.
    """
    flat = probabilities.ravel().astype(np.float64)
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    _, place, count = np.unique(np.searchsorted(edges, flat, side="left"), return_inverse=True, return_counts=True)
    mean = np.bincount(place, flat) / count
    share = np.bincount(place, labels.ravel()) / count
    error = float((count * np.abs(mean - share)).sum() / len(flat))
    return Calibration(error, mean, share, count)
