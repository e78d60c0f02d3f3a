"""What the function answers about a poster, read from its JSON.

A body that is something else raises what reading it raises: UNREADABLE.
"""

from dataclasses import dataclass
from typing import Any

UNREADABLE = (TypeError, KeyError, ValueError, AttributeError)
_PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class GenreAnswer:
    """One genre as the function answers it; it is predicted where the probability reaches the threshold."""

    id: int | None
    name: str
    probability: float
    threshold: float
    predicted: bool

    @property
    def key(self) -> str:
        """What `explain` calls this genre: its id, or its name where the model knows no ids."""
        return self.name if self.id is None else str(self.id)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model answers, and whether it can show where in a poster it sees a genre."""

    version: str | None
    sha256: str
    dataset_date: str | None
    explains: bool


@dataclass(frozen=True)
class Explanation:
    """Where the network sees a genre: a PNG as a data: address, or a sentence why there is none."""

    genre_id: int | None
    genre: str
    image: str | None
    reason: str | None

    def is_about(self, genre: GenreAnswer) -> bool:
        """Whether this is the genre that is explained."""
        return (self.genre_id, self.genre) == (genre.id, genre.name)


@dataclass(frozen=True)
class Answer:
    """The genres of a poster, most probable first, the model that named them, and where one of them is seen."""

    genres: list[GenreAnswer]
    model: ModelIdentity
    explanation: Explanation | None


def read_answer(body: Any) -> Answer:
    """The answer to POST / about one poster."""
    genres = [
        GenreAnswer(
            id=_id(genre["id"]),
            name=str(genre["name"]),
            probability=float(genre["probability"]),
            threshold=float(genre["threshold"]),
            predicted=bool(genre["predicted"]),
        )
        for genre in body["genres"]
    ]
    return Answer(
        genres=sorted(genres, key=lambda genre: -genre.probability),
        model=read_identity(body["model"]),
        explanation=_explanation(body.get("explanation")),
    )


def read_identity(model: Any) -> ModelIdentity:
    """The member `model` of an answer; a function from before there were heat maps does not mention them."""
    return ModelIdentity(
        version=None if model["version"] is None else str(model["version"]),
        sha256=str(model["sha256"]),
        dataset_date=None if model["dataset_date"] is None else str(model["dataset_date"]),
        explains=bool(model.get("explains", False)),
    )


def _explanation(explanation: Any) -> Explanation | None:
    if explanation is None:
        return None
    image = explanation["image"]
    if image is not None and not image.startswith(_PNG):
        raise ValueError("The heat map is no PNG.")
    return Explanation(
        genre_id=_id(explanation["genre"]["id"]),
        genre=str(explanation["genre"]["name"]),
        image=image,
        reason=None if image else str(explanation.get("reason") or "There is no heat map of this genre."),
    )


def _id(value: Any) -> int | None:
    return None if value is None else int(value)
