"""What the function tells about its model (GET /model): who it is, its card, and its figures on the validation part.

A body that is something else raises what reading it raises: `answers.UNREADABLE`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .responses import ModelIdentity, read_identity

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GenreFigures:
    """How well one genre is known; `posters` are those of it among the measured ones. Without any it has no F1."""

    name: str
    posters: int
    f1: Interval | None


@dataclass(frozen=True)
class Confusion:
    """Posters that have the genre `missed` without being given it, and were given `given` without having it."""

    missed: str
    given: str
    posters: int


@dataclass(frozen=True)
class Figures:
    """The figures of a model: genres best known first, confusions most frequent first.

    `posters` is how many they were measured on, `parts` how many each part of the dataset holds.
    """

    part: str
    posters: int
    parts: Mapping[str, int]
    weighted_f1: Interval | None
    mean_average_precision: Interval | None
    genres: list[GenreFigures]
    confusions: list[Confusion]


@dataclass(frozen=True)
class ModelDescription:
    """A model as its function describes it; bundles of an older make have neither card nor figures."""

    model: ModelIdentity
    card: str | None
    figures: Figures | None


def read_description(body: Any) -> ModelDescription:
    """The answer to GET /model."""
    card = body["card"]
    return ModelDescription(
        model=read_identity(body["model"]),
        card=str(card) if card else None,
        figures=None if body["figures"] is None else _figures(body["figures"]),
    )


def _figures(figures: Any) -> Figures:
    genres = [
        GenreFigures(
            name=str(genre["name"]),
            posters=int(genre["posters"]),
            f1=_interval(genre["f1"]) if genre["posters"] else None,
        )
        for genre in figures["genres"]
    ]
    counts = figures["dataset"]["posters"]
    confusions = [
        Confusion(str(pair["missed"]), str(pair["given"]), int(pair["posters"])) for pair in figures["confusions"]
    ]
    return Figures(
        part=str(figures["part"]),
        posters=int(figures["posters"]),
        parts={part: int(counts[part]) for part in _PARTS},
        weighted_f1=_interval(figures["weighted_f1"]),
        mean_average_precision=_interval(figures["mean_average_precision"]),
        genres=sorted(genres, key=lambda genre: (genre.f1 is None, -genre.f1.value if genre.f1 else 0.0, genre.name)),
        confusions=sorted(confusions, key=lambda pair: -pair.posters),
    )


def _interval(figure: Any) -> Interval | None:
    """None where the figure could not be measured: no poster of the genre is in the part."""
    if figure is None:
        return None
    value, low, high = (_number(figure[name]) for name in ("value", "low", "high"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
