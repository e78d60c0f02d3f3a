"""Scores of multi-label predictions by scikit-learn: F1 in three averages, mean average precision, scores per genre."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

Decisions = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]

SCALARS = ("weighted_f1", "macro_f1", "micro_f1", "mean_average_precision")
"""The scores over all genres."""


@dataclass(frozen=True)
class GenreScores:
    """Scores of one genre; `support` is the number of posters with the genre."""

    genre: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Scores for a set of posters. `mean_average_precision` is the unweighted mean over the genres with support."""

    weighted_f1: float
    macro_f1: float
    micro_f1: float
    mean_average_precision: float
    posters: int
    genres: tuple[GenreScores, ...]

    def scalars(self) -> dict[str, float]:
        """The scores of `SCALARS` by name."""
        return {name: getattr(self, name) for name in SCALARS}


@dataclass(frozen=True)
class WeightedF1:
    """Weighted F1 of the same probabilities with the threshold 0.5, one fitted threshold, or one per genre."""

    at_half: float
    at_common: float
    at_own: float


def f1_of_counts(
    true_positives: NDArray[np.number], predicted: NDArray[np.number], support: NDArray[np.number]
) -> NDArray[np.float64]:
    """F1 from counts of any one shape; 0 if a genre is neither predicted nor present.

    For the bootstrap and the search for thresholds, which compute millions of F1 from counts that they have already.
    Reported figures use scikit-learn.
    """
    ratio: NDArray[np.float64] = 2 * true_positives / np.maximum(predicted + support, 1)
    return ratio


def weighted_f1(decisions: Decisions, labels: Labels) -> float:
    """F1 per genre, averaged with the genres' support as weights; both arrays are [N, G]."""
    return float(f1_score(**_multilabel(decisions, labels), average="weighted"))


def weighted_f1_by_threshold(
    probabilities: Probabilities, labels: Labels, common: NDArray[np.float64] | float, per_genre: NDArray[np.float64]
) -> WeightedF1:
    """Weighted F1 with three kinds of thresholds, from probabilities and labels [N, G].

    `common` is one threshold, and `per_genre` are [G]. Cross-fitted thresholds differ between posters, [N, 1] and
    [N, G].
    """
    return WeightedF1(*(weighted_f1(probabilities >= each, labels) for each in (0.5, common, per_genre)))


def average_precision(probabilities: NDArray[np.floating], labels: Labels) -> float:
    """Average precision of one genre, from probabilities and labels [N]; 0 if no poster has the genre."""
    return float(average_precision_score(labels, probabilities)) if labels.any() else 0.0


def score(probabilities: NDArray[np.floating], decisions: Decisions, labels: Labels, genres: Sequence[str]) -> Scores:
    """Score predictions: probabilities and decisions [N, G] against labels [N, G]."""
    pair = _multilabel(decisions, labels)
    by_genre = precision_recall_fscore_support(**pair, average=None)
    precisions = np.array([average_precision(probabilities[:, g], labels[:, g]) for g in range(len(genres))])
    supported = precisions[labels.any(0)]
    return Scores(
        weighted_f1=float(f1_score(**pair, average="weighted")),
        macro_f1=float(f1_score(**pair, average="macro")),
        micro_f1=float(f1_score(**pair, average="micro")),
        mean_average_precision=float(supported.mean()) if len(supported) else 0.0,
        posters=len(labels),
        genres=tuple(
            GenreScores(genre, float(precision), float(recall), float(f1), float(average), int(support))
            for genre, precision, recall, f1, support, average in zip(genres, *by_genre, precisions, strict=True)
        ),
    )


def poster_f1(decisions: Decisions, labels: Labels) -> NDArray[np.float64]:
    """F1 of each poster over its genres, [N], from decisions and labels [N, G]."""
    each: NDArray[np.float64] = f1_score(**_multilabel(decisions.T, labels.T), average=None)
    return each


def errors_together(decisions: Decisions, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genres that are predicted wrongly while another genre is missed, from decisions and labels [N, G].

    The first array, [G], counts the posters that miss each genre. The second, [G, G], counts those of them that get
    the column's genre without having it.
    """
    truth = labels == 1
    missed, wrong = (truth & ~decisions), (decisions & ~truth)
    both = missed.T.astype(np.float64) @ wrong.astype(np.float64)  # whole numbers; float products are faster
    return missed.sum(0), both.astype(np.int64)


def _multilabel(decisions: Decisions, labels: Labels) -> dict[str, Any]:
    """Arguments of scikit-learn's F1 functions, which treat a single column as a binary problem with two classes."""
    only_present = [1] if labels.shape[1] == 1 else None
    return {"y_true": labels, "y_pred": decisions, "labels": only_present, "zero_division": 0}
