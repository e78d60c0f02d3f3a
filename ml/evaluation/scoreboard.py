"""How a live model does on titles that came after its training, beside what its own probabilities promised.

A calibrated probability p is the chance that a poster has a genre. So the sum of p over the predicted pairs of a poster
and a genre is how many of them should be right, and the sum over all pairs is how many genres the posters should have.
With these expected counts in place of the real ones, precision, recall and F1 are what the model promises (Kivimäki,
Białek, Kuberski and Nurminen 2025, Performance Estimation in Binary Classification Using Calibrated Confidence,
arXiv 2505.05295).

The pairs of all genres are counted together (micro averages), because there may be few titles: an F1 per genre, and so
weighted F1, is biased if a genre has only a handful of posters.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ml.scores.intervals import Bootstrap, Interval, Predictions, interval
from ml.scores.metrics import Labels, Probabilities, f1_of_counts

ENOUGH_TITLES = 30
"""With fewer titles, nothing is said about a model: the interval would not be reliable."""


@dataclass(frozen=True)
class Outcome:
    """What a model got right on titles that first aired from the day `first` to the day `last`, and what it promised.

    `difference` is the realised micro F1 minus the promised one.
    """

    first: str
    last: str
    titles: int
    precision: float
    promised_precision: float
    recall: float
    promised_recall: float
    micro_f1: float
    promised_micro_f1: float
    difference: Interval

    @property
    def sentence(self) -> str:
        """The figures in words."""
        low, high = self.difference.low, self.difference.high
        verdict = "worse than" if high < 0 else "better than" if low > 0 else "as"
        return (
            f"It does {verdict} it promised: micro F1 {self.micro_f1:.3f}, promised {self.promised_micro_f1:.3f} "
            f"(difference {self.difference.value:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})."
        )


@dataclass(frozen=True)
class Scoreboard:
    """A model's outcome on `titles` titles, and by the quarters in which they first aired, oldest first.

    With fewer than ENOUGH_TITLES titles, there is no outcome. Quarters are joined until they have as many.
    """

    titles: int
    overall: Outcome | None
    periods: tuple[Outcome, ...] = ()

    def metrics(self) -> dict[str, float]:
        """The figures by their names after `later/`, such as `micro_f1`."""
        metrics = {"titles": float(self.titles)}
        if self.overall:
            for name in ("precision", "recall", "micro_f1"):
                metrics |= {each: getattr(self.overall, each) for each in (name, f"promised_{name}")}
            difference = self.overall.difference
            metrics["micro_f1_minus_promised"] = difference.value
            metrics["micro_f1_minus_promised_low"] = difference.low
            metrics["micro_f1_minus_promised_high"] = difference.high
        return metrics


def score_later_titles(
    predictions: Predictions, labels: Labels, franchises: NDArray[np.str_], aired: NDArray[np.str_]
) -> Scoreboard:
    """Compare a model's predictions [N, G] with labels [N, G] and with what its probabilities promised.

    Args:
        predictions: those of the model as it was served.
        labels: the genres that the titles turned out to have.
        franchises: the franchise of each title, [N]. Intervals are by the bootstrap over them.
        aired: the ISO date of each title's first airing, [N].
    """
    if len(labels) < ENOUGH_TITLES:
        return Scoreboard(len(labels), None)

    def outcome(rows: NDArray[np.int64]) -> Outcome:
        part = Predictions(predictions.probabilities[rows], predictions.decisions[rows])
        return _outcome(part, labels[rows], franchises[rows], aired[rows])

    periods = tuple(map(outcome, _periods(aired)))
    overall = periods[0] if len(periods) == 1 else outcome(np.arange(len(labels)))
    return Scoreboard(len(labels), overall, periods)


def _outcome(
    predictions: Predictions, labels: Labels, franchises: NDArray[np.str_], aired: NDArray[np.str_]
) -> Outcome:
    decisions = predictions.decisions
    precision, recall, f1 = _micro(decisions, labels)
    promised_precision, promised_recall, promised_f1 = _micro(decisions, predictions.probabilities)
    # Equal seeds draw equal franchises.
    realised = Bootstrap(labels, franchises).micro_f1(decisions)
    promised = Bootstrap(predictions.probabilities, franchises).micro_f1(decisions)
    return Outcome(
        first=min(aired.tolist()),
        last=max(aired.tolist()),
        titles=len(labels),
        precision=precision,
        promised_precision=promised_precision,
        recall=recall,
        promised_recall=promised_recall,
        micro_f1=f1,
        promised_micro_f1=promised_f1,
        difference=interval(f1 - promised_f1, realised - promised),
    )


def _micro(decisions: NDArray[np.bool_], truth: Labels | Probabilities) -> tuple[float, float, float]:
    """Precision, recall and F1 over all pairs; `truth` are labels, or probabilities for expected counts."""
    right, predicted, present = (each.sum(dtype=np.float64) for each in (decisions * truth, decisions, truth))
    f1 = f1_of_counts(right, predicted, present)
    return float(right / max(predicted, 1)), float(right / max(present, 1)), float(f1)


def _periods(aired: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """The rows of each period, oldest first: quarters, joined until they have enough titles.

    The last quarters join the period before them if they are too few.
    """
    order = np.argsort(aired, kind="stable")
    periods: list[list[int]] = [[]]
    for _, quarter in groupby(order.tolist(), lambda row: (aired[row][:4], (int(aired[row][5:7]) - 1) // 3)):
        if len(periods[-1]) >= ENOUGH_TITLES:
            periods.append([])
        periods[-1] += quarter
    if len(periods) > 1 and len(periods[-1]) < ENOUGH_TITLES:
        last = periods.pop()
        periods[-1] += last
    return [np.array(rows, np.int64) for rows in periods]
