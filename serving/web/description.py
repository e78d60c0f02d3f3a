"""Reads the function's description of its model (GET /model): identity, card and figures.

An unexpected body raises one of `responses.UNREADABLE`.
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
    """The F1 of one genre, and the number of its posters in the measured part. Without posters it has no F1."""

    name: str
    posters: int
    f1: Interval | None


@dataclass(frozen=True)
class Confusion:
    """The number of posters that have the genre `missed`, but for which the model predicted `given` instead."""

    missed: str
    given: str
    posters: int


@dataclass(frozen=True)
class Figures:
    """The figures of a model: genres by descending F1, confusions by descending frequency.

    `posters` is the number of posters in the measured part, `parts` the number in each part of the dataset.
    """

    part: str
    posters: int
    parts: Mapping[str, int]
    weighted_f1: Interval | None
    mean_average_precision: Interval | None
    genres: list[GenreFigures]
    confusions: list[Confusion]


@dataclass(frozen=True)
class LaterTitles:
    """How a model does on titles that came after its training: figures from 0 to 1, beside what it promised.

    `difference` is the realised F1 minus the promised one.
    """

    titles: int
    precision: float
    promised_precision: float
    recall: float
    promised_recall: float
    difference: Interval


@dataclass(frozen=True)
class Deployment:
    """Since when the model is live (ISO 8601), which version and bundle it replaced, and its figures on the test part.

    `collection` is the catalogue of its posters, `posters` the number of posters in the test part. `later` is None
    while too few titles have come.
    """

    live_since: str
    previous_version: str | None
    previous_sha256: str | None
    collection: str
    posters: int
    weighted_f1: float | None
    later: LaterTitles | None = None


@dataclass(frozen=True)
class ModelDescription:
    """The description of a model. Old bundles have neither card nor figures, old functions know no deployment."""

    model: ModelIdentity
    card: str | None
    figures: Figures | None
    deployment: Deployment | None


def read_description(body: Any) -> ModelDescription:
    """Read the response to GET /model."""
    card = body["card"]
    return ModelDescription(
        model=read_identity(body["model"]),
        card=str(card) if card else None,
        figures=None if body["figures"] is None else _figures(body["figures"]),
        deployment=_deployment(body["deployment"]) if body.get("deployment") else None,
    )


def _deployment(record: Any) -> Deployment:
    return Deployment(
        live_since=str(record["live_since"]),
        previous_version=None if record["previous_version"] is None else str(record["previous_version"]),
        previous_sha256=record.get("previous_bundle_sha256"),
        collection=str(record["collection"]),
        posters=int(record["posters"]["test"]),
        weighted_f1=_number(record["figures"]["test/weighted_f1"]),
        later=_later(record.get("later")),
    )


def _later(record: Any) -> LaterTitles | None:
    """Read how the model does on later titles; None if nothing is said yet."""
    outcome = record["scoreboard"]["overall"] if record else None
    difference = _interval(outcome["difference"]) if outcome else None
    if outcome is None or difference is None:
        return None
    return LaterTitles(
        titles=int(outcome["titles"]),
        precision=float(outcome["precision"]),
        promised_precision=float(outcome["promised_precision"]),
        recall=float(outcome["recall"]),
        promised_recall=float(outcome["promised_recall"]),
        difference=difference,
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
    """Read a figure; None if it was not measured because the part has no poster of the genre."""
    if figure is None:
        return None
    value, low, high = (_number(figure[name]) for name in ("value", "low", "high"))
    return None if value is None or low is None or high is None else Interval(value, low, high)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
