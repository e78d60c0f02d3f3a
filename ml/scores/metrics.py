"""Scores of multi-label predictions: F1 in three averages, mean average precision, figures a genre."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Decisions = NDArray[np.bool_]
Labels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class GenreScores:
    """Scores of one genre; `support` is the number of posters that have it."""

    genre: str
    precision: float
    recall: float
    f1: float
    average_precision: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Scores over a set of posters. `mean_average_precision` is the plain mean over genres with support."""

    weighted_f1: float
    macro_f1: float
    micro_f1: float
    mean_average_precision: float
    posters: int
    genres: tuple[GenreScores, ...]

    def as_dict(self) -> dict[str, object]:
        """The scores, ready for JSON."""
        return {**asdict(self), "genres": [asdict(genre) for genre in self.genres]}

    def scalars(self) -> dict[str, float]:
        """The figures over all genres, by name."""
        return {
            "weighted_f1": self.weighted_f1,
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
            "mean_average_precision": self.mean_average_precision,
        }


@dataclass(frozen=True)
class WeightedF1:
    """Weighted F1 of the same probabilities where the threshold is 0.5, one for all genres, or one a genre."""

    at_half: float
    at_common: float
    at_own: float


def f1(
    true_positives: NDArray[np.number], predicted: NDArray[np.number], support: NDArray[np.number]
) -> NDArray[np.float64]:
    """F1 of counts of any one shape; 0 where a genre is neither predicted nor there."""
    ratio: NDArray[np.float64] = 2 * true_positives / np.maximum(predicted + support, 1)
    return ratio


def weighted_f1(decisions: Decisions, labels: Labels) -> float:
    """F1 a genre, averaged with the genres' support as weights; both arrays are [N, G]."""
    support = labels.sum(0, dtype=np.int64)
    each = f1((decisions & (labels == 1)).sum(0), decisions.sum(0), support)
    return float((each * support).sum() / max(support.sum(), 1))


def weighted_f1_by_threshold(
    probabilities: Probabilities, labels: Labels, common: NDArray[np.float64] | float, own: NDArray[np.float64]
) -> WeightedF1:
    """Weighted F1 at three kinds of thresholds, from probabilities and labels [N, G].

    `common` is a single threshold and `own` one a genre, [G], both fitted on other posters; where they are
    cross-fitted they differ from poster to poster, [N, 1] and [N, G].
    """
    return WeightedF1(*(weighted_f1(probabilities >= each, labels) for each in (0.5, common, own)))


def average_precision(probabilities: NDArray[np.floating], labels: Labels) -> float:
    """Area under the precision-recall steps of one genre, [N] each, as scikit-learn defines it; 0 where no
    poster has the genre."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = labels[order].astype(np.int64)
    true_positives = ranked.cumsum()
    # Posters of one probability are one step of the curve.
    step = np.append(np.diff(probabilities[order]) != 0, True)
    precision = true_positives[step] / (np.flatnonzero(step) + 1)
    gained = np.diff(true_positives[step], prepend=0)
    return float((precision * gained).sum() / max(int(ranked.sum()), 1))


def score(probabilities: NDArray[np.floating], decisions: Decisions, labels: Labels, genres: Sequence[str]) -> Scores:
    """Score predictions: probabilities and decisions [N, G] against labels [N, G]."""
    truth = labels == 1
    true_positives = (decisions & truth).sum(0)
    predicted = decisions.sum(0)
    support = truth.sum(0)
    each = f1(true_positives, predicted, support)
    precisions = [average_precision(probabilities[:, g], labels[:, g]) for g in range(len(genres))]
    supported = [precision for precision, count in zip(precisions, support, strict=True) if count]
    return Scores(
        weighted_f1=weighted_f1(decisions, labels),
        macro_f1=float(each.mean()),
        micro_f1=float(f1(true_positives.sum(), predicted.sum(), support.sum())),
        mean_average_precision=float(np.mean(supported or [0.0])),
        posters=len(labels),
        genres=tuple(
            GenreScores(
                genre=name,
                precision=float(true_positives[g] / max(predicted[g], 1)),
                recall=float(true_positives[g] / max(support[g], 1)),
                f1=float(each[g]),
                average_precision=precisions[g],
                support=int(support[g]),
            )
            for g, name in enumerate(genres)
        ),
    )


def poster_f1(decisions: Decisions, labels: Labels) -> NDArray[np.float64]:
    """F1 of each poster over its genres, [N], from decisions and labels [N, G]."""
    truth = labels == 1
    return f1((decisions & truth).sum(1), decisions.sum(1), truth.sum(1))


def errors_together(decisions: Decisions, labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which genres were predicted wrongly where one was missed; decisions and labels are [N, G].

    How many posters miss each genre that they have, [G]; and of those the share, [G, G], that get the column's
    genre although they do not have it, 0 where no poster misses the row's.
    """
    truth = labels == 1
    missed, wrong = (truth & ~decisions), (decisions & ~truth)
    misses = missed.sum(0)
    # As floats, whose matrix product is the fast one; the counts are whole numbers all the same.
    both = missed.T.astype(np.float64) @ wrong.astype(np.float64)
    return misses, both / np.maximum(misses, 1)[:, None]
