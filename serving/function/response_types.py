"""The JSON responses of the function, as dataclasses. `python -m serving.openapi` generates openapi.json from them.

A field whose default is None is omitted from the JSON if it is None. `Annotated` adds keywords of JSON Schema.
"""

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from ..bundle.model import GenrePrediction

Sha256 = Annotated[str, {"pattern": "^[0-9a-f]{64}$"}]


@dataclass(frozen=True)
class ModelIdentity:
    """The model that made a prediction."""

    version: Annotated[str | None, {"description": "The version in the model registry."}]
    sha256: Sha256
    dataset_date: Annotated[str | None, {"description": "The day on which the catalogue was read."}]
    precision: Annotated[str, {"enum": ["fp32", "int8"]}]
    explains: Annotated[bool, {"description": "Whether the model supports `explain`."}]
    collection: Annotated[str | None, {"description": "The catalogue whose posters the model was trained on."}] = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds per stage; in a batch, the sum over all posters. `total` is the whole request."""

    fetch: float
    decode: float
    infer: float
    total: float


@dataclass(frozen=True)
class Genre:
    """A genre of the model."""

    id: int | None
    name: str


@dataclass(frozen=True)
class Explanation:
    """The part of the poster that supports a genre, or the reason why it is not available."""

    genre: Genre
    image: Annotated[str | None, {"description": "A PNG to lay over the poster, as a data: URL."}]
    reason: str | None = None
    poster: Annotated[str | None, {"description": "A small JPEG of a poster that was named, as a data: URL."}] = None


@dataclass(frozen=True, kw_only=True)
class PosterPrediction:
    """The genres of one poster, most probable first."""

    genres: list[GenrePrediction]
    explanation: Explanation | None = None


@dataclass(frozen=True, kw_only=True)
class PosterResponse(PosterPrediction):
    """The response to a request with one poster."""

    model: ModelIdentity
    timing_ms: Timing


@dataclass(frozen=True)
class InstanceErrorDetail:
    """The error of one poster of a batch."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class InstanceError:
    """Takes the place of a prediction in a batch."""

    error: InstanceErrorDetail


@dataclass(frozen=True)
class BatchResponse:
    """The response to a request with `instances`: one prediction or error per poster, in the same order."""

    predictions: list[PosterPrediction | InstanceError]
    model: ModelIdentity
    timing_ms: Timing


@dataclass(frozen=True)
class ErrorDetail:
    """A code for programs and one sentence for a person."""

    code: str
    message: str


@dataclass(frozen=True)
class ErrorResponse:
    """The response to a refused or failed request."""

    error: ErrorDetail


@dataclass(frozen=True)
class HealthResponse:
    """The model is loaded."""

    status: Literal["ok"]
    model: ModelIdentity


@dataclass(frozen=True)
class ModelResponse:
    """A description of the model: its card (Markdown) and its figures, if its bundle has them.

    `deployment` says since when it is live, how it did on the test part, and which version it replaced.
    """

    model: ModelIdentity
    card: str | None
    figures: dict[str, Any] | None
    deployment: dict[str, Any] | None = None


@dataclass(frozen=True)
class Limits:
    """The largest poster and the largest batch."""

    size_bytes: int
    instances: int


@dataclass(frozen=True)
class DescriptionResponse:
    """A description of the function for people."""

    name: str
    what: str
    ask: list[str]
    formats: list[str]
    limits: Limits
    model: str
    health: str
    openapi: str


def to_json(value: Any) -> Any:
    """The JSON value of a response."""
    if is_dataclass(value):
        members = {each.name: (getattr(value, each.name), each.default) for each in fields(value)}
        return {
            name: to_json(member)
            for name, (member, default) in members.items()
            if member is not None or default is MISSING
        }
    return [to_json(member) for member in value] if isinstance(value, list) else value
