"""What hardly looks at a poster, or not at all: the zero of the scale, and what a model has to beat."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ml.data.feature_table import FeatureTable
from ml.data.shards import Rows
from ml.networks.kernel import fit_curves
from ml.scores.metrics import Decisions, GenreScores, Labels, Probabilities, Scores, score
from ml.scores.thresholds import fit_thresholds
from ml.training.frozen import KERNEL_FIRST, FrozenSearch, head_probabilities

_DRAWS = 100
_LEVELS = 4
_PIXEL_STEP = 4
_PRIOR_SIBLINGS = 0.2


def every_genre(labels: Labels, genres: tuple[str, ...]) -> Scores:
    """Predict each genre of each poster; labels [N, G]."""
    return score(np.ones(labels.shape, np.float32), np.ones(labels.shape, np.bool_), labels, genres)


def genre_frequencies(labels: Labels, training: Labels, genres: tuple[str, ...], seed: int) -> Scores:
    """Draw each genre as often as it stands in the training labels; the mean of the scores of 100 draws."""
    generator = np.random.default_rng(seed)
    frequencies = training.mean(0)
    drawn = [generator.random(labels.shape) < frequencies for _ in range(_DRAWS)]
    # A genre's probability is the same for all posters, so it ranks none of them above another.
    constant = np.broadcast_to(frequencies, labels.shape)
    return _mean([score(constant, decisions, labels, genres) for decisions in drawn])


def colour_histogram(
    known: NDArray[np.float32],
    labels: Labels,
    franchises: NDArray[np.str_],
    asked: NDArray[np.float32],
    seed: int,
) -> tuple[Probabilities, Decisions]:
    """Probabilities and decisions [n, G] from the colours of posters alone, by a kernel head as those on a backbone's
    features: fitted on the histograms `known` [N, B] with labels [N, G], for the histograms `asked` [n, B]."""
    trying = FrozenSearch(FeatureTable(known), labels, franchises, seed)
    estimates = trying.estimates(KERNEL_FIRST)
    curves = fit_curves(estimates, labels)
    thresholds = fit_thresholds(curves.probabilities(estimates), labels)
    probabilities = head_probabilities(trying.head(KERNEL_FIRST, curves), FeatureTable(asked))
    return probabilities, probabilities >= thresholds


def colour_histograms(images: Rows, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The share of pixels of each of 64 colours (4 levels a channel) in these rows of the images, float32 [n, 64];
    of every fourth line and column."""
    histograms = np.empty((len(rows), _LEVELS**3), np.float32)
    for place, row in enumerate(rows.tolist()):
        levels = images[row][:, ::_PIXEL_STEP, ::_PIXEL_STEP].astype(np.int64) * _LEVELS // 256
        colours = (levels[0] * _LEVELS + levels[1]) * _LEVELS + levels[2]
        histograms[place] = np.bincount(colours.ravel(), minlength=_LEVELS**3) / colours.size
    # Square roots make the many small shares count beside the few large ones (Hellinger distance).
    return np.sqrt(histograms)


def sibling_copy(labels: Labels, franchises: NDArray[np.str_], folds: NDArray[np.int64]) -> Probabilities:
    """The share of a poster's siblings in the other folds that have each genre, float32 [N, G]; no pixel is read.

    Where it has few or no siblings there, the genres' frequencies take their place.
    """
    names, franchise = np.unique(franchises, return_inverse=True)
    probabilities = np.empty(labels.shape, np.float32)
    for fold in np.unique(folds):
        inside, outside = folds == fold, folds != fold
        counts = np.zeros((len(names), labels.shape[1] + 1))
        np.add.at(counts, franchise[outside], np.column_stack([labels[outside], np.ones(outside.sum())]))
        own = counts[franchise[inside]]
        prior = _PRIOR_SIBLINGS * labels[outside].mean(0)
        probabilities[inside] = (own[:, :-1] + prior) / (own[:, -1:] + _PRIOR_SIBLINGS)
    return probabilities


def _mean(scores: Sequence[Scores]) -> Scores:
    first = scores[0]
    figures: Mapping[str, float] = {
        name: float(np.mean([each.scalars()[name] for each in scores])) for name in first.scalars()
    }
    return Scores(
        **figures,
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
