"""Scores of a served model on a part of a dataset, and the baselines beside them.

Everything goes through the bundle as it is served, so what is scored is what users get.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.genres import Genre
from ml.data.splits import PARTS, TEST, TRAIN, VALIDATION
from ml.errors import DatasetError
from ml.evaluation.baselines import colour_histogram, colour_histograms, every_genre, genre_frequencies
from ml.evaluation.model_report import ActivationExamples, Comparison, ModelFigures, ReportData, model_report
from ml.evaluation.predictions import Answer, Answers
from ml.scores.calibration import calibrate
from ml.scores.intervals import Predictions, differences, intervals
from ml.scores.metrics import Decisions, Labels, Probabilities, Scores, score, weighted_f1_by_threshold
from serving.bundle.image import decode
from serving.bundle.model import Model

ReadPoster = Callable[[str], bytes]
"""Gives the bytes of a title's poster by the title's id."""


def predict(
    model: Model, dataset: Dataset, part: str, read_poster: ReadPoster | None = None
) -> tuple[Probabilities, Decisions]:
    """Probabilities and decisions [N, G] of a part's posters, in the order of the model's genres.

    A model of another image size needs `read_poster` to see the same posters in its own size; DatasetError
    where there is none.
    """
    rows = dataset.rows(part)
    size = model.manifest.preprocessing.size
    if size == dataset.preprocessing.size:
        probabilities = model.probabilities(dataset.images[rows])
    elif read_poster is None:
        raise DatasetError(
            f"The model sees posters of {size} x {size} pixels, but the dataset holds them in "
            f"{dataset.preprocessing.size} x {dataset.preprocessing.size}: the poster files are needed."
        )
    else:
        answers = [model.probabilities(decode(read_poster(dataset.ids[row]), size)[None]) for row in rows]
        probabilities = np.concatenate(answers)
    return probabilities, probabilities >= thresholds(model)


def thresholds(model: Model) -> NDArray[np.float64]:
    """The model's thresholds, float [G]."""
    return np.array([genre.threshold for genre in model.manifest.genres])


def genres_of(model: Model) -> tuple[Genre, ...]:
    """The genres that a model knows, in its order."""
    return tuple(Genre(genre.id, genre.name) for genre in model.manifest.genres)


def baselines(dataset: Dataset, seed: int = 0) -> dict[str, Scores]:
    """Scores of what hardly looks at a poster, or not at all, on the test part."""
    rows = dataset.rows(TEST)
    labels, training = dataset.labels[rows], dataset.labels[dataset.rows(TRAIN)]
    known = np.sort(np.concatenate([dataset.rows(TRAIN), dataset.rows(VALIDATION)]))
    coloured = colour_histogram(
        colour_histograms(dataset.images, known),
        dataset.labels[known],
        dataset.franchises[known],
        colour_histograms(dataset.images, rows),
        seed,
    )
    return {
        "every genre": every_genre(labels, dataset.genre_names),
        "genre frequencies": genre_frequencies(labels, training, dataset.genre_names, seed),
        "colour histogram": score(*coloured, labels, dataset.genre_names),
    }


@dataclass(frozen=True)
class Evaluation:
    """The test part's verdict: the chosen network as it is served, the others and the baselines beside it.

    `models` are the chosen one, the other networks, the baselines, in this order; `comparisons` the chosen one minus
    each other network, paired. `predictions` [T, G] are the chosen one's.
    """

    models: tuple[ModelFigures, ...]
    comparisons: tuple[Comparison, ...]
    predictions: Predictions

    @property
    def chosen(self) -> ModelFigures:
        return self.models[0]

    def as_dict(self) -> dict[str, object]:
        """All figures of the test part, ready for JSON."""
        return {
            "test": {
                model.name: {
                    **model.scores.as_dict(),
                    "by_threshold": asdict(model.by_threshold) if model.by_threshold else None,
                    "intervals": asdict(model.intervals) if model.intervals else None,
                    "calibration_error": model.calibration_error,
                }
                for model in self.models
            },
            "differences": {each.opponent: asdict(each.differences) for each in self.comparisons},
        }


def judge(model: Model, answers: Answers, dataset: Dataset) -> Evaluation:
    """Score the served model and the answers of all networks about the test part of their dataset."""
    rows = dataset.rows(TEST)
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    served = Predictions(*predict(model, dataset, TEST))
    first, *others = answers.networks
    models, comparisons = [], []
    for answer, own in (
        (first, served),
        *((answer, Predictions(answer.probabilities, answer.decisions)) for answer in others),
    ):
        models.append(_figures(answer, own, labels, franchises, dataset.genre_names))
        if answer is not first:
            comparisons.append(Comparison(answer.name, differences(served, own, labels, franchises)))
    models += [ModelFigures(name, scores) for name, scores in baselines(dataset).items()]
    return Evaluation(tuple(models), tuple(comparisons), served)


def _figures(
    answer: Answer, own: Predictions, labels: Labels, franchises: NDArray[np.str_], genres: tuple[str, ...]
) -> ModelFigures:
    return ModelFigures(
        answer.name,
        score(own.probabilities, own.decisions, labels, genres),
        weighted_f1_by_threshold(own.probabilities, labels, answer.common_threshold, answer.thresholds),
        intervals(own, labels, franchises),
        calibrate(own.probabilities, labels).expected_error,
    )


def report_page(evaluation: Evaluation, answers: Answers, dataset: Dataset) -> str:
    """The page about a training and its test, with posters of the dataset in it."""
    rows, maps = dataset.rows(TEST), answers.activations
    parts = ", ".join(f"{len(dataset.rows(part)):,} {part}" for part in PARTS)
    activations = ActivationExamples(
        tuple(dataset.titles[row] for row in maps.rows),
        dataset.images[maps.rows],
        tuple(dataset.genre_names[genre] for genre in maps.genres),
        maps.probabilities,
        maps.maps,
    )
    data = ReportData(
        title="Genres of an anime from its poster",
        chosen=evaluation.chosen.name,
        facts=(
            ("posters", f"{len(dataset.ids):,}"),
            ("parts", parts),
            ("genres", str(len(dataset.genres))),
            ("franchises", f"{len(set(dataset.franchises.tolist())):,}"),
            ("dataset", dataset.key[:12]),
        ),
        models=evaluation.models,
        comparisons=evaluation.comparisons,
        leaks=answers.leaks,
        genres=dataset.genre_names,
        labels=dataset.labels[rows],
        predictions=evaluation.predictions,
        titles=tuple(dataset.titles[row] for row in rows),
        posters=dataset.images.only(rows),
        activations=activations if len(maps.rows) else None,
    )
    return model_report(data)
