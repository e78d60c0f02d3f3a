"""What is known about a model before anyone has used it: figures.json of its bundle, for pages about the model.

Everything is measured on the validation part, with thresholds that were fitted on other franchises than they are
tried on. There are no dates or durations: the same training gives the same bytes.
"""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.splits import PARTS, VALIDATION
from ml.scores.folds import stratified_folds
from ml.scores.intervals import Interval, Predictions, intervals
from ml.scores.metrics import Decisions, Labels, Probabilities, score
from ml.scores.thresholds import cross_fitted_decisions

_CONFUSIONS = 12
_DIGITS = 4


def figures(probabilities: Probabilities, thresholds: NDArray[np.float64], dataset: Dataset) -> dict[str, object]:
    """The figures of a network, ready for JSON.

    Args:
        probabilities: of the validation part's posters, float32 [V, G], by a network that has not learned from them.
        thresholds: those it is served with, [G]; told, not used, because they were fitted on these posters.
        dataset: the one it was trained on.
    """
    rows = dataset.rows(VALIDATION)
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    # The folds and decisions that networks were compared by.
    decisions = cross_fitted_decisions(probabilities, labels, stratified_folds(franchises, labels))
    scores = score(probabilities, decisions, labels, dataset.genre_names)
    sure = intervals(Predictions(probabilities, decisions), labels, franchises)
    return {
        "part": VALIDATION,
        "posters": len(rows),
        "dataset": {"key": dataset.key, "posters": {part: len(dataset.rows(part)) for part in PARTS}},
        "weighted_f1": _rounded(sure.weighted_f1),
        "mean_average_precision": _rounded(sure.mean_average_precision),
        "genres": [
            {
                "id": genre.id,
                "name": genre.name,
                "posters": own.support,
                "f1": _rounded(f1),
                "average_precision": round(own.average_precision, _DIGITS),
                "threshold": round(float(threshold), _DIGITS),
            }
            for genre, own, f1, threshold in zip(dataset.genres, scores.genres, sure.genre_f1, thresholds, strict=True)
        ],
        "confusions": _confusions(decisions, labels, dataset.genre_names),
    }


def _confusions(decisions: Decisions, labels: Labels, genres: tuple[str, ...]) -> list[dict[str, object]]:
    """The pairs of genres of which most posters miss the one that they have and get the other that they do not have,
    at most `_CONFUSIONS`; decisions and labels are [N, G]."""
    truth = labels == 1
    missed, wrong = (truth & ~decisions).astype(np.int64), (decisions & ~truth).astype(np.int64)
    both = missed.T @ wrong
    order = np.argsort(-both, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, both.shape), strict=True)
    return [
        {"missed": genres[mine], "given": genres[other], "posters": int(both[mine, other])}
        for mine, other in pairs
        if both[mine, other]
    ]


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in asdict(interval).items()}
