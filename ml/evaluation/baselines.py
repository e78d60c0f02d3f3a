"""Baselines that ignore the poster or use only its colours: what a model has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score, precision_recall_fscore_support

from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.data.shards import Rows
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.networks.kernel import fit_curves
from ml.scores.intervals import Predictions
from ml.scores.metrics import Labels, Probabilities, Scores, score
from ml.scores.thresholds import fit_thresholds
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads, head_probabilities

EVERY_GENRE, COLOUR_HISTOGRAM = "every genre", "colour histogram"
_DRAWS = 100
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


def baselines(dataset: Dataset, seed: int = 0) -> Baselines:
    """All baselines, scored on the test part."""
    test, training = dataset.rows(TEST), dataset.labels[dataset.rows(TRAIN)]
    labels, genres = dataset.labels[test], dataset.genre_names
    predictions = {
        EVERY_GENRE: Predictions(np.ones(labels.shape, np.float32), np.ones(labels.shape, np.bool_)),
        COLOUR_HISTOGRAM: colour_histogram(dataset, seed),
    }
    histogram = predictions[COLOUR_HISTOGRAM]
    scores = {
        EVERY_GENRE: every_genre(labels, genres),
        "genre frequencies": genre_frequencies(labels, training, genres, seed),
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
    draws = np.stack([random.predict(np.zeros((len(labels), 1))) for _ in range(_DRAWS)])
    # All draws are scored together, each genre of each draw as one column: 100 calls would take seconds.
    columns = precision_recall_fscore_support(
        np.tile(labels, _DRAWS), np.concatenate(list(draws), axis=1), average=None, zero_division=0
    )
    precision, recall, f1, _ = (figure.reshape(_DRAWS, -1).mean(0) for figure in columns)
    # Micro F1 of a draw is F1 over all of its pairs of a poster and a genre: here, a draw is one sample.
    flat = np.tile(labels.ravel(), (_DRAWS, 1)), draws.reshape(_DRAWS, -1)
    micro = f1_score(*flat, average="samples", zero_division=0)
    # All posters have the same probability of a genre, so average precision is that of the first draw.
    first = score(np.broadcast_to(training.mean(0), labels.shape), draws[0] == 1, labels, genres)
    support = labels.sum(0, dtype=np.int64)
    return replace(
        first,
        weighted_f1=float((f1 * support).sum() / max(support.sum(), 1)),
        macro_f1=float(f1.mean()),
        micro_f1=float(micro),
        genres=tuple(
            replace(genre, precision=float(precision[g]), recall=float(recall[g]), f1=float(f1[g]))
            for g, genre in enumerate(first.genres)
        ),
    )


def colour_histogram(dataset: Dataset, seed: int) -> Predictions:
    """Predictions of a kernel head on colour histograms, fitted on the training and validation parts."""
    known = np.sort(np.concatenate([dataset.rows(TRAIN), dataset.rows(VALIDATION)]))
    test, labels = dataset.rows(TEST), dataset.labels[known]
    histograms = FeatureTable(colour_histograms(dataset.images, known))
    heads = OutOfFoldHeads(histograms, labels, dataset.franchises[known], seed)
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
