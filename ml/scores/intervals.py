"""How sure a score is: 95 % intervals by the bootstrap over franchises, for one model and for the difference of two.

The percentile interval of Efron and Tibshirani 1993 (An Introduction to the Bootstrap, chapter 13). Whole franchises
are drawn, with replacement, because posters of one franchise are not independent of each other. The same seed draws
the same franchises, so that two models are compared pair by pair and figures of several calls belong together.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.metrics import Decisions, Labels, Probabilities, f1, score

RESAMPLES = 2000
_QUANTILES = (0.025, 0.975)
# Resamples that are worked on at a time: what is counted for them stays in a core's cache.
_CHUNK = 128


@dataclass(frozen=True)
class Predictions:
    """What a model says of posters: probabilities, float32 [N, G], and decisions, bool [N, G]."""

    probabilities: Probabilities
    decisions: Decisions


@dataclass(frozen=True)
class Interval:
    """A figure on the posters as they are, and the 2.5 and 97.5 percentiles of it over resampled franchises."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """The figures of one model; `genre_f1` has an interval a genre."""

    weighted_f1: Interval
    mean_average_precision: Interval
    genre_f1: tuple[Interval, ...]


@dataclass(frozen=True)
class Differences:
    """One model minus another on the same posters."""

    weighted_f1: Interval
    mean_average_precision: Interval


class Bootstrap:
    """Resamples of whole franchises of posters with labels [N, G] and franchises [N]."""

    def __init__(self, labels: Labels, franchises: NDArray[np.str_], resamples: int = RESAMPLES, seed: int = 0) -> None:
        names, self._franchise = np.unique(franchises, return_inverse=True)
        generator = np.random.default_rng(seed)
        # How often each franchise is in each resample, [R, K].
        self._draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        self._labels = labels
        self._truth = labels == 1
        self._support = self._counted(self._truth)

    def weighted_f1(self, decisions: Decisions) -> NDArray[np.float64]:
        """Weighted F1 in each resample, [R], from decisions [N, G]."""
        weights = self._support / np.maximum(self._support.sum(1, keepdims=True), 1)
        weighted: NDArray[np.float64] = (self._f1(decisions) * weights).sum(1)
        return weighted

    def genre_f1(self, decisions: Decisions) -> NDArray[np.float64]:
        """F1 of each genre in each resample, [R, G], from decisions [N, G]; no number where no poster has it."""
        return np.where(self._support > 0, self._f1(decisions), np.nan)

    def mean_average_precision(self, probabilities: Probabilities) -> NDArray[np.float64]:
        """Mean over genres of average precision in each resample, [R], from probabilities [N, G].

        A genre that no poster of a resample has is left out of its mean. As `average_precision` of the posters
        that were drawn, each as often as it was: those of one probability are one step of the curve.
        """
        columns = range(self._labels.shape[1])
        steps = [_Steps.of(probabilities[:, g], self._truth[:, g]) for g in columns if self._truth[:, g].any()]
        means = np.zeros(len(self._draws))
        for start in range(0, len(means), _CHUNK):
            inside = slice(start, start + _CHUNK)
            # Posters first: a poster's row is copied at once, and sums run along rows.
            times = np.ascontiguousarray(self._draws[inside].T[self._franchise], np.int32)
            each = np.array([step.average_precision(times) for step in steps]).reshape(len(steps), -1)
            there = np.isfinite(each)
            means[inside] = np.where(there, each, 0).sum(0) / np.maximum(there.sum(0), 1)
        return means

    def _f1(self, decisions: Decisions) -> NDArray[np.float64]:
        return f1(self._counted(decisions & self._truth), self._counted(decisions), self._support)

    def _counted(self, of_posters: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Whole numbers [R, G] of what is true of posters, [N, G]; as floats, whose matrix product is the fast one."""
        by_franchise = np.zeros((self._draws.shape[1], of_posters.shape[1]))
        np.add.at(by_franchise, self._franchise, of_posters)
        return self._draws.astype(np.float64) @ by_franchise


@dataclass(frozen=True)
class _Steps:
    """The steps of one genre's precision-recall curve that gain something, from the highest probability on.

    `order` are rows of posters by falling probability, down to the last step; `starts` are the places in it after
    the steps before. `positives` are the rows of posters that have the genre, `positive_starts` the same of them.
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
        own = step[ranked]
        gaining, positive_starts = np.unique(own, return_index=True)
        ends = ends[gaining]
        return cls(order[: ends[-1]], np.append(0, ends[:-1]), order[ranked], positive_starts)

    def average_precision(self, times: NDArray[np.int32]) -> NDArray[np.float64]:
        """For each resample, [R], from how often each poster is in it, [N, R]; no number where no positive is."""
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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """The figures of one model with their intervals; labels [N, G], franchises [N].

    The interval of a genre's F1 is over the resamples that have the genre. Average precision is biased in
    resamples of few positives, so an interval of mAP may stand a little off its figure.
    """
    bootstrap = Bootstrap(labels, franchises, resamples, seed)
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
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Differences:
    """Ours minus theirs on the same posters, with paired intervals; labels [N, G], franchises [N]."""
    bootstrap = Bootstrap(labels, franchises, resamples, seed)
    names = [""] * labels.shape[1]
    own, other = (score(each.probabilities, each.decisions, labels, names) for each in (ours, theirs))
    return Differences(
        weighted_f1=interval(
            own.weighted_f1 - other.weighted_f1,
            bootstrap.weighted_f1(ours.decisions) - bootstrap.weighted_f1(theirs.decisions),
        ),
        mean_average_precision=interval(
            own.mean_average_precision - other.mean_average_precision,
            bootstrap.mean_average_precision(ours.probabilities)
            - bootstrap.mean_average_precision(theirs.probabilities),
        ),
    )


def interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """The percentile interval of a figure from what it is in each resample, [R]; resamples without it are left out."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Interval(value, value, value)
    low, high = np.quantile(known, _QUANTILES)
    return Interval(value, float(low), float(high))
