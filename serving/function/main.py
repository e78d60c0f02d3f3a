"""The entry point of the Cloud Function: a poster in, its genres as JSON out.

functions-framework runs it from the deployed zip (target `predict`). `loading` describes the environment variables of
the model, `named_posters` those of named posters. This module reads one more:

    CORS_ORIGINS    origins whose pages may call the function, separated by commas, or *; none by default

GET / describes the function to people, GET /openapi.json to programs. GET /health says at once whether the model is
loaded: 200, or 503 with the reason. GET /healthz is the same, but Google's front end reserves addresses that end in z.
"""

import json
import os
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flask
import functions_framework

from ..bundle.errors import AnimeGenreError
from ..bundle.image import FORMATS
from .body_limits import drain
from .errors import LASTING_CODES, RequestError, shown, status_and_code
from .inference import predict_posters
from .loading import Bundle, model_identity
from .named_posters import MAX_BYTES
from .request_body import MAX_INSTANCES, read_request
from .request_log import Measurements, stack_trace, write_line
from .response_types import (
    BatchResponse,
    DescriptionResponse,
    ErrorDetail,
    ErrorResponse,
    HealthResponse,
    Limits,
    ModelResponse,
    PosterResponse,
    to_json,
)

Action = Callable[[flask.Request, Measurements], Any]
_bundle = Bundle()
# The framework imports this file and then forks the worker process.
os.register_at_fork(after_in_child=_bundle.load_in_background)


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    """Respond to one request and write one line about it to the log."""
    measured, request_id = Measurements(), _request_id(request)
    headers = {"X-Request-Id": request_id, **_cors_headers(request)}
    for_operator: dict[str, str] = {}
    try:
        response, status = _route(request, measured, headers), 200
    except AnimeGenreError as error:
        status, code = status_and_code(error)
        response = ErrorResponse(ErrorDetail(code, str(error)))
        if code in LASTING_CODES:
            for_operator = {"reason": str(error)}
    except Exception as error:
        status, for_operator = 500, {"stack_trace": stack_trace(error)}
        response = ErrorResponse(ErrorDetail("internal", "The function failed with an unexpected error."))
    if status not in (200, 408, 413) or request.method != "POST":
        drain(request)
    if isinstance(response, ErrorResponse):
        measured.refusals[response.error.code] += 1
    path = request.path if request.path in _ADDRESSES else "(unknown address)"
    write_line(request, path, request_id, status, measured, for_operator)
    if request.method == "OPTIONS" and status == 200:
        return flask.Response(status=204, headers=headers)
    content = (json.dumps(to_json(response), ensure_ascii=False) + "\n").encode()
    headers["Content-Length"] = str(len(content))
    # As a stream: otherwise the framework would first read the whole request, whatever its size and duration.
    return flask.Response(iter([content]), status, headers, mimetype="application/json")


def _route(request: flask.Request, measured: Measurements, headers: dict[str, str]) -> Any:
    """The response of the requested address. Adds to the response's `headers`."""
    actions = _ADDRESSES.get(request.path)
    if actions is None:
        raise RequestError(404, "no_such_page", "There is nothing at this address; GET / lists the addresses.")
    allowed = [*actions, *(["HEAD"] if "GET" in actions else []), "OPTIONS"]
    if request.method == "OPTIONS":
        headers["Allow"] = ", ".join(allowed)
        return {}
    if request.method == "POST" and not _is_allowed_origin(request):
        raise RequestError(403, "forbidden_origin", "Pages of this origin may not call the function (CORS_ORIGINS).")
    action = actions.get("GET" if request.method == "HEAD" else request.method)
    if action is None:
        headers["Allow"] = ", ".join(allowed)
        raise RequestError(
            405, "method_not_allowed", f"This address supports {' or '.join(actions)}, not {shown(request.method)}."
        )
    return action(request, measured)


def _describe(request: flask.Request, measured: Measurements) -> DescriptionResponse:
    return DescriptionResponse(
        name="anime-genre",
        what="Predicts the genres of an anime from its poster.",
        ask=[
            'POST / with {"name": "posters/5.jpg"}: an object in the bucket, a gs:// address, or an https:// address '
            "on an allowed host",
            'POST / with {"image": BASE64}, with an image as the body, or with a form that has one file',
            f'POST / with {{"instances": [{{"name": ...}}, {{"image": ...}}]}}: up to {MAX_INSTANCES} posters',
            "?top=3: only the three most probable genres; ?explain=Action: where on the poster the model sees it",
        ],
        formats=list(FORMATS),
        limits=Limits(MAX_BYTES, MAX_INSTANCES),
        model="/model",
        health="/health",
        openapi="/openapi.json",
    )


def _health(request: flask.Request, measured: Measurements) -> HealthResponse:
    return HealthResponse("ok", model_identity(_bundle.model_if_loaded()))


def _model(request: flask.Request, measured: Measurements) -> ModelResponse:
    return _bundle.description()


def _openapi(request: flask.Request, measured: Measurements) -> Any:
    return json.loads((Path(__file__).parent / "openapi.json").read_bytes())


def _predict(request: flask.Request, measured: Measurements) -> PosterResponse | BatchResponse:
    with ExitStack() as reading:
        with measured.stage("fetch"):
            poster_request = reading.enter_context(read_request(request))
        return predict_posters(poster_request, _bundle, measured)


_ADDRESSES: dict[str, dict[str, Action]] = {
    "/": {"GET": _describe, "POST": _predict},
    "/health": {"GET": _health},
    "/healthz": {"GET": _health},
    "/model": {"GET": _model},
    "/openapi.json": {"GET": _openapi},
}


def _allowed_origins() -> list[str]:
    return [entry.strip() for entry in os.environ.get("CORS_ORIGINS", "").split(",") if entry.strip()]


def _is_allowed_origin(request: flask.Request) -> bool:
    """Whether the page that sends the request may call the function. Programs send no Origin."""
    origin, allowed = request.headers.get("Origin"), _allowed_origins()
    return origin is None or "*" in allowed or origin in allowed


def _cors_headers(request: flask.Request) -> dict[str, str]:
    """The headers that let a page of an allowed origin read the response."""
    origin, allowed = request.headers.get("Origin"), _allowed_origins()
    if not allowed:
        return {}
    if origin is None or not _is_allowed_origin(request):
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "*" if "*" in allowed else origin,
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "Content-Type, Authorization",
        "Access-Control-Expose-Headers": "X-Request-Id",
        "Access-Control-Max-Age": "3600",
    }


def _request_id(request: flask.Request) -> str:
    """The trace id of Google's logs if the request has one, else a random id."""
    trace = request.headers.get("X-Cloud-Trace-Context", "").partition("/")[0]
    return trace if trace.isalnum() and len(trace) <= 64 else uuid.uuid4().hex
