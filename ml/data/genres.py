"""Genres: what they are keyed by, which of them can be learned, and the labels they make."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.data.splits import PARTS
from ml.errors import DatasetError


@dataclass(frozen=True)
class Genre:
    """A genre of the site, by its numeric id, or of a source that has only names."""

    id: int | None
    name: str

    @cached_property
    def key(self) -> str:
        """What makes two genres the same: the id, because the site renames its genres; else the name."""
        return str(self.id) if self.id is not None else self.name


@dataclass(frozen=True)
class LeftOutGenre:
    """A genre that is not learned, and why."""

    genre: Genre
    posters: int
    reason: str


@dataclass(frozen=True)
class GenreChoice:
    """The genres that are learned, ordered by id, then name; and those that are not."""

    learned: tuple[Genre, ...]
    left_out: tuple[LeftOutGenre, ...]


def choose_genres(genres: Sequence[Sequence[Genre]], parts: Sequence[str], config: PreprocessConfig) -> GenreChoice:
    """Choose the genres with enough posters, in all and in each part.

    `genres` and `parts` are parallel, an entry a poster. Raises DatasetError where fewer than two are left.
    """
    known = {genre.key: genre for own in genres for genre in own}
    in_part = Counter(
        (key, part) for own, part in zip(genres, parts, strict=True) for key in {genre.key for genre in own}
    )
    totals: Counter[str] = Counter()
    for (key, _), count in in_part.items():
        totals[key] += count
    learned: list[Genre] = []
    left_out: list[LeftOutGenre] = []
    for key, genre in sorted(known.items(), key=lambda item: _order(item[1])):
        reason = _lack(totals[key], {part: in_part[key, part] for part in PARTS}, config)
        if reason is None:
            learned.append(genre)
        else:
            left_out.append(LeftOutGenre(genre, totals[key], reason))
    if len(learned) < 2:
        raise DatasetError(_too_few(len(genres), learned, left_out, config))
    return GenreChoice(tuple(learned), tuple(left_out))


def multi_hot(genres: Sequence[Sequence[Genre]], learned: Sequence[Genre]) -> NDArray[np.uint8]:
    """Labels, uint8 [N, G]: 1 where a poster has the genre. Genres that are not learned are passed over."""
    column = {genre.key: index for index, genre in enumerate(learned)}
    labels = np.zeros((len(genres), len(learned)), np.uint8)
    for row, own in enumerate(genres):
        for genre in own:
            if genre.key in column:
                labels[row, column[genre.key]] = 1
    return labels


def _order(genre: Genre) -> tuple[bool, int, str]:
    return genre.id is None, genre.id or 0, genre.name


def _lack(total: int, in_part: Mapping[str, int], config: PreprocessConfig) -> str | None:
    """What a genre lacks to be learned, None where nothing."""
    if total < config.min_posters:
        return f"{total} posters, {config.min_posters} are needed"
    for part, count in in_part.items():
        if count < config.min_posters_per_part:
            return f"{count} posters in the {part} part, {config.min_posters_per_part} are needed"
    return None


def _too_few(posters: int, learned: Sequence[Genre], left_out: Sequence[LeftOutGenre], config: PreprocessConfig) -> str:
    largest = sorted(left_out, key=lambda lacking: -lacking.posters)[:3]
    best = "; ".join(f"{lacking.genre.name}: {lacking.reason}" for lacking in largest)
    return (
        f"{posters} posters leave {len(learned)} genre{'' if len(learned) == 1 else 's'} to learn, and at "
        f"least 2 are needed ({best or 'no poster has a genre'}): give more posters, or lower min_posters "
        f"({config.min_posters}) and min_posters_per_part ({config.min_posters_per_part})."
    )
