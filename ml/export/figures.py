"""The figures that a bundle carries in figures.json, for pages about the model.

All figures are measured on the validation part, with thresholds fitted on other franchises. They contain no dates or
durations: the same training gives the same bytes. The file is part of the bundle's hash, so its keys and rounding are
a stored format.
"""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.splits import PARTS, TRAIN, VALIDATION
from ml.scores.calibration import brier_skill, calibrate_genres
from ml.scores.folds import stratified_folds
from ml.scores.intervals import Interval, Predictions, intervals
from ml.scores.metrics import Decisions, Labels, Probabilities, errors_together, score
from ml.scores.thresholds import cross_fitted_decisions

_CONFUSIONS = 12
_DIGITS = 4


def figures(probabilities: Probabilities, thresholds: NDArray[np.float64], dataset: Dataset) -> dict[str, object]:
    """The figures of a network as JSON values.

    Args:
        probabilities: of the validation part, float32 [V, G], from a network that was not trained on it.
        thresholds: the served thresholds, [G]. They are listed, but not used for scoring, because they were fitted on
            these posters.
        dataset: the one the network was trained on.
    """
    rows = dataset.rows(VALIDATION)
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    # The same folds and decisions as in the comparison of candidate networks.
    decisions = cross_fitted_decisions(probabilities, labels, stratified_folds(franchises, labels))
    scores = score(probabilities, decisions, labels, dataset.genre_names)
    base_rates = dataset.labels[dataset.rows(TRAIN)].mean(0)
    calibrations = calibrate_genres(probabilities, labels, base_rates, dataset.genre_names)
    bounds = intervals(Predictions(probabilities, decisions), labels, franchises)
    return {
        "part": VALIDATION,
        "posters": len(rows),
        "dataset": {"key": dataset.key, "posters": {part: len(dataset.rows(part)) for part in PARTS}},
        "weighted_f1": _rounded(bounds.weighted_f1),
        "mean_average_precision": _rounded(bounds.mean_average_precision),
        "brier_skill": round(brier_skill(probabilities, labels, base_rates), _DIGITS),
        "genres": [
            {
                "id": genre.id,
                "name": genre.name,
                "posters": genre_scores.support,
                "f1": _rounded(f1),
                "average_precision": round(genre_scores.average_precision, _DIGITS),
                "threshold": round(float(threshold), _DIGITS),
                "calibration_error": round(calibration.calibration_error, _DIGITS),
                "brier_skill": round(calibration.brier_skill, _DIGITS),
            }
            for genre, genre_scores, f1, threshold, calibration in zip(
                dataset.genres, scores.genres, bounds.genre_f1, thresholds, calibrations, strict=True
            )
        ],
        "confusions": _confusions(decisions, labels, dataset.genre_names),
    }


def _confusions(decisions: Decisions, labels: Labels, genres: tuple[str, ...]) -> list[dict[str, object]]:
    """The most frequent pairs of a missed genre and a genre predicted wrongly for the same poster.

    At most `_CONFUSIONS` pairs are returned. Decisions and labels are [N, G].
    """
    _, both = errors_together(decisions, labels)
    order = np.argsort(-both, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, both.shape), strict=True)
    return [
        {"missed": genres[row], "given": genres[column], "posters": int(both[row, column])}
        for row, column in pairs
        if both[row, column]
    ]


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in asdict(interval).items()}
