"""Decides whether the challenger replaces the champion.

Both predict the same test posters and are compared over the genres that both know. The interval of the difference
comes from a paired bootstrap over franchises (`ml.scores.intervals`), and how certain it has to be from the
comparisons of the last year (`ml.scores.certainty`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.configuration import GateConfig
from ml.data.dataset import Dataset
from ml.data.genres import Genre
from ml.data.splits import TEST
from ml.evaluation.baselines import EVERY_GENRE
from ml.evaluation.judge import genres_of, predict
from ml.scores.certainty import next_level, required_difference
from ml.scores.intervals import RESAMPLES, Bootstrap, Interval, Predictions, interval
from ml.scores.metrics import Decisions, Labels, f1_of_counts, weighted_f1
from serving.bundle.model import Model
from serving.bundle.wording import counted

_DEFAULTS = GateConfig()


@dataclass(frozen=True)
class Rule:
    """A rule of the gate: its name, whether the challenger passes it, and its figures as one sentence."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Whether the challenger replaces the champion, and why.

    `difference` is the challenger's weighted F1 minus the opponent's. `level` is the chance with which this comparison
    promotes a model that is no better than the champion, 0 if it was not compared with the champion.
    """

    promote: bool
    difference: Interval
    rules: tuple[Rule, ...]
    level: float
    sentence: str


def decide(
    challenger: Model,
    champion: Model | None,
    dataset: Dataset,
    predict_champion: Callable[[Model], Decisions] | None = None,
    opponents: Mapping[str, Predictions] | None = None,
    seen: Collection[str] = (),
    limits: GateConfig = _DEFAULTS,
    level: float | None = None,
    bundle_rules: Sequence[Rule] = (),
) -> Decision:
    """Compare challenger and champion on the test part. The challenger wins if it passes every rule.

    - `difference`: its weighted F1 is higher, with the certainty that `level` asks for.
    - `genre_f1`: no genre with enough test posters has clearly lost F1.
    - `genres`: it knows every genre of the champion.
    - `opponents`: it is not clearly worse than the best of `opponents`, the recipes and baselines of its own run by
      name: the 95 % interval of their difference is not below zero.
    - `bundle_rules`: see `check_bundle`.

    `seen` are ids of posters of the franchises that the champion was trained on. Test posters of these do not count.
    `level` is by default that of the first comparison of a year.

    Without a champion the opponent is the baseline that predicts every genre, and any positive difference counts. A
    champion that shares no genre with the challenger, or that has seen all franchises, cannot be compared with it and
    is not replaced. `predict_champion`, which a champion needs, returns its decisions for the test part [T, G], in the
    order of its genres.
    """
    rows = dataset.rows(TEST)
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    _, decisions = predict(challenger, dataset)
    others = [*check_opponents(decisions, opponents or {}, labels, franchises), *bundle_rules]
    shared = shared_genres(genres_of(challenger), genres_of(champion)) if champion else []
    fair = ~np.isin(franchises, dataset.franchises[np.isin(dataset.ids, list(seen))])
    note = ""
    if champion is not None and shared and fair.any():
        level = next_level(limits.false_promotions, 0) if level is None else level
        kept, in_champion = map(list, zip(*shared, strict=True))
        assert predict_champion is not None
        by_champion = predict_champion(champion)
        decisions, theirs = decisions[fair][:, kept], by_champion[fair][:, in_champion]
        labels, franchises, opponent = labels[fair][:, kept], franchises[fair], "the champion"
        names = [genres_of(challenger)[column].name for column in kept]
        difference, rules = compare(decisions, theirs, labels, franchises, names, limits, level)
        rules.append(_check_genres(genres_of(champion), in_champion))
        if not fair.all():
            note = f"The champion was trained on franchises of {np.sum(~fair)} test posters, which do not count here."
    else:
        level, opponent, theirs = 0.0, f"the baseline '{EVERY_GENRE}'", np.ones_like(decisions)
        difference, _ = _weighted_f1_difference(decisions, theirs, labels, Bootstrap(labels, franchises))
        if champion is None:
            rules = [Rule("difference", difference.value > 0, "Without a champion, any positive difference counts.")]
        else:
            why = "has seen the franchises of all test posters" if shared else "shares no genre with the challenger"
            note = f"The champion {why}, so only a person may replace it."
            rules = [Rule("comparable", False, note)]
    rules += others
    promote = all(rule.passed for rule in rules)
    sentences = [
        note,
        f"On {counted(len(labels), 'test poster')} and {counted(labels.shape[1], 'genre')}, test/weighted_f1 is "
        f"{weighted_f1(decisions, labels):.3f} for the challenger and {weighted_f1(theirs, labels):.3f} for {opponent} "
        f"(difference {_text(difference)}).",
        *(rule.sentence for rule in rules if not rule.passed and rule.sentence != note),
        "The challenger passes the gate." if promote else "The challenger does not pass the gate.",
    ]
    return Decision(promote, difference, tuple(rules), level, " ".join(filter(None, sentences)))


def compare(
    ours: Decisions,
    theirs: Decisions,
    labels: Labels,
    franchises: NDArray[np.str_],
    genres: Sequence[str],
    limits: GateConfig,
    level: float,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Interval, list[Rule]]:
    """Our weighted F1 minus theirs, with the rules `difference` and `genre_f1` of `decide`.

    Decisions and labels are [N, G], franchises [N], and the names of the genres [G].
    """
    bootstrap = Bootstrap(labels, franchises, resamples, seed)
    difference, error = _weighted_f1_difference(ours, theirs, labels, bootstrap)
    required = float(required_difference(error, len(np.unique(franchises)), level))
    sentence = (
        f"A difference counts above {required:+.3f}, which equal models reach by chance in 1 of {1 / level:,.0f} "
        "comparisons."
        if np.isfinite(required)
        else "No difference counts: the test part has one franchise, or the comparisons of the last 365 days have "
        "spent the chance of false promotions."
    )
    rules = [Rule("difference", difference.value > required, sentence)]
    positives = (labels == 1).sum(0)
    each = bootstrap.genre_f1(ours) - bootstrap.genre_f1(theirs)
    gains = [interval(gain, each[:, g]) for g, gain in enumerate(_genre_f1(ours, labels) - _genre_f1(theirs, labels))]
    lost = [
        f"{genre} {_text(gain)}"
        for genre, gain, count in zip(genres, gains, positives, strict=True)
        if count >= limits.min_genre_posters and gain.high < -limits.max_genre_loss
    ]
    allowed = f"more than {limits.max_genre_loss:g} F1"
    checked = counted(int((positives >= limits.min_genre_posters).sum()), "genre")
    sentence = f"None of {checked} with {limits.min_genre_posters} test posters or more clearly loses {allowed}."
    if lost:
        sentence = f"{counted(len(lost), 'genre')} clearly lost {allowed}: {', '.join(lost)}."
    return difference, [*rules, Rule("genre_f1", not lost, sentence)]


def check_bundle(size_bytes: int, probability_difference: float, limits: GateConfig) -> tuple[Rule, Rule]:
    """The rules about a bundle alone.

    - `probabilities`: the served network's are those of training, except for `probability_difference`
      (`ml.evaluation.judge.Evaluation`). The export has compared its graph with PyTorch's network on a few posters.
    - `size`: all files of the bundle keep to the limit.
    """
    size, limit = size_bytes / 1e6, limits.max_bundle_megabytes
    return (
        Rule(
            "probabilities",
            probability_difference <= limits.max_probability_difference,
            f"Served probabilities differ by {probability_difference:.2g} on average from those of training; "
            f"{limits.max_probability_difference:g} is allowed.",
        ),
        Rule("size", size <= limit, f"The bundle has {size:,.0f} MB; {limit:,g} MB are allowed."),
    )


def _check_genres(champion: Sequence[Genre], kept: Collection[int]) -> Rule:
    lost = [genre.name for column, genre in enumerate(champion) if column not in kept]
    if lost:
        return Rule("genres", False, f"The challenger lacks {counted(len(lost), 'genre')}: {', '.join(lost)}.")
    return Rule("genres", True, f"The challenger knows all {len(champion)} genres of the champion.")


def check_opponents(
    decisions: Decisions,
    opponents: Mapping[str, Predictions],
    labels: Labels,
    franchises: NDArray[np.str_],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Rule]:
    """The rule `opponents` of `decide` for decisions and labels [N, G]; none if there are no opponents."""
    if not opponents:
        return []
    name = max(opponents, key=lambda name: weighted_f1(opponents[name].decisions, labels))
    theirs = opponents[name].decisions
    bootstrap = Bootstrap(labels, franchises, resamples, seed)
    difference, _ = _weighted_f1_difference(decisions, theirs, labels, bootstrap)
    their_f1 = weighted_f1(theirs, labels)
    sentence = f"'{name}' of the same run has {their_f1:.3f} (difference {_text(difference)})."
    return [Rule("opponents", difference.high >= 0, sentence)]


def _weighted_f1_difference(
    ours: Decisions, theirs: Decisions, labels: Labels, bootstrap: Bootstrap
) -> tuple[Interval, float]:
    """The difference with its 95 % interval, and its standard error."""
    resampled = bootstrap.weighted_f1(ours) - bootstrap.weighted_f1(theirs)
    return interval(weighted_f1(ours, labels) - weighted_f1(theirs, labels), resampled), float(resampled.std())


def _genre_f1(decisions: Decisions, labels: Labels) -> NDArray[np.float64]:
    truth = labels == 1
    return f1_of_counts((decisions & truth).sum(0), decisions.sum(0), truth.sum(0))


def _text(difference: Interval) -> str:
    return f"{difference.value:+.3f}, 95 % interval {difference.low:+.3f} to {difference.high:+.3f}"


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
