"""The deployed function over HTTP: a poster comes in, its genres go out as JSON.

functions-framework runs it from the zip that is deployed (target `predict`). Its environment is described in
`loading` (which model) and `sources` (which posters); besides,

    CORS_ORIGINS    pages of other origins that may ask, with commas between them, or *; none where it is not set

GET / says how to ask, GET /openapi.json says it to programs. GET /healthz says whether the model is there; GET /health
is the same, because Google's front end keeps addresses that end in z for itself.
"""

import json
import os
import sys
import traceback
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import flask
import functions_framework

from ..bundle.errors import AnimeGenreError, RequestError
from ..bundle.image import FORMATS
from .answering import Stopwatch, answer, refusal
from .loading import Bundle, identity
from .openapi import document
from .question import MAX_INSTANCES, asked
from .reading import drain
from .sources import MAX_BYTES

Action = Callable[[flask.Request, Stopwatch], dict[str, Any]]
_bundle = Bundle()
# The framework imports this file and then forks the process that answers.
os.register_at_fork(after_in_child=_bundle.load_in_background)


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    """Answer one request, and write one line about it to the log."""
    watch, identifier = Stopwatch(), _identifier(request)
    headers = {"X-Request-Id": identifier, **_cross_origin(request)}
    stack_trace = None
    try:
        body, status = _route(request, watch, headers), 200
    except AnimeGenreError as error:
        status, code = refusal(error)
        body = {"error": {"code": code, "message": str(error)}}
    except Exception:
        status, stack_trace = 500, traceback.format_exc()
        body = {"error": {"code": "internal", "message": "Something went wrong that this function did not expect."}}
    if status not in (200, 408, 413) or request.method != "POST":
        drain(request)
    _log(request, identifier, body, status, watch, stack_trace)
    if request.method == "OPTIONS" and status == 200:
        return flask.Response(status=204, headers=headers)
    content = (json.dumps(body, ensure_ascii=False) + "\n").encode()
    headers["Content-Length"] = str(len(content))
    # As a stream, or the framework would read every request to its end first, however long that is and takes.
    return flask.Response(iter([content]), status, headers, mimetype="application/json")


def _route(request: flask.Request, watch: Stopwatch, headers: dict[str, str]) -> dict[str, Any]:
    """What the address answers; `headers` are the answer's."""
    actions = _ADDRESSES.get(request.path)
    if actions is None:
        raise RequestError(404, "no_such_page", "There is nothing at this address; GET / says what there is.")
    allowed = [*actions, *(["HEAD"] if "GET" in actions else []), "OPTIONS"]
    if request.method == "OPTIONS":
        headers["Allow"] = ", ".join(allowed)
        return {}
    action = actions.get("GET" if request.method == "HEAD" else request.method)
    if action is None:
        headers["Allow"] = ", ".join(allowed)
        raise RequestError(
            405, "method_not_allowed", f"This address takes {' or '.join(actions)}, not {request.method}."
        )
    return action(request, watch)


def _describe(request: flask.Request, watch: Stopwatch) -> dict[str, Any]:
    return {
        "name": "anime-genre",
        "what": "Names the genres of an anime from its poster.",
        "ask": [
            'POST / with {"name": "posters/5.jpg"}: an object in the bucket, a gs:// address, or an https:// address '
            "of the site's poster host",
            'POST / with {"image": BASE64}, with an image as the body, or with an image as a file of a form',
            f'POST / with {{"instances": [{{"name": ...}}, {{"image": ...}}]}}: up to {MAX_INSTANCES} at once',
            "?top=3: only the three most probable genres; ?explain=Action: where on the poster it was seen",
        ],
        "formats": list(FORMATS),
        "limits": {"size_bytes": MAX_BYTES, "instances": MAX_INSTANCES},
        "model": "/model",
        "health": "/health",
        "openapi": "/openapi.json",
    }


def _health(request: flask.Request, watch: Stopwatch) -> dict[str, Any]:
    return {"status": "ok", "model": identity(_bundle.model())}


def _model(request: flask.Request, watch: Stopwatch) -> dict[str, Any]:
    return {"model": identity(_bundle.model()), **_bundle.about()}


def _openapi(request: flask.Request, watch: Stopwatch) -> dict[str, Any]:
    return document()


def _predict(request: flask.Request, watch: Stopwatch) -> dict[str, Any]:
    with ExitStack() as reading:
        with watch.stage("fetch"):
            question = reading.enter_context(asked(request))
        return answer(question, _bundle, watch)


_ADDRESSES: dict[str, dict[str, Action]] = {
    "/": {"GET": _describe, "POST": _predict},
    "/health": {"GET": _health},
    "/healthz": {"GET": _health},
    "/model": {"GET": _model},
    "/openapi.json": {"GET": _openapi},
}


def _cross_origin(request: flask.Request) -> dict[str, str]:
    """What lets a page of another origin read the answer, where the setting names it."""
    allowed = [entry.strip() for entry in os.environ.get("CORS_ORIGINS", "").split(",") if entry.strip()]
    origin = request.headers.get("Origin")
    if not allowed:
        return {}
    if origin is None or not ("*" in allowed or origin in allowed):
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "*" if "*" in allowed else origin,
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "Content-Type, Authorization",
        "Access-Control-Expose-Headers": "X-Request-Id",
        "Access-Control-Max-Age": "3600",
    }


def _identifier(request: flask.Request) -> str:
    """Of a request: its trace in Google's own logs, where it has one."""
    trace = request.headers.get("X-Cloud-Trace-Context", "").partition("/")[0]
    return trace if trace.isalnum() and len(trace) <= 64 else uuid.uuid4().hex


def _log(
    request: flask.Request,
    identifier: str,
    body: dict[str, Any],
    status: int,
    watch: Stopwatch,
    stack_trace: str | None,
) -> None:
    """One JSON line as Cloud Logging reads it (https://cloud.google.com/logging/docs/structured-logging); nothing of
    the image is in it."""
    milliseconds = watch.milliseconds()
    line: dict[str, Any] = {
        "severity": "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO",
        "message": f"{request.method} {request.path} {status}",
        "httpRequest": {
            "requestMethod": request.method,
            "requestUrl": request.path,
            "status": status,
            "latency": f"{milliseconds['total'] / 1000:.4f}s",
        },
        "request_id": identifier,
        "milliseconds": milliseconds,
    }
    project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    if project and "X-Cloud-Trace-Context" in request.headers:
        line["logging.googleapis.com/trace"] = f"projects/{project}/traces/{identifier}"
    if "error" in body:
        line |= {"code": body["error"]["code"], "reason": body["error"]["message"]}
    if "model" in body and isinstance(body["model"], dict):
        line["model_sha256"] = body["model"]["sha256"]
    if "genres" in body:
        line["top_genre"] = body["genres"][0]["name"]
    if "predictions" in body:
        line["instances"] = len(body["predictions"])
    if stack_trace:
        line["stack_trace"] = stack_trace  # for those who run the function, never for those who ask it
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
