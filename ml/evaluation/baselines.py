"""Baselines that ignore the poster or use only its colours: what a model has to beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier

from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.data.shards import Rows
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.networks.kernel import fit_curves
from ml.scores.metrics import GenreScores, Labels, Probabilities, Scores, score
from ml.scores.thresholds import fit_thresholds
from ml.training.frozen import KERNEL_FIRST, FrozenSearch, head_probabilities

EVERY_GENRE = "every genre"
_DRAWS = 100
_LEVELS = 4
_PIXEL_STEP = 4
_PRIOR_SIBLINGS = 0.2


def baselines(dataset: Dataset, seed: int = 0) -> dict[str, Scores]:
    """Scores of all baselines on the test part, by name."""
    test, training = dataset.rows(TEST), dataset.labels[dataset.rows(TRAIN)]
    labels, genres = dataset.labels[test], dataset.genre_names
    return {
        EVERY_GENRE: every_genre(labels, genres),
        "genre frequencies": genre_frequencies(labels, training, genres, seed),
        "colour histogram": colour_histogram(dataset, seed),
    }


def every_genre(labels: Labels, genres: tuple[str, ...]) -> Scores:
    """Scores of predicting every genre for every poster; labels [N, G]."""
    return score(np.ones(labels.shape, np.float32), np.ones(labels.shape, np.bool_), labels, genres)


def genre_frequencies(labels: Labels, training: Labels, genres: tuple[str, ...], seed: int) -> Scores:
    """Mean scores of 100 random predictions that draw each genre with its frequency in the training labels.

    `labels` are [N, G], `training` [T, G].
    """
    # DummyClassifier ignores the features. With a RandomState, unlike an integer seed, each call draws other values.
    random = DummyClassifier(strategy="stratified", random_state=np.random.RandomState(seed))
    random.fit(np.zeros((len(training), 1)), training)
    posters = np.zeros((len(labels), 1))
    # All posters have the same probability of a genre, so none of them ranks above another.
    constant = np.broadcast_to(training.mean(0), labels.shape)
    return _mean([score(constant, random.predict(posters) == 1, labels, genres) for _ in range(_DRAWS)])


def colour_histogram(dataset: Dataset, seed: int) -> Scores:
    """Scores of a kernel head on colour histograms, fitted on the training and validation parts."""
    known = np.sort(np.concatenate([dataset.rows(TRAIN), dataset.rows(VALIDATION)]))
    test, labels = dataset.rows(TEST), dataset.labels[known]
    histograms = FeatureTable(colour_histograms(dataset.images, known))
    search = FrozenSearch(histograms, labels, dataset.franchises[known], seed)
    estimates = search.estimates(KERNEL_FIRST)
    curves = fit_curves(estimates, labels)
    thresholds = fit_thresholds(curves.probabilities(estimates), labels)
    head = search.head(KERNEL_FIRST, curves)
    probabilities = head_probabilities(head, FeatureTable(colour_histograms(dataset.images, test)))
    return score(probabilities, probabilities >= thresholds, dataset.labels[test], dataset.genre_names)


def colour_histograms(images: Rows, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Square roots of the shares of 64 colours (4 levels per channel) in these rows of the images, float32 [n, 64].

    Only every fourth line and column is counted. Square roots raise the weight of the many small shares (Hellinger
    distance).
    """
    histograms = np.empty((len(rows), _LEVELS**3), np.float32)
    for place, row in enumerate(rows.tolist()):
        levels = images[row][:, ::_PIXEL_STEP, ::_PIXEL_STEP].astype(np.int64) * _LEVELS // 256
        colours = (levels[0] * _LEVELS + levels[1]) * _LEVELS + levels[2]
        histograms[place] = np.bincount(colours.ravel(), minlength=_LEVELS**3) / colours.size
    return np.sqrt(histograms)


def sibling_copy(labels: Labels, franchises: NDArray[np.str_], folds: NDArray[np.int64]) -> Probabilities:
    """For each poster and genre, the share of its siblings in the other folds that have the genre, float32 [N, G].

    Posters with few or no siblings in other folds get the genre frequencies. No pixel is read.
    """
    names, franchise = np.unique(franchises, return_inverse=True)
    probabilities = np.empty(labels.shape, np.float32)
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        counts = np.zeros((len(names), labels.shape[1] + 1))
        np.add.at(counts, franchise[outside], np.column_stack([labels[outside], np.ones(outside.sum())]))
        siblings = counts[franchise[inside]]
        prior = _PRIOR_SIBLINGS * labels[outside].mean(0)
        probabilities[inside] = (siblings[:, :-1] + prior) / (siblings[:, -1:] + _PRIOR_SIBLINGS)
    return probabilities


def _mean(scores: Sequence[Scores]) -> Scores:
    first = scores[0]
    means = {name: float(np.mean([each.scalars()[name] for each in scores])) for name in first.scalars()}
    return Scores(
        **means,
        posters=first.posters,
        genres=tuple(
            GenreScores(
                genre=genre.genre,
                precision=float(np.mean([each.genres[g].precision for each in scores])),
                recall=float(np.mean([each.genres[g].recall for each in scores])),
                f1=float(np.mean([each.genres[g].f1 for each in scores])),
                average_precision=genre.average_precision,
                support=genre.support,
            )
            for g, genre in enumerate(first.genres)
        ),
    )
