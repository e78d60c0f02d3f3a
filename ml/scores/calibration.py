"""Calibration of probabilities: the expected calibration error, the reliability curve and the Brier skill score.

If predictions are calibrated, three in ten of the posters with a probability of 0.3 have the genre (Guo et al. 2017,
https://arxiv.org/abs/1706.04599). Always predicting a genre's share of the training posters is calibrated, too, and
says nothing about a poster. The Brier skill score is how much better than that the probabilities are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Labels, Probabilities

BINS = 15
_PAIRS_PER_BIN = 50  # in the bins of a single genre


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, and the B points of the reliability curve, from low to high probability.

    Each point is a bin: the mean probability of its pairs, the share of pairs with the genre, and the number of pairs.
    """

    expected_error: float
    mean_probability: NDArray[np.float64]
    observed_share: NDArray[np.float64]
    count: NDArray[np.int64]


def calibrate(probabilities: Probabilities, labels: Labels, bins: int = BINS) -> Calibration:
    """Calibration of probabilities against labels of the same shape.

    Bins hold about equal numbers of pairs. Guo et al. use bins of equal width, but most genres are improbable for most
    posters, so nearly all pairs would be in the first bin. Bins of equal size also give the less biased estimate
    (Nixon et al. 2019, https://arxiv.org/abs/1904.01685; Roelofs et al. 2022, https://arxiv.org/abs/2012.08668).
    Pairs with equal probabilities are in the same bin, so there may be fewer bins.
    """
    # Own code: scikit-learn's `calibration_curve(strategy="quantile")` gives the same points, but not the numbers of
    # pairs. The error needs them: on 80 validation posters with probabilities of two digits, bins have 58 to 224 pairs.
    flat = probabilities.ravel().astype(np.float64)
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    _, bin, count = np.unique(np.searchsorted(edges, flat, side="left"), return_inverse=True, return_counts=True)
    mean = np.bincount(bin, flat) / count
    share = np.bincount(bin, labels.ravel()) / count
    error = float((count * np.abs(mean - share)).sum() / len(flat))
    return Calibration(error, mean, share, count)


@dataclass(frozen=True)
class GenreCalibration:
    """Calibration of one genre; `base_rate` is its mean share of the training posters."""

    genre: str
    base_rate: float
    mean_probability: float
    observed_share: float
    calibration_error: float
    brier_skill: float


def brier_skill(probabilities: Probabilities, labels: Labels, base_rates: NDArray[np.float64]) -> float:
    """1 minus the Brier score divided by that of always predicting the base rates.

    All pairs of probabilities and labels count, [N, G] or [N]; the base rates have one value per genre or per pair.
    1 is perfect, 0 as good as the base rates, and less than 0 worse (Brier 1950; Murphy 1973). 0 if the base rates have
    no error.
    """
    error = float(((probabilities.astype(np.float64) - labels) ** 2).sum())
    base_error = float(((base_rates - labels) ** 2).sum())
    return 1 - error / base_error if base_error else 0.0


def calibrate_genres(
    probabilities: Probabilities, labels: Labels, base_rates: NDArray[np.float64], genres: Sequence[str]
) -> tuple[GenreCalibration, ...]:
    """The calibration of each genre, from probabilities and labels [N, G] and base rates [G] or [N, G].

    Bins hold at least `_PAIRS_PER_BIN` posters: with fewer, the calibration error is mostly chance.
    """
    bins = max(1, min(BINS, len(labels) // _PAIRS_PER_BIN))
    columns = zip(genres, probabilities.T, labels.T, np.broadcast_to(base_rates, labels.shape).T, strict=True)
    return tuple(
        GenreCalibration(
            genre,
            float(base.mean()),
            float(predicted.mean(dtype=np.float64)),
            float(truth.mean()),
            calibrate(predicted, truth, bins).expected_error,
            brier_skill(predicted, truth, base),
        )
        for genre, predicted, truth, base in columns
    )
