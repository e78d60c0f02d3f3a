"""Baselines that ignore the poster or use only its colours: what a model has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier

from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.data.shards import Rows
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.networks.kernel import fit_curves
from ml.scores.intervals import Predictions
from ml.scores.metrics import Labels, Probabilities, Scores, f1_of_counts, score
from ml.scores.thresholds import fit_thresholds
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads, head_probabilities

EVERY_GENRE, COLOUR_HISTOGRAM = "every genre", "colour histogram"
_DRAWS = 100
_SEED = 0
_LEVELS = 4
_PIXEL_STEP = 4
_PRIOR_SIBLINGS = 0.2


@dataclass(frozen=True)
class Baselines:
    """Scores of all baselines on the test part, by name, and the predictions of those that a model has to beat.

    Predicting every genre always has a higher F1 than drawing genres with their frequencies.
    """

    scores: Mapping[str, Scores]
    predictions: Mapping[str, Predictions]


def baselines(dataset: Dataset) -> Baselines:
    """All baselines, scored on the test part."""
    test, training = dataset.rows(TEST), dataset.labels[dataset.rows(TRAIN)]
    labels, genres = dataset.labels[test], dataset.genre_names
    predictions = {
        EVERY_GENRE: Predictions(np.ones(labels.shape, np.float32), np.ones(labels.shape, np.bool_)),
        COLOUR_HISTOGRAM: colour_histogram(dataset),
    }
    histogram = predictions[COLOUR_HISTOGRAM]
    scores = {
        EVERY_GENRE: every_genre(labels, genres),
        "genre frequencies": genre_frequencies(labels, training, genres, _SEED),
        COLOUR_HISTOGRAM: score(histogram.probabilities, histogram.decisions, labels, genres),
    }
    return Baselines(scores, predictions)


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
    # Counts of one draw at a time, because all draws together would take memory with each poster.
    found, predicted = (np.zeros((_DRAWS, len(genres)), np.int64) for _ in range(2))
    for draw in range(_DRAWS):
        drawn = random.predict(np.zeros((len(labels), 1))).reshape(labels.shape) == 1
        found[draw], predicted[draw] = (drawn & (labels == 1)).sum(0), drawn.sum(0)
    support = labels.sum(0, dtype=np.int64)
    precision, recall = ((found / np.maximum(counts, 1)).mean(0) for counts in (predicted, support))
    f1 = f1_of_counts(found, predicted, support).mean(0)
    # Average precision is that of any draw: all posters have the same probability of a genre.
    any_draw = score(np.broadcast_to(training.mean(0), labels.shape), drawn, labels, genres)
    return replace(
        any_draw,
        weighted_f1=float((f1 * support).sum() / max(support.sum(), 1)),
        macro_f1=float(f1.mean()),
        micro_f1=float(f1_of_counts(found.sum(1), predicted.sum(1), support.sum()).mean()),
        genres=tuple(
            replace(genre, precision=float(precision[g]), recall=float(recall[g]), f1=float(f1[g]))
            for g, genre in enumerate(any_draw.genres)
        ),
    )


def colour_histogram(dataset: Dataset) -> Predictions:
    """Predictions of a kernel head on colour histograms, fitted on the training and validation parts."""
    known = np.sort(np.concatenate([dataset.rows(TRAIN), dataset.rows(VALIDATION)]))
    test, labels = dataset.rows(TEST), dataset.labels[known]
    histograms = FeatureTable(colour_histograms(dataset.images, known))
    heads = OutOfFoldHeads(histograms, labels, dataset.franchises[known], _SEED)
    estimates = heads.estimates(KERNEL_FIRST)
    curves = fit_curves(estimates, labels)
    thresholds = fit_thresholds(curves.probabilities(estimates), labels)
    head = heads.fit(KERNEL_FIRST, curves)
    probabilities = head_probabilities(head, FeatureTable(colour_histograms(dataset.images, test)))
    return Predictions(probabilities, probabilities >= thresholds)


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
