"""Writes serving/function/openapi.json: an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0) of the function.

    python -m serving.openapi

The schemas come from the dataclasses in `response_types` and `request_body`. Run it after a change there. The deployed
function only serves the file.
"""

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from serving.bundle.image import FORMATS
from serving.function.request_body import Batch, EncodedPoster, NamedPoster
from serving.function.response_types import (
    BatchResponse,
    DescriptionResponse,
    ErrorResponse,
    HealthResponse,
    ModelResponse,
    PosterResponse,
)

FILE = Path(__file__).parent / "function" / "openapi.json"
_JSON_TYPES: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}
_IMAGES = (*(f"image/{name.lower()}" for name in FORMATS), "application/octet-stream")
_ERRORS = {
    "400": "The request is malformed.",
    "403": "The poster's host or bucket, or the calling page's origin, is not allowed.",
    "404": "There is no such poster, or the model does not know the genre.",
    "405": "The address does not support this method.",
    "408": "The request did not arrive in time.",
    "413": "The request or the poster is too large.",
    "415": "The body is not an image in a supported format.",
    "422": "The image is damaged, or has too many pixels or parts.",
    "500": "The function failed with an unexpected error.",
    "503": "The model, the bucket or the poster's host is unavailable.",
    "504": "The poster's host is too slow.",
}


class _Schemas:
    """The JSON schemas of Python types. Dataclasses become components that other schemas refer to."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, hint: Any) -> dict[str, Any]:
        """The schema of a type hint."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return {**self.of(arguments[0]), **arguments[1]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, UnionType):
            members = [self.of(member) for member in arguments if member is not NoneType]
            if NoneType in arguments:
                (member,) = members
                return {**member, "type": [member["type"], "null"]}
            return {"oneOf": members}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if is_dataclass(hint):
            return self._component(hint)
        return {"type": _JSON_TYPES[origin or hint]}

    def _component(self, kind: Any) -> dict[str, Any]:
        if kind.__name__ not in self.components:
            hints, optional = get_type_hints(kind, include_extras=True), set()
            for each in fields(kind):
                if each.default is not MISSING:  # left out if it is None
                    optional.add(each.name)
                    hints[each.name] = _without_none(hints[each.name])
            self.components[kind.__name__] = {
                "type": "object",
                "description": " ".join((kind.__doc__ or "").split()),
                "properties": {each.name: self.of(hints[each.name]) for each in fields(kind)},
                "required": [each.name for each in fields(kind) if each.name not in optional],
                "additionalProperties": False,
            }
        return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _without_none(hint: Any) -> Any:
    """The other member of a union with None, with the keywords of `Annotated`."""
    if get_origin(hint) is Annotated:
        member, keywords = get_args(hint)
        return Annotated[_without_none(member), keywords]
    (member,) = (member for member in get_args(hint) if member is not NoneType)
    return member


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    schemas = _Schemas()
    error = schemas.of(ErrorResponse)

    def responses(description: str, schema: dict[str, Any], errors: tuple[str, ...]) -> dict[str, Any]:
        described = {"200": (description, schema), **{status: (_ERRORS[status], error) for status in errors}}
        return {
            status: {"description": text, "content": {"application/json": {"schema": content}}}
            for status, (text, content) in described.items()
        }

    def get(summary: str, operation: str, schema: dict[str, Any], *errors: str) -> dict[str, Any]:
        return {
            "get": {
                "summary": summary,
                "operationId": operation,
                "responses": responses(summary, schema, ("500", *errors)),
            }
        }

    predict = {
        "summary": "Predict the genres of one poster or of several.",
        "operationId": "predict",
        "parameters": [
            {
                "name": "top",
                "in": "query",
                "description": "The number of genres in the response; the most probable ones are kept.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            },
            {
                "name": "explain",
                "in": "query",
                "description": "A genre's name or id. The response shows where on the poster the model sees it.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {"required": True, "content": _request_content(schemas)},
        "responses": responses("The prediction.", schemas.of(PosterResponse | BatchResponse), tuple(_ERRORS)),
    }
    paths = {
        "/": {**get("Describe the function.", "describe", schemas.of(DescriptionResponse)), "post": predict},
        "/health": get("Say whether the model is loaded.", "health", schemas.of(HealthResponse), "503"),
        "/healthz": get(
            "The same as /health; not reachable through Google's front end.",
            "healthz",
            schemas.of(HealthResponse),
            "503",
        ),
        "/model": get("Describe the model with its card and figures.", "model", schemas.of(ModelResponse), "503"),
        "/openapi.json": get("This document.", "openapi", {"type": "object"}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Genres of an anime from its poster",
            "version": "1",
            "description": f"Supported formats are {', '.join(FORMATS)}. An animation gives its first frame.",
        },
        "paths": paths,
        "components": {"schemas": schemas.components},
    }


def _request_content(schemas: _Schemas) -> dict[str, Any]:
    """The media types of a request body."""
    body = schemas.of(NamedPoster | EncodedPoster | Batch)
    posters = (NamedPoster.__name__, EncodedPoster.__name__)
    for name, other in (posters, posters[::-1]):
        # Further members are ignored, but a poster has either a name or an image.
        component = schemas.components[name]
        del component["additionalProperties"]
        (excluded,) = schemas.components[other]["required"]
        component["properties"][excluded] = False
    image = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "properties": {"poster": {"type": "string", "format": "binary"}}, "required": ["poster"]}
    return {
        "application/json": {"schema": body},
        "multipart/form-data": {"schema": form},
        **{media_type: {"schema": image} for media_type in _IMAGES},
    }


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(document(), indent=1) + "\n")


if __name__ == "__main__":
    main()
