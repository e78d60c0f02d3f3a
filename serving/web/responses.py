"""Reads the function's predictions from JSON. An unexpected body raises one of UNREADABLE."""

from dataclasses import dataclass
from typing import Any

UNREADABLE = (TypeError, KeyError, ValueError, AttributeError)
_PNG, _JPEG = "data:image/png;base64,", "data:image/jpeg;base64,"


@dataclass(frozen=True)
class GenrePrediction:
    """One genre. It is predicted if its probability reaches the threshold."""

    id: int | None
    name: str
    probability: float
    threshold: float
    predicted: bool

    @property
    def key(self) -> str:
        """The value of `explain` for this genre: its id, or its name if the model has no ids."""
        return self.name if self.id is None else str(self.id)


@dataclass(frozen=True)
class ModelIdentity:
    """The model that made a prediction, and whether it supports `explain`.

    `collection` is the catalogue whose posters it was trained on; None if the function is too old to say it.
    """

    version: str | None
    sha256: str
    dataset_date: str | None
    explains: bool
    collection: str | None


@dataclass(frozen=True)
class Explanation:
    """The heat map of a genre as a data: URL, or the reason why there is none.

    `poster` is a small picture of a poster that the function fetched, as a data: URL.
    """

    genre_id: int | None
    genre: str
    image: str | None
    reason: str | None
    poster: str | None

    def is_about(self, genre: GenrePrediction) -> bool:
        """Whether this explanation belongs to the genre."""
        return (self.genre_id, self.genre) == (genre.id, genre.name)


@dataclass(frozen=True)
class Prediction:
    """The genres of a poster, most probable first, the model, and the explanation of one genre if requested."""

    genres: list[GenrePrediction]
    model: ModelIdentity
    explanation: Explanation | None


def read_prediction(body: Any) -> Prediction:
    """Read the response to POST / with one poster."""
    genres = [
        GenrePrediction(
            id=_id(genre["id"]),
            name=str(genre["name"]),
            probability=float(genre["probability"]),
            threshold=float(genre["threshold"]),
            predicted=bool(genre["predicted"]),
        )
        for genre in body["genres"]
    ]
    return Prediction(
        genres=sorted(genres, key=lambda genre: -genre.probability),
        model=read_identity(body["model"]),
        explanation=_explanation(body.get("explanation")),
    )


def read_identity(model: Any) -> ModelIdentity:
    """Read the member `model` of a response. Old functions omit `explains` and `collection`."""
    return ModelIdentity(
        version=None if model["version"] is None else str(model["version"]),
        sha256=str(model["sha256"]),
        dataset_date=None if model["dataset_date"] is None else str(model["dataset_date"]),
        explains=bool(model.get("explains", False)),
        collection=None if model.get("collection") is None else str(model["collection"]),
    )


def _explanation(explanation: Any) -> Explanation | None:
    if explanation is None:
        return None
    image = explanation["image"]
    if image is not None and not image.startswith(_PNG):
        raise ValueError("The heat map is not a PNG.")
    poster = explanation.get("poster")
    if poster is not None and not poster.startswith(_JPEG):
        raise ValueError("The poster is not a JPEG.")
    return Explanation(
        genre_id=_id(explanation["genre"]["id"]),
        genre=str(explanation["genre"]["name"]),
        image=image,
        reason=None if image else str(explanation.get("reason") or "There is no heat map of this genre."),
        poster=poster,
    )


def _id(value: Any) -> int | None:
    return None if value is None else int(value)
