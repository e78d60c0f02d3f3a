"""Decides whether the challenger is better than the champion.

Both predict the same test posters and are compared over the genres that both know. The interval of the difference
comes from a paired bootstrap over franchises (`ml.scores.intervals`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml.data.dataset import Dataset
from ml.data.genres import Genre
from ml.data.splits import TEST
from ml.evaluation.baselines import EVERY_GENRE
from ml.evaluation.judge import genres_of, predict
from ml.scores.intervals import Bootstrap, Interval, Predictions, interval
from ml.scores.metrics import Decisions, weighted_f1
from serving.bundle.model import Model
from serving.bundle.wording import counted


@dataclass(frozen=True)
class Decision:
    """Whether the challenger replaces the champion, and why.

    `difference` is the challenger's weighted F1 minus the opponent's.
    """

    promote: bool
    difference: Interval
    sentence: str


def decide(
    challenger: Model,
    champion: Model | None,
    dataset: Dataset,
    predict_champion: Callable[[Model], Decisions] | None = None,
    seed: int = 0,
    opponents: Mapping[str, Predictions] | None = None,
    seen: Collection[str] = (),
) -> Decision:
    """Compare challenger and champion on the test part. The challenger wins with a higher weighted F1.

    `seen` are the ids of the posters that the champion was trained on. Test posters of their franchises do not count.

    A challenger that is clearly worse than the best of `opponents`, the recipes and baselines of its own run by name,
    is not promoted: the 95 % interval of their difference is below zero.

    Without a champion the opponent is the baseline that predicts every genre. A champion that shares no genre with
    the challenger, or that has seen all franchises, cannot be compared with it and is not replaced. `predict_champion`
    returns the champion's decisions for the test part [T, G], in the order of its genres; by default, those for the
    dataset's pixels. Raises DatasetError if these have another size than the champion needs.
    """
    rows = dataset.rows(TEST)
    _, decisions = predict(challenger, dataset)
    better_opponent = _better_opponent(decisions, opponents or {}, dataset, seed)
    shared = shared_genres(genres_of(challenger), genres_of(champion)) if champion else []
    fair = ~np.isin(dataset.franchises[rows], dataset.franchises[np.isin(dataset.ids, list(seen))])
    if champion is None or not shared or not fair.any():
        labels, opponent_decisions = dataset.labels[rows], np.ones_like(decisions)
        opponent = f"the baseline '{EVERY_GENRE}'"
    else:
        kept, in_champion = map(list, zip(*shared, strict=True))
        by_champion = predict_champion(champion) if predict_champion else predict(champion, dataset)[1]
        opponent_decisions = by_champion[fair][:, in_champion]
        rows, decisions = rows[fair], decisions[fair][:, kept]
        labels = dataset.labels[rows][:, kept]
        opponent = "the champion"
    challenger_f1, opponent_f1 = weighted_f1(decisions, labels), weighted_f1(opponent_decisions, labels)
    bootstrap = Bootstrap(labels, dataset.franchises[rows], seed=seed)
    difference = interval(
        challenger_f1 - opponent_f1, bootstrap.weighted_f1(decisions) - bootstrap.weighted_f1(opponent_decisions)
    )
    is_incomparable = champion is not None and not (shared and fair.any())
    promote = difference.value > 0 and not is_incomparable and better_opponent is None
    sentence = ""
    if is_incomparable:
        why = "has seen the franchises of all test posters" if shared else "shares no genre with the challenger"
        sentence = f"The champion {why}, so only a person may replace it. "
    elif champion is not None and not fair.all():
        sentence = f"The champion was trained on franchises of {np.sum(~fair)} test posters, which do not count here. "
    sentence += (
        f"On {counted(len(rows), 'test poster')} and {counted(labels.shape[1], 'genre')}, test/weighted_f1 is "
        f"{challenger_f1:.3f} for the challenger and {opponent_f1:.3f} for {opponent} (difference "
        f"{difference.value:+.3f}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}). "
        f"{better_opponent or ''}{'The challenger is promoted.' if promote else 'The challenger is not promoted.'}"
    )
    return Decision(promote, difference, sentence)


def _better_opponent(
    decisions: Decisions, opponents: Mapping[str, Predictions], dataset: Dataset, seed: int
) -> str | None:
    """A sentence about the best opponent if it is clearly better than decisions [N, G] of the test part, else None."""
    if not opponents:
        return None
    rows = dataset.rows(TEST)
    labels = dataset.labels[rows]
    name = max(opponents, key=lambda name: weighted_f1(opponents[name].decisions, labels))
    theirs = opponents[name].decisions
    their_f1 = weighted_f1(theirs, labels)
    bootstrap = Bootstrap(labels, dataset.franchises[rows], seed=seed)
    difference = interval(
        weighted_f1(decisions, labels) - their_f1, bootstrap.weighted_f1(decisions) - bootstrap.weighted_f1(theirs)
    )
    if difference.high >= 0:
        return None
    return (
        f"'{name}' of the same run has {their_f1:.3f} (difference {difference.value:+.3f}, {difference.low:+.3f} to "
        f"{difference.high:+.3f}). "
    )


def shared_genres(challenger: Sequence[Genre], champion: Sequence[Genre]) -> list[tuple[int, int]]:
    """The genres that both models know, as pairs of their columns (challenger's, champion's).

    Genres with ids are the same if their ids are. If one of them has no id, their names are compared, without case.
    """

    def are_same(one: Genre, other: Genre) -> bool:
        if one.id is not None and other.id is not None:
            return one.id == other.id
        return one.name.casefold() == other.name.casefold()

    return [
        (column, other_column)
        for column, genre in enumerate(challenger)
        for other_column, other in enumerate(champion)
        if are_same(genre, other)
    ]
