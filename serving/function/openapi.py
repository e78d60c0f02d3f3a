"""What the function answers, for programs: an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0)."""

from typing import Any

from ..bundle.image import FORMATS
from .question import MAX_INSTANCES
from .sources import MAX_NAME_BYTES

_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "application/octet-stream")
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_REFUSALS = {
    "400": "The request is malformed.",
    "403": "The poster's host or bucket is not allowed.",
    "404": "There is no such poster, or the model knows no such genre.",
    "405": "The address does not take this method.",
    "408": "The request did not arrive in time.",
    "413": "The request or the poster is too large.",
    "415": "This is not an image of a format that is read.",
    "422": "The image is damaged, or has too many pixels.",
    "500": "Something went wrong that the function did not expect.",
    "503": "The model, the bucket or the poster's host is not available.",
    "504": "The poster's host is too slow.",
}


def document() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Genres of an anime from its poster",
            "version": "1",
            "description": f"Posters are {', '.join(FORMATS)}; an animation gives its first frame.",
        },
        "paths": {
            "/": {
                "get": _get("What the function does and how to ask.", "describe", {"type": "object"}),
                "post": _ask(),
            },
            "/health": {"get": _get("Whether the model is there.", "health", _ref("Health"), "503")},
            "/healthz": {"get": _get("As /health, where nothing stands in front.", "healthz", _ref("Health"), "503")},
            "/model": {"get": _get("The model's card and figures.", "model", _ref("About"), "503")},
            "/openapi.json": {"get": _get("This document.", "openapi", {"type": "object"})},
        },
        "components": {"schemas": _schemas()},
    }


def _ask() -> dict[str, Any]:
    image = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    form = {"type": "object", "properties": {"poster": {"type": "string", "format": "binary"}}, "required": ["poster"]}
    return {
        "summary": "The genres of one poster, or of several.",
        "operationId": "ask",
        "parameters": [
            {
                "name": "top",
                "in": "query",
                "description": "How many genres an answer has at most, the most probable ones.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            },
            {
                "name": "explain",
                "in": "query",
                "description": "A genre's name or id: where on the poster it was seen.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("Question")},
                "multipart/form-data": {"schema": form},
                **dict.fromkeys(_IMAGES, image),
            },
        },
        "responses": {
            "200": _response("What is said about it.", {"oneOf": [_ref("Answer"), _ref("Answers")]}),
            **{status: _response(meaning, _ref("Refusal")) for status, meaning in _REFUSALS.items()},
        },
    }


def _get(summary: str, operation: str, schema: dict[str, Any], *refusals: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": operation,
        "responses": {
            "200": _response(summary, schema),
            **{status: _response(_REFUSALS[status], _ref("Refusal")) for status in ("500", *refusals)},
        },
    }


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _schemas() -> dict[str, Any]:
    text, number, share = {"type": "string"}, {"type": "number"}, {"type": "number", "minimum": 0, "maximum": 1}
    genre = {"id": {"type": ["integer", "null"]}, "name": text}
    named = {
        "type": "string",
        "description": "An object in the function's bucket, a gs:// address, or an https:// address of a host that is "
        f"allowed; at most {MAX_NAME_BYTES} bytes in UTF-8, whatever the number of characters.",
        "minLength": 1,
        "maxLength": MAX_NAME_BYTES,
        "examples": ["posters/5.jpg"],
    }
    poster = [
        {"type": "object", "properties": {"name": named, "image": False}, "required": ["name"]},
        {
            "type": "object",
            "properties": {"image": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64}, "name": False},
            "required": ["image"],
        },
    ]
    model = {
        "version": {"type": ["string", "null"]},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "dataset_date": {"type": ["string", "null"]},
        "precision": {"enum": ["fp32", "int8"]},
        "explains": {"type": "boolean"},
    }
    error = {"code": text, "message": text}
    about = {"genres": {"type": "array", "items": _ref("Genre")}, "explanation": _ref("Explanation")}
    return {
        "Question": {
            "oneOf": [
                *poster,
                _object(
                    {
                        "instances": {
                            "type": "array",
                            "description": "Each is answered by itself: what is wrong with one, even that it is "
                            "malformed, is said in its place, and the others are answered.",
                            "minItems": 1,
                            "maxItems": MAX_INSTANCES,
                            "items": {"oneOf": poster},
                        }
                    }
                ),
            ]
        },
        "Genre": _object({**genre, "probability": share, "threshold": share, "predicted": {"type": "boolean"}}),
        "Model": _object(model),
        "Timing": _object({"fetch": number, "decode": number, "infer": number, "total": number}),
        "Explanation": _object(
            {
                "genre": _object(genre),
                "image": {"type": ["string", "null"], "description": "A PNG, to be laid over the poster, as data: ..."},
                "reason": text,
            },
            "reason",
        ),
        "Answer": _object(
            {
                **about,
                "model": _ref("Model"),
                "timing_ms": _ref("Timing"),
            },
            "explanation",
        ),
        "Answers": _object(
            {
                "predictions": {
                    "type": "array",
                    "items": {
                        "oneOf": [
                            _object(about, "explanation"),
                            _object({"error": _object({**error, "status": {"type": "integer"}})}),
                        ]
                    },
                },
                "model": _ref("Model"),
                "timing_ms": _ref("Timing"),
            }
        ),
        "Refusal": _object({"error": _object(error)}),
        "Health": _object({"status": {"const": "ok"}, "model": _ref("Model")}),
        "About": _object(
            {
                "model": _ref("Model"),
                "card": {"type": ["string", "null"]},
                "figures": {"type": ["object", "null"]},
            }
        ),
    }
