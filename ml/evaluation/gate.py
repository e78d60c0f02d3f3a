"""Is the challenger better than the champion?

Both answer about the same test posters, over the genres that both know; the interval of the difference is a
paired bootstrap over franchises (`ml.scores.intervals`).
"""

from dataclasses import dataclass

import numpy as np

from ml.data.dataset import Dataset
from ml.data.splits import TEST
from ml.evaluation.judge import ReadPoster, genres_of, predict
from ml.scores.intervals import Bootstrap, interval
from ml.scores.metrics import weighted_f1
from serving.bundle.model import Model

EVERY_GENRE = "the baseline 'every genre'"


@dataclass(frozen=True)
class Decision:
    """Whether the challenger takes the champion's place, and the figures behind it.

    `interval` holds the 2.5 and 97.5 percentiles of the difference, challenger minus champion.
    """

    promote: bool
    opponent: str
    challenger_weighted_f1: float
    opponent_weighted_f1: float
    difference: float
    interval: tuple[float, float]
    genres: tuple[str, ...]
    posters: int
    sentence: str


def decide(
    challenger: Model,
    champion: Model | None,
    dataset: Dataset,
    read_poster: ReadPoster | None = None,
    seed: int = 0,
) -> Decision:
    """Compare on the dataset's test part; a first model is compared with predicting every genre.

    So is one that shares no genre with the champion: that champion could never be replaced otherwise. The
    challenger wins with a higher weighted F1. `read_poster` gives posters to a champion of another image size;
    raises DatasetError where it is missing then.
    """
    rows = dataset.rows(TEST)
    own_columns = {genre.key: column for column, genre in enumerate(genres_of(challenger))}
    _, own = predict(challenger, dataset, TEST)
    known = enumerate(genres_of(champion)) if champion else ()
    shared = {genre.key: column for column, genre in known if genre.key in own_columns}
    if champion is None or not shared:
        names, labels, others = dataset.genre_names, dataset.labels[rows], np.ones_like(own)
        opponent = EVERY_GENRE
    else:
        columns = [own_columns[key] for key in shared]
        names = tuple(dataset.genre_names[column] for column in columns)
        labels, own = dataset.labels[rows][:, columns], own[:, columns]
        others = predict(champion, dataset, TEST, read_poster)[1][:, list(shared.values())]
        opponent = "the champion"
    scores = weighted_f1(own, labels), weighted_f1(others, labels)
    difference = scores[0] - scores[1]
    bootstrap = Bootstrap(labels, dataset.franchises[rows], seed=seed)
    sure = interval(difference, bootstrap.weighted_f1(own) - bootstrap.weighted_f1(others))
    promote = difference > 0
    sentence = "The champion shares no genre with the challenger. " if champion and not shared else ""
    sentence += (
        f"The challenger's weighted F1 is {scores[0]:.3f} and that of {opponent} {scores[1]:.3f} on "
        f"{len(rows)} test posters over {len(names)} genres (difference {difference:+.3f}, 95 % interval "
        f"{sure.low:+.3f} to {sure.high:+.3f}): "
        f"{'the challenger is promoted' if promote else 'it is not promoted'}."
    )
    return Decision(promote, opponent, *scores, difference, (sure.low, sure.high), names, len(rows), sentence)
