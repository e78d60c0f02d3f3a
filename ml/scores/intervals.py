"""95 % confidence intervals by the bootstrap over franchises, for one model and for the difference of two models.

The percentile interval of Efron and Tibshirani 1993 (An Introduction to the Bootstrap, chapter 13). Whole franchises
are drawn with replacement, because posters of one franchise are not independent. Equal seeds draw equal franchises, so
two models are compared on the same resamples.

The bootstrap is own code because it repeats thousands of times: for 2,500 posters and 20 genres, 2,000 resamples take
1 s, and 60 s with `sample_weight` of scikit-learn's `f1_score` and `average_precision_score`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Decisions, Labels, Probabilities, f1_of_counts, score

RESAMPLES = 2000
_QUANTILES = (0.025, 0.975)
# Resamples per step: their counts fit into a core's cache.
_CHUNK = 128


@dataclass(frozen=True)
class Predictions:
    """A model's predictions: probabilities, float32 [N, G], and decisions, bool [N, G]."""

    probabilities: Probabilities
    decisions: Decisions


@dataclass(frozen=True)
class Interval:
    """A figure of the given posters, and the 2.5 and 97.5 percentiles of the figure over resampled franchises."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """The figures of one model; `genre_f1` has one interval per genre."""

    weighted_f1: Interval
    mean_average_precision: Interval
    genre_f1: tuple[Interval, ...]


@dataclass(frozen=True)
class Differences:
    """The figures of one model minus those of another on the same posters."""

    weighted_f1: Interval
    mean_average_precision: Interval


class Bootstrap:
    """Resamples of the franchises [N] of posters with labels [N, G].

    With probabilities [N, G] in place of labels, F1 is that of the expected counts.
    """

    def __init__(
        self,
        labels: Labels | Probabilities,
        franchises: NDArray[np.str_],
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        names, self._franchise = np.unique(franchises, return_inverse=True)
        generator = np.random.default_rng(seed)
        shares = np.full(len(names), 1 / len(names))
        # The number of times that each resample contains each franchise, [R, K], in one byte: none is near 255.
        self._draws = np.concatenate(
            [
                generator.multinomial(len(names), shares, size=min(_CHUNK, resamples - start)).astype(np.uint8)
                for start in range(0, resamples, _CHUNK)
            ]
        )
        self._labels = labels
        self._support = self._counted(labels)

    def weighted_f1(self, decisions: Decisions) -> NDArray[np.float64]:
        """Weighted F1 of each resample, [R], from decisions [N, G]."""
        weights = self._support / np.maximum(self._support.sum(1, keepdims=True), 1)
        weighted: NDArray[np.float64] = (self._f1(decisions) * weights).sum(1)
        return weighted

    def micro_f1(self, decisions: Decisions) -> NDArray[np.float64]:
        """F1 over all pairs of a poster and a genre of each resample, [R], from decisions [N, G]."""
        counts = (self._counted(decisions * self._labels), self._counted(decisions), self._support)
        return f1_of_counts(*(each.sum(1) for each in counts))

    def genre_f1(self, decisions: Decisions) -> NDArray[np.float64]:
        """F1 per genre of each resample, [R, G], from decisions [N, G]; NaN if the resample lacks the genre."""
        return np.where(self._support > 0, self._f1(decisions), np.nan)

    def mean_average_precision(self, probabilities: Probabilities) -> NDArray[np.float64]:
        """Mean average precision of each resample, [R], from probabilities [N, G].

        The mean is over the genres that the resample contains. Posters with equal probabilities are one step of the
        precision-recall curve, as in scikit-learn's `average_precision_score`.
        """
        truth = self._labels == 1
        columns = range(truth.shape[1])
        steps = [_Steps.of(probabilities[:, g], truth[:, g]) for g in columns if truth[:, g].any()]
        means = np.zeros(len(self._draws))
        for start in range(0, len(means), _CHUNK):
            inside = slice(start, start + _CHUNK)
            # [N, R]: the rows of posters are contiguous, which makes selecting and summing them fast.
            times = np.ascontiguousarray(self._draws[inside].T[self._franchise], np.int32)
            each = np.array([step.average_precision(times) for step in steps]).reshape(len(steps), -1)
            present = np.isfinite(each)
            means[inside] = np.where(present, each, 0).sum(0) / np.maximum(present.sum(0), 1)
        return means

    def _f1(self, decisions: Decisions) -> NDArray[np.float64]:
        return f1_of_counts(self._counted(decisions * self._labels), self._counted(decisions), self._support)

    def _counted(self, flags: NDArray[np.generic]) -> NDArray[np.float64]:
        """The number of posters of each resample with a flag, [R, G], from flags or probabilities [N, G].

        Numbers are floats, because products of float matrices are faster.
        """
        by_franchise = np.zeros((self._draws.shape[1], flags.shape[1]))
        np.add.at(by_franchise, self._franchise, flags)
        starts = range(0, len(self._draws), _CHUNK)
        return np.concatenate(
            [self._draws[start : start + _CHUNK].astype(np.float64) @ by_franchise for start in starts]
        )


@dataclass(frozen=True)
class _Steps:
    """The steps of one genre's precision-recall curve where recall increases, from the highest probability down.

    `order` are the posters by falling probability, down to the last step, and `starts` the places where steps start in
    it. `positives` and `positive_starts` are the same for the posters that have the genre.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    positives: NDArray[np.int64]
    positive_starts: NDArray[np.int64]

    @classmethod
    def of(cls, probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> "_Steps":
        order = np.argsort(-probabilities, kind="stable")
        ranked = truth[order]
        last = np.append(np.diff(probabilities[order]) != 0, True)
        step = np.append(0, last.cumsum()[:-1])
        ends = np.flatnonzero(last) + 1
        gaining, positive_starts = np.unique(step[ranked], return_index=True)
        ends = ends[gaining]
        return cls(order[: ends[-1]], np.append(0, ends[:-1]), order[ranked], positive_starts)

    def average_precision(self, times: NDArray[np.int32]) -> NDArray[np.float64]:
        """Average precision of each resample, [R], from the count of each poster, [N, R]; NaN without positives."""
        seen = np.add.reduceat(times[self.order], self.starts, axis=0).cumsum(0)
        gained = np.add.reduceat(times[self.positives], self.positive_starts, axis=0)
        found = gained.cumsum(0)
        total = found[-1]
        area: NDArray[np.float64] = (gained * (found / np.maximum(seen, 1))).sum(0)
        return np.where(total > 0, area / np.maximum(total, 1), np.nan)


def intervals(
    predictions: Predictions,
    labels: Labels,
    franchises: NDArray[np.str_],
    seed: int = 0,
) -> Intervals:
    """The figures of one model with their intervals, from labels [N, G] and franchises [N].

    The interval of a genre's F1 is over the resamples that contain the genre. Average precision is biased in resamples
    with few positives, so the interval of mAP may be slightly off-centre.
    """
    bootstrap = Bootstrap(labels, franchises, seed=seed)
    scores = score(predictions.probabilities, predictions.decisions, labels, [""] * labels.shape[1])
    each = bootstrap.genre_f1(predictions.decisions)
    return Intervals(
        weighted_f1=interval(scores.weighted_f1, bootstrap.weighted_f1(predictions.decisions)),
        mean_average_precision=interval(
            scores.mean_average_precision, bootstrap.mean_average_precision(predictions.probabilities)
        ),
        genre_f1=tuple(interval(genre.f1, each[:, g]) for g, genre in enumerate(scores.genres)),
    )


def differences(
    ours: Predictions,
    theirs: Predictions,
    labels: Labels,
    franchises: NDArray[np.str_],
) -> Differences:
    """Our figures minus theirs on the same posters, with paired intervals, from labels [N, G] and franchises [N]."""
    bootstrap = Bootstrap(labels, franchises)
    names = [""] * labels.shape[1]
    our, their = (score(each.probabilities, each.decisions, labels, names) for each in (ours, theirs))
    return Differences(
        weighted_f1=interval(
            our.weighted_f1 - their.weighted_f1,
            bootstrap.weighted_f1(ours.decisions) - bootstrap.weighted_f1(theirs.decisions),
        ),
        mean_average_precision=interval(
            our.mean_average_precision - their.mean_average_precision,
            bootstrap.mean_average_precision(ours.probabilities)
            - bootstrap.mean_average_precision(theirs.probabilities),
        ),
    )


def interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """The percentile interval of a figure from its values in resamples, [R]; NaN values are ignored."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, value, value)
    low, high = np.quantile(known, _QUANTILES)
    return Interval(value, float(low), float(high))
