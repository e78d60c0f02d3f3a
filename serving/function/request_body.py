"""Parses requests: one poster or a batch, the number of genres, and the genre to explain.

The dataclasses of JSON bodies are also the source of openapi.json; `Annotated` adds keywords of JSON Schema.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from .body_limits import limit_memory, slow_senders
from .errors import RequestError, shown
from .named_posters import MAX_BYTES, MAX_NAME_BYTES

MAX_INSTANCES = 32
MAX_JSON_BYTES = 4 * MAX_BYTES // 3 + 1024 * 1024  # one poster in base64, and the JSON around it
_LARGE_JSON_BYTES = 1024 * 1024
_MAX_JSON_MEMBERS = 4096  # counted as brackets and commas, which base64 does not contain
_SHAPES = '{"name": "posters/5.jpg"}, {"image": BASE64} or {"instances": [...]}'


@dataclass(frozen=True)
class NamedPoster:
    """A poster that the function fetches."""

    name: Annotated[
        str,
        {
            "description": "An object in the function's bucket, a gs:// address, or an https:// address on an allowed "
            f"host. At most {MAX_NAME_BYTES} bytes in UTF-8, whatever the number of characters.",
            "minLength": 1,
            "maxLength": MAX_NAME_BYTES,
            "examples": ["posters/5.jpg"],
        },
    ]


@dataclass(frozen=True)
class EncodedPoster:
    """A poster as an image file in base64."""

    image: Annotated[
        str,
        {
            "contentEncoding": "base64",
            "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
        },
    ]


@dataclass(frozen=True)
class Batch:
    """Several posters."""

    instances: Annotated[
        list[NamedPoster | EncodedPoster],
        {
            "description": "Each poster has its own prediction or error. An invalid poster does not affect the others.",
            "minItems": 1,
            "maxItems": MAX_INSTANCES,
        },
    ]


@dataclass(frozen=True)
class PosterRequest:
    """A parsed request.

    `instances` holds bytes of image files, or JSON values that `parse_instance` reads; if it is not a batch, exactly
    one. `top` limits the number of genres. `explain` is a genre's name or id.
    """

    instances: list[object]
    batch: bool
    top: int | None
    explain: str | None


@contextmanager
def read_request(request: flask.Request) -> Iterator[PosterRequest]:
    """Read and parse a request. The memory of its body stays reserved inside the block.

    Raises RequestError: 400 if it is malformed, 408 if it arrives too slowly, 413 if it is too large, 415 if the body
    has an unsupported type, 503 if other requests use the memory.
    """
    limit = MAX_JSON_BYTES if request.mimetype == "application/json" else MAX_BYTES
    length = None if "Transfer-Encoding" in request.headers else request.content_length or 0
    if length is not None and length > limit:
        raise _too_large(limit)
    # Werkzeug cuts a body of unknown length at this limit without an error. One extra byte makes the excess visible.
    request.max_content_length = limit + 1
    top, explain = _parse_top(request.args.get("top")), request.args.get("explain")
    with limit_memory(request):
        try:
            with slow_senders.limit(request):
                instances, batch = _read_instances(request, limit)
        except RequestEntityTooLarge as error:
            if request.mimetype == "multipart/form-data":  # Flask also limits the number and size of form fields
                raise RequestError(413, "too_large", "The form is too large; send only one poster.") from error
            raise _too_large(limit) from error
        except HTTPException as error:  # raised by Flask's parsers
            raise RequestError(400, "bad_request", "The body is malformed; GET / shows its forms.") from error
        yield PosterRequest(instances, batch, top, explain)


def parse_instance(instance: object) -> bytes | NamedPoster:
    """The bytes of a poster's image file, or its name if the function has to fetch it.

    Raises RequestError (400) for any other instance.
    """
    if isinstance(instance, bytes):
        return instance
    if not isinstance(instance, dict) or ("name" in instance) == ("image" in instance):
        raise RequestError(400, "bad_request", f"The JSON must have the form {_SHAPES}.")
    if "name" in instance:
        return NamedPoster(instance["name"])
    image = instance["image"]
    try:
        return base64.b64decode(image if isinstance(image, str) else b"?", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "bad_request", "The 'image' must be an image file in base64.") from error


def _read_instances(request: flask.Request, limit: int) -> tuple[list[object], bool]:
    """The instances, and whether they are a batch."""
    if request.mimetype != "application/json":
        return [_read_image(request)], False
    data = request.get_data(cache=False)
    if len(data) > limit:
        raise _too_large(limit)
    # Parsed JSON takes much more memory than its text: per object, and up to four bytes per character.
    if sum(map(data.count, (b"{", b"[", b","))) > _MAX_JSON_MEMBERS:
        raise RequestError(400, "bad_request", f"The JSON must have the form {_SHAPES}.")
    if len(data) > _LARGE_JSON_BYTES and (not data.isascii() or b"\\u" in data):
        raise RequestError(400, "bad_request", "JSON of more than 1 MiB must be plain ASCII without \\u escapes.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_request", "The body is not valid JSON; GET / shows its forms.") from error
    if not isinstance(body, dict) or "instances" not in body:
        return [body], False
    instances = body["instances"]
    if len(body) > 1:
        raise RequestError(400, "bad_request", "A request with 'instances' must have no other members.")
    if not isinstance(instances, list) or not 0 < len(instances) <= MAX_INSTANCES:
        raise RequestError(400, "bad_request", f"The 'instances' must be a list of 1 to {MAX_INSTANCES} posters.")
    return instances, True


def _read_image(request: flask.Request) -> bytes:
    kind = request.mimetype
    if kind == "multipart/form-data":
        uploads = [file for _, file in request.files.items(multi=True)]
        if len(uploads) != 1:
            raise RequestError(400, "bad_request", f"The form has {len(uploads)} files; send one poster.")
        data: bytes = uploads[0].read()
        return data
    if kind.startswith("image/") or kind == "application/octet-stream":
        return request.get_data()
    raise RequestError(
        415,
        "unsupported_content",
        f"The content type {shown(kind)} is not supported; send application/json, an image, or a form with one file.",
    )


def _parse_top(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise RequestError(400, "bad_request", "'top' must be a positive integer.")
    return int(text)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "too_large", f"The request is larger than {limit // 2**20} MiB; send less.")
