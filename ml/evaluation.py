"""Scores of a served model on a part of a dataset, and the baselines beside them.

Everything goes through the bundle as it is served, so what is scored is what users get.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ml.baselines import every_genre, genre_frequencies
from ml.dataset import Dataset
from ml.errors import DatasetError
from ml.genres import Genre
from ml.metrics import Decisions, Probabilities, Scores, score
from ml.splits import TEST, TRAIN
from serving.function.image import decode
from serving.function.model import Model

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


def evaluate(model: Model, dataset: Dataset, part: str = TEST) -> Scores:
    """Score a model that was trained on this dataset on one of its parts."""
    probabilities, decisions = predict(model, dataset, part)
    return score(probabilities, decisions, dataset.labels[dataset.rows(part)], dataset.genre_names)


def baselines(dataset: Dataset, part: str = TEST, seed: int = 0) -> dict[str, Scores]:
    """Scores of what needs no poster, on the same part."""
    labels, training = dataset.labels[dataset.rows(part)], dataset.labels[dataset.rows(TRAIN)]
    return {
        "every genre": every_genre(labels, dataset.genre_names),
        "genre frequencies": genre_frequencies(labels, training, dataset.genre_names, seed),
    }
