"""What a trained model does well and what it does not: one HTML page on its own.

    page = model_report(ReportData(title="Genres from posters", models=(...), chosen="transfer", ...))

The page says the same for the same input, byte for byte, and loads nothing from anywhere: its styles, curves and
pictures are inside it. What is not given has no section. Its markup is in model_report.html.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.data.shards import Rows
from ml.errors import needs_package
from ml.evaluation.curves import poster_address, precision_recall_points, svg_path
from ml.evaluation.leaks import Leak
from ml.networks.activation import overlay
from ml.poster_sheet import POSTER_SHAPE
from ml.scores.calibration import calibrate
from ml.scores.intervals import Differences, Interval, Intervals, Predictions
from ml.scores.metrics import Labels, Scores, WeightedF1, average_precision, errors_together, poster_f1

if TYPE_CHECKING:
    from jinja2 import Template

_EXAMPLES = 12
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class ModelFigures:
    """A line of the table of models. `scores` are at a model's own thresholds; the rest where it is known."""

    name: str
    scores: Scores
    by_threshold: WeightedF1 | None = None
    intervals: Intervals | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The chosen model minus an opponent, on the same posters."""

    opponent: str
    differences: Differences


@dataclass(frozen=True)
class ActivationExamples:
    """Posters, uint8 [M, 3, S, S], with maps, float [M, h, w] from 0 to 1, of a genre each and its probability, [M]."""

    titles: tuple[str, ...]
    posters: NDArray[np.uint8]
    genres: tuple[str, ...]
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class ReportData:
    """All that the page shows.

    `facts` are words and figures for its head, such as ("posters", "1,045"). `chosen` is the name of one of the
    `models`. `labels` [N, G] and `predictions` [N, G] are those of the chosen model for the posters that it is
    scored on; `titles` [N] and `posters`, uint8 [N, 3, S, S], are of the same ones, and of the posters only those
    that are shown are read, so that a memory map does.
    """

    title: str
    chosen: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    models: tuple[ModelFigures, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    leaks: tuple[Leak, ...] = ()
    genres: tuple[str, ...] = ()
    labels: Labels | None = None
    predictions: Predictions | None = None
    titles: tuple[str, ...] = ()
    posters: NDArray[np.uint8] | Rows | None = None
    activations: ActivationExamples | None = None


class GenreBar(NamedTuple):
    """A genre's F1, its interval where it is known, and the F1 of predicting it for every poster."""

    genre: str
    posters: int
    f1: float
    interval: Interval | None
    every: float


class Curve(NamedTuple):
    """A genre's precision-recall curve as an SVG path, and the area under it."""

    genre: str
    posters: int
    average_precision: float
    frequency: float
    path: str


class Reliability(NamedTuple):
    """The calibration error, the reliability curve as an SVG path, and its points: probability, share and pairs."""

    expected_error: float
    path: str
    points: list[tuple[float, float, int]]


class ErrorRow(NamedTuple):
    """Where a genre was missed: how often, and the share in which each genre was predicted wrongly; None for itself."""

    genre: str
    misses: int
    shares: list[float | None]


class Example(NamedTuple):
    """A poster as a data: address, with its genres that were found and missed and those predicted wrongly."""

    title: str
    picture: str
    found: list[str]
    missed: list[str]
    wrong: list[str]


class Activation(NamedTuple):
    """A poster and where it speaks for a genre, both as data: addresses."""

    title: str
    genre: str
    probability: float
    picture: str
    map: str


def model_report(data: ReportData) -> str:
    """The page; raises MissingPackageError where jinja2 is not installed."""
    answers = (data.predictions, data.labels) if data.predictions and data.labels is not None else None
    chosen = next((model for model in data.models if model.name == data.chosen), None)
    best, worst = _examples(data, *answers) if answers else ([], [])
    return _template().render(
        data=data,
        chosen=chosen,
        bars=_bars(chosen),
        curves=_curves(data.genres, *answers) if answers else [],
        calibration=_reliability(*answers) if answers else None,
        errors=_errors(data.genres, *answers) if answers else [],
        any_poster=_wrong_shares(*answers) if answers else [],
        examples=[("The best", best), ("The worst", worst)] if best or worst else [],
        activations=_activations(data.activations),
        width=POSTER_SHAPE[0],
        height=POSTER_SHAPE[1],
    )


def _bars(chosen: ModelFigures | None) -> list[GenreBar]:
    """The genres with the most posters first."""
    if chosen is None:
        return []
    genres = chosen.scores.genres
    own = chosen.intervals.genre_f1 if chosen.intervals else [None] * len(genres)
    posters = chosen.scores.posters
    bars = [
        GenreBar(genre.genre, genre.support, genre.f1, interval, 2 * genre.support / max(posters + genre.support, 1))
        for genre, interval in zip(genres, own, strict=True)
    ]
    return sorted(bars, key=lambda bar: -bar.posters)


def _curves(genres: Sequence[str], predictions: Predictions, labels: Labels) -> list[Curve]:
    curves = []
    for g in np.argsort(-labels.sum(0, dtype=np.int64), kind="stable").tolist():
        own, truth = predictions.probabilities[:, g], labels[:, g]
        if truth.any():
            path = svg_path(precision_recall_points(own, truth))
            curves.append(Curve(genres[g], int(truth.sum()), average_precision(own, truth), float(truth.mean()), path))
    return curves


def _reliability(predictions: Predictions, labels: Labels) -> Reliability:
    it = calibrate(predictions.probabilities, labels)
    points = list(zip(it.mean_probability.tolist(), it.observed_share.tolist(), it.count.tolist(), strict=True))
    return Reliability(it.expected_error, svg_path(np.stack([it.mean_probability, it.observed_share], axis=1)), points)


def _errors(genres: Sequence[str], predictions: Predictions, labels: Labels) -> list[ErrorRow]:
    misses, shares = errors_together(predictions.decisions, labels)
    rows: list[list[float | None]] = shares.tolist()
    for g, row in enumerate(rows):
        row[g] = None
    return [ErrorRow(name, int(count), row) for name, count, row in zip(genres, misses, rows, strict=True)]


def _wrong_shares(predictions: Predictions, labels: Labels) -> list[float]:
    """The share of all posters that get each genre although they do not have it, [G]."""
    shares: list[float] = (predictions.decisions & (labels == 0)).mean(0).tolist()
    return shares


def _examples(data: ReportData, predictions: Predictions, labels: Labels) -> tuple[list[Example], list[Example]]:
    """The posters that were answered best and worst: by their F1, and by their log loss where that is the same."""
    if data.posters is None:
        return [], []
    odds = np.clip(predictions.probabilities.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    loss = -np.where(labels == 1, np.log(odds), np.log(1 - odds)).mean(1)
    order = np.lexsort((loss, -poster_f1(predictions.decisions, labels))).tolist()
    count = min(_EXAMPLES, len(order) // 2)

    def example(row: int) -> Example:
        decided, has = predictions.decisions[row], labels[row] == 1
        # Of each kind the most probable first.
        by_probability = np.argsort(-predictions.probabilities[row], kind="stable").tolist()
        assert data.posters is not None
        return Example(
            title=data.titles[row] if data.titles else "",
            picture=poster_address(np.asarray(data.posters[row])),
            found=[data.genres[g] for g in by_probability if decided[g] and has[g]],
            missed=[data.genres[g] for g in by_probability if has[g] and not decided[g]],
            wrong=[data.genres[g] for g in by_probability if decided[g] and not has[g]],
        )

    return [example(row) for row in order[:count]], [example(row) for row in order[::-1][:count]]


def _activations(examples: ActivationExamples | None) -> list[Activation]:
    if examples is None:
        return []
    overlays = overlay(examples.posters, examples.maps)
    return [
        Activation(title, genre, float(probability), poster_address(poster), poster_address(over))
        for title, genre, probability, poster, over in zip(
            examples.titles, examples.genres, examples.probabilities, examples.posters, overlays, strict=True
        )
    ]


@cache
def _template() -> "Template":
    with needs_package("The report on a model"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number="{:,}".format, figure="{:.3f}".format, difference=_difference, percent=_percent)
    return environment.get_template("model_report.html")


def _difference(value: float) -> str:
    """A figure with its sign; minus is as wide as plus."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _percent(share: float) -> str:
    """A share (0 to 1) in whole percent, without the sign."""
    return f"{100 * share:.0f}"
