"""The report about a trained model as one HTML page: figures, curves, errors, example posters and activation maps.

The same input gives the same bytes. The page loads nothing: styles, curves and pictures are inside it. Its markup is
in model_report.html.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.splits import PARTS, TEST
from ml.evaluation.curves import poster_address, precision_recall_points, svg_path
from ml.evaluation.judge import Evaluation, ModelFigures
from ml.evaluation.predictions import ActivationExamples, PredictionSet
from ml.evaluation.scoreboard import ENOUGH_TITLES, Scoreboard
from ml.poster_sheet import POSTER_SHAPE
from ml.scores.calibration import calibrate
from ml.scores.intervals import Interval, Predictions
from ml.scores.metrics import Labels, Scores, WeightedF1, average_precision, errors_together, poster_f1
from serving.bundle.heatmap import data_url, heatmap

if TYPE_CHECKING:
    from jinja2 import Template

_TITLE = "Genres of an anime from its poster"
_EXAMPLES = 12
_BROKEN = 20  # posters
_LEAST_PROBABILITY = 1e-6


class Row(NamedTuple):
    """A row of the table of models; None for figures that a baseline does not have."""

    name: str
    scores: Scores
    weighted_f1_interval: Interval | None = None
    mean_average_precision_interval: Interval | None = None
    by_threshold: WeightedF1 | None = None
    calibration_error: float | None = None
    brier_skill: float | None = None


class GenreBar(NamedTuple):
    """A genre's F1 with its interval, and the F1 of predicting the genre for every poster."""

    genre: str
    posters: int
    f1: float
    interval: Interval
    every: float


class Curve(NamedTuple):
    """A genre's precision-recall curve as an SVG path, and its average precision."""

    genre: str
    posters: int
    average_precision: float
    frequency: float
    path: str


class LaterTitles(NamedTuple):
    """A live model on later titles: its scoreboard, and the realised and the promised micro F1 as SVG paths by time."""

    name: str
    board: Scoreboard
    path: str
    promised: str
    points: list[tuple[float, float, int]]


class Reliability(NamedTuple):
    """The calibration error, the reliability curve as an SVG path, and its points: probability, share and pairs."""

    expected_error: float
    path: str
    points: list[tuple[float, float, int]]


class ErrorRow(NamedTuple):
    """How often a genre was missed, and the share of these posters for which each other genre was predicted wrongly.

    The share of the genre itself is None.
    """

    genre: str
    misses: int
    shares: list[float | None]


class Example(NamedTuple):
    """A poster as a data: address, with correctly predicted, missed and wrongly predicted genres."""

    title: str
    picture: str
    found: list[str]
    missed: list[str]
    wrong: list[str]


class Activation(NamedTuple):
    """A poster and the class activation map of one genre, both as data: addresses."""

    title: str
    genre: str
    probability: float
    picture: str
    map: str


def model_report(
    evaluation: Evaluation,
    predictions: PredictionSet,
    dataset: Dataset,
    left_out: Mapping[str, int] | None = None,
    notices: Sequence[str] = (),
    later: Mapping[str, Scoreboard] | None = None,
) -> str:
    """The report as HTML. Of the posters, only those that are shown are read.

    `left_out` gives the number of titles that are not in the dataset, by reason. `notices` are sentences about the
    dataset's parts. `later` are the scoreboards of the live model and its predecessors, by name.
    """
    rows, chosen = dataset.rows(TEST), evaluation.chosen
    labels, served = dataset.labels[rows], chosen.predictions
    best, worst = _examples(served, dataset, rows)
    return _template().render(
        title=_TITLE,
        facts=_facts(dataset),
        chosen=chosen.name,
        models=_models(evaluation),
        differences=evaluation.differences,
        leaks=predictions.leaks,
        notices=list(notices),
        left_out=dict(left_out or {}),
        broken=list(dataset.broken.items())[:_BROKEN],
        all_broken=len(dataset.broken),
        genres=dataset.genre_names,
        bars=_bars(chosen),
        curves=_curves(dataset.genre_names, served, labels),
        calibration=_reliability(served, labels),
        genre_calibration=sorted(chosen.genre_calibration, key=lambda genre: -genre.observed_share),
        brier_skill=chosen.brier_skill,
        later=[_later_titles(name, board) for name, board in (later or {}).items()],
        enough_titles=ENOUGH_TITLES,
        errors=_errors(dataset.genre_names, served, labels),
        any_poster=(served.decisions & (labels == 0)).mean(0).tolist(),
        examples=[("Best predictions", best), ("Worst predictions", worst)],
        activations=_activations(predictions.activations, dataset),
        width=POSTER_SHAPE[0],
        height=POSTER_SHAPE[1],
    )


def _facts(dataset: Dataset) -> list[tuple[str, str]]:
    return [
        ("posters", f"{len(dataset.ids):,}"),
        ("parts", ", ".join(f"{len(dataset.rows(part)):,} {part}" for part in PARTS)),
        ("genres", str(len(dataset.genres))),
        ("franchises", f"{len(set(dataset.franchises.tolist())):,}"),
        ("dataset", dataset.key[:12]),
        *([("left out of the test part", f"{dataset.suspects:,} possible siblings")] if dataset.suspects else []),
    ]


def _models(evaluation: Evaluation) -> list[Row]:
    networks = [
        Row(
            network.name,
            network.scores,
            network.intervals.weighted_f1,
            network.intervals.mean_average_precision,
            network.by_threshold,
            network.calibration_error,
            network.brier_skill,
        )
        for network in evaluation.networks
    ]
    return networks + [Row(name, scores) for name, scores in evaluation.baselines.items()]


def _bars(chosen: ModelFigures) -> list[GenreBar]:
    """One bar per genre, genres with the most posters first."""
    posters = chosen.scores.posters
    bars = [
        GenreBar(genre.genre, genre.support, genre.f1, interval, 2 * genre.support / max(posters + genre.support, 1))
        for genre, interval in zip(chosen.scores.genres, chosen.intervals.genre_f1, strict=True)
    ]
    return sorted(bars, key=lambda bar: -bar.posters)


def _curves(genres: Sequence[str], predictions: Predictions, labels: Labels) -> list[Curve]:
    curves = []
    for g in np.argsort(-labels.sum(0, dtype=np.int64), kind="stable").tolist():
        probabilities, truth = predictions.probabilities[:, g], labels[:, g]
        if truth.any():
            path = svg_path(precision_recall_points(probabilities, truth))
            precision = average_precision(probabilities, truth)
            curves.append(Curve(genres[g], int(truth.sum()), precision, float(truth.mean()), path))
    return curves


def _reliability(predictions: Predictions, labels: Labels) -> Reliability:
    result = calibrate(predictions.probabilities, labels)
    curve = np.stack([result.mean_probability, result.observed_share], axis=1)
    points = [(x, y, n) for (x, y), n in zip(curve.tolist(), result.count.tolist(), strict=True)]
    return Reliability(result.expected_error, svg_path(curve), points)


def _later_titles(name: str, board: Scoreboard) -> LaterTitles:
    places = np.linspace(0, 1, len(board.periods)) if len(board.periods) > 1 else np.full(len(board.periods), 0.5)
    realised, promised = (
        np.stack([places, [getattr(period, figure) for period in board.periods]], axis=1)
        for figure in ("micro_f1", "promised_micro_f1")
    )
    points = [(x, y, period.titles) for (x, y), period in zip(realised.tolist(), board.periods, strict=True)]
    return LaterTitles(name, board, svg_path(realised), svg_path(promised), points)


def _errors(genres: Sequence[str], predictions: Predictions, labels: Labels) -> list[ErrorRow]:
    misses, both = errors_together(predictions.decisions, labels)
    shares = both / np.maximum(misses, 1)[:, None]
    rows: list[list[float | None]] = shares.tolist()
    for g, row in enumerate(rows):
        row[g] = None
    return [ErrorRow(name, int(count), row) for name, count, row in zip(genres, misses, rows, strict=True)]


def _examples(
    predictions: Predictions, dataset: Dataset, rows: NDArray[np.int64]
) -> tuple[list[Example], list[Example]]:
    """The posters with the best and the worst predictions, by F1 and then by log loss."""
    labels = dataset.labels[rows]
    clipped = np.clip(predictions.probabilities.astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    loss = -np.where(labels == 1, np.log(clipped), np.log(1 - clipped)).mean(1)
    order = np.lexsort((loss, -poster_f1(predictions.decisions, labels))).tolist()
    count = min(_EXAMPLES, len(order) // 2)

    def example(place: int) -> Example:
        decided, has = predictions.decisions[place], labels[place] == 1
        by_probability = np.argsort(-predictions.probabilities[place], kind="stable").tolist()
        names = dataset.genre_names
        return Example(
            title=dataset.titles[rows[place]],
            picture=poster_address(dataset.images[rows[place]]),
            found=[names[g] for g in by_probability if decided[g] and has[g]],
            missed=[names[g] for g in by_probability if has[g] and not decided[g]],
            wrong=[names[g] for g in by_probability if decided[g] and not has[g]],
        )

    return [example(place) for place in order[:count]], [example(place) for place in order[::-1][:count]]


def _activations(examples: ActivationExamples, dataset: Dataset) -> list[Activation]:
    return [
        Activation(
            dataset.titles[row],
            dataset.genre_names[genre],
            float(probability),
            poster_address(dataset.images[row]),
            data_url(heatmap(places, dataset.preprocessing.size)),
        )
        for row, genre, probability, places in zip(
            examples.rows.tolist(), examples.genres.tolist(), examples.probabilities, examples.maps, strict=True
        )
    ]


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number="{:,}".format, figure="{:.3f}".format, difference=_signed, percent=_percent)
    return environment.get_template("model_report.html")


def _signed(value: float) -> str:
    """A figure with its sign, with a minus sign as wide as the plus sign."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _percent(share: float) -> str:
    """A share (0 to 1) in whole percent, without the percent sign."""
    return f"{100 * share:.0f}"
