"""What a request asks: one poster or a batch of them, how many genres, and where a genre is seen."""

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from ..bundle.errors import RequestError
from .reading import received, slow_senders
from .sources import MAX_BYTES

MAX_INSTANCES = 32
MAX_JSON_BYTES = 4 * MAX_BYTES // 3 + 1024 * 1024  # one poster in base64, and what JSON writes around it
_LARGE_JSON_BYTES = 1024 * 1024
_MOST_MEMBERS = 4096  # brackets and commas, of which base64 has none
_SHAPES = '{"name": "posters/5.jpg"}, {"image": BASE64} or {"instances": [...]}'


@dataclass(frozen=True)
class Question:
    """`instances` are bytes of posters or JSON members {"name": ...} or {"image": ...}; a batch has any number of them,
    else it is one. `top` limits the genres of an answer; `explain` is a genre's id or name."""

    instances: list[object]
    batch: bool
    top: int | None
    explain: str | None


@contextmanager
def asked(request: flask.Request) -> Iterator[Question]:
    """Read a request; its body's memory is kept for the time of the block.

    Raises RequestError: 400 for what is malformed, 408 for what arrives too slowly, 413 for what is too large, 415 for
    a body of another kind, 503 where others fill the memory.
    """
    limit = MAX_JSON_BYTES if request.mimetype == "application/json" else MAX_BYTES
    length = None if "Transfer-Encoding" in request.headers else request.content_length or 0
    if length is not None and length > limit:
        raise _too_large(limit)
    # A body of unknown length is cut there without an error, so that one byte too many shows.
    request.max_content_length = limit + 1
    top, explain = _top(request.args.get("top")), request.args.get("explain")
    with received(request):
        try:
            with slow_senders.limited(request):
                instances, batch = _instances(request, limit)
        except RequestEntityTooLarge as error:
            if request.mimetype == "multipart/form-data":  # Flask limits its parts and texts, too
                raise RequestError(413, "too_large", "The form is too large; send one poster and no more.") from error
            raise _too_large(limit) from error
        except HTTPException as error:  # Flask's own, while a body is parsed
            raise RequestError(400, "bad_request", "The request's body is malformed.") from error
        yield Question(instances, batch, top, explain)


def brought_poster(instance: object) -> bytes | None:
    """The bytes of a poster that an instance brings, None where it names one.

    Raises RequestError (400) for an instance that does neither.
    """
    if isinstance(instance, bytes):
        return instance
    if not isinstance(instance, dict) or ("name" in instance) == ("image" in instance):
        raise RequestError(400, "bad_request", f"The JSON has to be like {_SHAPES}.")
    if "name" in instance:
        return None
    image = instance["image"]
    try:
        return base64.b64decode(image if isinstance(image, str) else b"?", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "bad_request", "The 'image' has to be an image file in base64.") from error


def _instances(request: flask.Request, limit: int) -> tuple[list[object], bool]:
    """The instances, and whether they are a batch."""
    if request.mimetype != "application/json":
        return [_image(request)], False
    data = request.get_data(cache=False)
    if len(data) > limit:
        raise _too_large(limit)
    # Python's objects take many times the bytes that they are written in, and its texts up to four.
    if sum(map(data.count, (b"{", b"[", b","))) > _MOST_MEMBERS:
        raise RequestError(400, "bad_request", f"The JSON has to be like {_SHAPES}.")
    if len(data) > _LARGE_JSON_BYTES and (not data.isascii() or b"\\u" in data):
        raise RequestError(400, "bad_request", "JSON of more than 1 MiB has to be plain ASCII without \\u escapes.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_request", "The request's body is not JSON.") from error
    if not isinstance(body, dict) or "instances" not in body:
        return [body], False
    instances = body["instances"]
    if len(body) > 1:
        raise RequestError(400, "bad_request", "Beside 'instances' there can be nothing else.")
    if not isinstance(instances, list) or not 0 < len(instances) <= MAX_INSTANCES:
        raise RequestError(400, "bad_request", f"The 'instances' have to be a list of 1 to {MAX_INSTANCES} posters.")
    return instances, True


def _image(request: flask.Request) -> bytes:
    kind = request.mimetype
    if kind == "multipart/form-data":
        uploads = list(request.files.values())
        if len(uploads) != 1:
            raise RequestError(400, "bad_request", f"The form has {len(uploads)} files; send one poster.")
        data: bytes = uploads[0].read()
        return data
    if kind.startswith("image/") or kind == "application/octet-stream":
        return request.get_data()
    raise RequestError(
        415,
        "unsupported_content",
        f"The content type is '{kind}'; send application/json, an image, or a form with one file.",
    )


def _top(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0):
        raise RequestError(400, "bad_request", "'top' has to be a whole number from 1 on.")
    return int(text)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "too_large", f"The request is larger than {limit // 2**20} MiB.")
