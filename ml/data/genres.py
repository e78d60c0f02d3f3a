"""Genres: their keys, the choice of those with enough posters, and labels."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.data.splits import PARTS
from ml.errors import DatasetError
from serving.bundle.wording import counted


@dataclass(frozen=True)
class Genre:
    """A genre. The id is None if its source has only names."""

    id: int | None
    name: str

    @cached_property
    def key(self) -> str:
        """The id, because the site renames its genres; the name if there is no id. Equal keys are the same genre."""
        return str(self.id) if self.id is not None else self.name


@dataclass(frozen=True)
class LeftOutGenre:
    """A genre that is not learned, its number of posters, and the reason."""

    genre: Genre
    posters: int
    reason: str

    @property
    def sentence(self) -> str:
        """The reason for a person. Stored datasets contain `reason`, also with the plural for one poster."""
        return re.sub(r"\b1 are needed", "1 is needed", re.sub(r"\b1 posters\b", "1 poster", self.reason))


@dataclass(frozen=True)
class GenreChoice:
    """The genres that are learned and those that are not, each sorted by id and then by name."""

    learned: tuple[Genre, ...]
    left_out: tuple[LeftOutGenre, ...]


def choose_genres(genres: Sequence[Sequence[Genre]], parts: Sequence[str], config: PreprocessConfig) -> GenreChoice:
    """Choose the genres that have enough posters in total and in each part.

    `genres` and `parts` are parallel, with one entry per poster. Raises DatasetError if fewer than two genres have
    enough posters.
    """
    known = {genre.key: genre for of_poster in genres for genre in of_poster}
    in_part = Counter(
        (key, part) for of_poster, part in zip(genres, parts, strict=True) for key in {genre.key for genre in of_poster}
    )
    totals = Counter(key for of_poster in genres for key in {genre.key for genre in of_poster})
    learned: list[Genre] = []
    left_out: list[LeftOutGenre] = []
    for key, genre in sorted(known.items(), key=lambda item: _order(item[1])):
        reason = _why_left_out(totals[key], {part: in_part[key, part] for part in PARTS}, config)
        if reason is None:
            learned.append(genre)
        else:
            left_out.append(LeftOutGenre(genre, totals[key], reason))
    if len(learned) < 2:
        raise _too_few(len(genres), learned, left_out, config)
    return GenreChoice(tuple(learned), tuple(left_out))


def multi_hot(genres: Sequence[Sequence[Genre]], learned: Sequence[Genre]) -> NDArray[np.uint8]:
    """Labels, uint8 [N, G]: 1 if a poster has the genre. Genres that are not learned are ignored."""
    column = {genre.key: index for index, genre in enumerate(learned)}
    labels = np.zeros((len(genres), len(learned)), np.uint8)
    for row, of_poster in enumerate(genres):
        for genre in of_poster:
            if genre.key in column:
                labels[row, column[genre.key]] = 1
    return labels


def _order(genre: Genre) -> tuple[bool, int, str]:
    return genre.id is None, genre.id or 0, genre.name


def _why_left_out(total: int, in_part: Mapping[str, int], config: PreprocessConfig) -> str | None:
    """Why a genre is not learned, or None if it has enough posters. Stored datasets contain this text."""
    if total < config.min_posters:
        return f"{total} posters, {config.min_posters} are needed"
    for part, count in in_part.items():
        if count < config.min_posters_per_part:
            return f"{count} posters in the {part} part, {config.min_posters_per_part} are needed"
    return None


def _too_few(
    posters: int, learned: Sequence[Genre], left_out: Sequence[LeftOutGenre], config: PreprocessConfig
) -> DatasetError:
    largest = sorted(left_out, key=lambda genre: -genre.posters)[:3]
    return DatasetError(
        f"Of the genres of {counted(posters, 'poster')}, {len(learned)} can be learned, but at least 2 are needed. Add "
        f"posters, or lower min_posters ({config.min_posters}) and "
        f"min_posters_per_part ({config.min_posters_per_part}).",
        "\n".join(f"{each.genre.name}: {each.sentence}" for each in largest) or "no poster has a genre",
    )
