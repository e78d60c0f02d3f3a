"""Scores of a served model, the other networks and the baselines on the test part of a dataset.

The chosen network is scored through its bundle, so the figures are those of what is served.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.genres import Genre
from ml.data.splits import TEST, TRAIN
from ml.evaluation.baselines import baselines
from ml.evaluation.predictions import NetworkPredictions, PredictionSet
from ml.scores.calibration import GenreCalibration, brier_skill, calibrate, calibrate_genres
from ml.scores.intervals import Differences, Intervals, Predictions, differences, intervals
from ml.scores.metrics import Decisions, Probabilities, Scores, WeightedF1, score, weighted_f1_by_threshold
from ml.training.recipe import RECIPE, TUNED
from serving.bundle.image import decode
from serving.bundle.model import Model

_BLOCK = 64  # posters in memory at a time
ReadPoster = Callable[[str], bytes]
"""Returns the bytes of a title's poster for the title's id."""


@dataclass(frozen=True)
class ModelFigures:
    """All figures of one network on the same posters: `predictions` are [N, G].

    The Brier skill is that of all pairs of a poster and a genre (`ml.scores.calibration`).
    """

    name: str
    predictions: Predictions
    scores: Scores
    by_threshold: WeightedF1
    intervals: Intervals
    calibration_error: float
    brier_skill: float
    genre_calibration: tuple[GenreCalibration, ...]

    def as_dict(self) -> dict[str, object]:
        """The figures as JSON values."""
        return {
            **asdict(self.scores),
            "by_threshold": asdict(self.by_threshold),
            "intervals": asdict(self.intervals),
            "calibration_error": self.calibration_error,
            "brier_skill": self.brier_skill,
            "genre_calibration": [asdict(genre) for genre in self.genre_calibration],
        }


def model_figures(
    network: NetworkPredictions,
    dataset: Dataset,
    rows: NDArray[np.int64],
    base_rates: NDArray[np.float64] | None = None,
) -> ModelFigures:
    """All figures of a network's predictions for these rows [N] of the dataset.

    `base_rates`, [G] or [N, G], are the genres' shares of the posters that networks were trained on; by default, of
    the training part.
    """
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    if base_rates is None:
        base_rates = dataset.labels[dataset.rows(TRAIN)].mean(0)
    probabilities, decisions = network.probabilities, network.decisions
    predictions = Predictions(probabilities, decisions)
    return ModelFigures(
        network.name,
        predictions,
        score(probabilities, decisions, labels, dataset.genre_names),
        weighted_f1_by_threshold(probabilities, labels, network.common_threshold, network.thresholds),
        intervals(predictions, labels, franchises),
        calibrate(probabilities, labels).expected_error,
        brier_skill(probabilities, labels, base_rates),
        calibrate_genres(probabilities, labels, base_rates, dataset.genre_names),
    )


@dataclass(frozen=True)
class Evaluation:
    """Figures of all networks on the test part, the chosen one first; of the baselines; and paired differences.

    `differences` are the chosen network minus each other network, by the other one's name. `opponents` are the
    predictions, by name, of the recipes and baselines that the chosen network has to beat. `probability_difference` is
    the mean one between the served network's probabilities and those that its training stored. Training on a device
    with bfloat16 changes single probabilities by up to 0.05, and their mean difference is below 0.002.
    """

    networks: tuple[ModelFigures, ...]
    baselines: Mapping[str, Scores]
    differences: Mapping[str, Differences]
    opponents: Mapping[str, Predictions]
    probability_difference: float

    @property
    def chosen(self) -> ModelFigures:
        """The figures of the served network."""
        return self.networks[0]

    @property
    def scores(self) -> dict[str, Scores]:
        """Scores by name: the chosen network, the other networks, the baselines."""
        return {network.name: network.scores for network in self.networks} | dict(self.baselines)

    def as_dict(self) -> dict[str, object]:
        """All figures as JSON values."""
        networks = {network.name: network.as_dict() for network in self.networks}
        return {
            TEST: networks | {name: asdict(scores) for name, scores in self.baselines.items()},
            "differences": {name: asdict(each) for name, each in self.differences.items()},
        }

    def metrics(self) -> dict[str, float]:
        """The chosen network's figures by their full names, such as `test/weighted_f1` and `test/f1/Action`."""
        chosen = self.chosen
        metrics = {
            **chosen.scores.scalars(),
            "weighted_f1_at_half": chosen.by_threshold.at_half,
            "weighted_f1_at_common_threshold": chosen.by_threshold.at_common,
            "weighted_f1_low": chosen.intervals.weighted_f1.low,
            "weighted_f1_high": chosen.intervals.weighted_f1.high,
            "calibration_error": chosen.calibration_error,
            "brier_skill": chosen.brier_skill,
        }
        for name, each in self.differences.items():
            metrics[f"weighted_f1_minus/{name}"] = each.weighted_f1.value
            metrics[f"mean_average_precision_minus/{name}"] = each.mean_average_precision.value
        for genre in chosen.scores.genres:
            for figure in ("precision", "recall", "f1", "support"):
                metrics[f"{figure}/{genre.genre}"] = float(getattr(genre, figure))
        for calibration in chosen.genre_calibration:
            metrics[f"calibration_error/{calibration.genre}"] = calibration.calibration_error
            metrics[f"brier_skill/{calibration.genre}"] = calibration.brier_skill
        return {f"{TEST}/{name}": value for name, value in metrics.items()}


def judge(model: Model, predictions: PredictionSet, dataset: Dataset) -> Evaluation:
    """Score the served model, the stored predictions of the other networks and the baselines on the test part."""
    rows = dataset.rows(TEST)
    stored, *others = predictions.networks
    served = NetworkPredictions(stored.name, predict(model, dataset)[0], thresholds(model), stored.common_threshold)
    networks = tuple(model_figures(network, dataset, rows) for network in (served, *others))
    simple = baselines(dataset)
    recipes = {each.name: each.predictions for each in networks[1:] if each.name in (RECIPE, TUNED)}
    return Evaluation(
        networks,
        simple.scores,
        paired_differences(networks, dataset, rows),
        {**recipes, **simple.predictions},
        float(np.abs(served.probabilities - stored.probabilities).mean()),
    )


def paired_differences(
    networks: tuple[ModelFigures, ...], dataset: Dataset, rows: NDArray[np.int64]
) -> dict[str, Differences]:
    """The first network minus each other network on the same rows, by the other one's name."""
    first, *others = networks
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    return {each.name: differences(first.predictions, each.predictions, labels, franchises) for each in others}


def predict(
    model: Model, dataset: Dataset, read_poster: ReadPoster | None = None, rows: NDArray[np.int64] | None = None
) -> tuple[Probabilities, Decisions]:
    """Probabilities and decisions [N, G] for rows [N], by default the test part, in the order of the model's genres.

    A model with another image size than the dataset's needs `read_poster`.
    """
    rows = dataset.rows(TEST) if rows is None else rows
    size = model.manifest.preprocessing.size
    if size == dataset.preprocessing.size:
        blocks = (dataset.images[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
        probabilities = np.concatenate([model.probabilities(block) for block in blocks])
    else:
        assert read_poster is not None
        each = [model.probabilities(decode(read_poster(dataset.ids[row]), size)[None]) for row in rows]
        probabilities = np.concatenate(each)
    return probabilities, probabilities >= thresholds(model)


def thresholds(model: Model) -> NDArray[np.float64]:
    """The model's thresholds, float [G]."""
    return np.array([genre.threshold for genre in model.manifest.genres])


def genres_of(model: Model) -> tuple[Genre, ...]:
    """The model's genres, in its order."""
    return tuple(Genre(genre.id, genre.name) for genre in model.manifest.genres)
