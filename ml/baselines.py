"""What is scored without looking at a poster: the zero of the scale."""

import numpy as np

from ml.metrics import GenreScores, Labels, Scores, score

_DRAWS = 100


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


def _mean(scores: list[Scores]) -> Scores:
    first = scores[0]
    return Scores(
        **{name: float(np.mean([each.scalars()[name] for each in scores])) for name in first.scalars()},
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
