"""The deployed function over HTTP: a poster comes in, its genres go out as JSON.

functions-framework runs it from the zip that is deployed (target `predict`), with the environment

    BUNDLE_URI      gs://BUCKET/bundles/SHA256, where the model is; posters are read from the same bucket
    BUNDLE_SHA256   the sha256 that the bundle's manifest.json must have
    MODEL_VERSION   the version in the model registry, said with every answer
    DATASET_DATE    the day its catalogue was read, said with every answer

GET / says how to ask, GET /healthz whether the model is there; GET /health is the same, because Google's
front end keeps addresses that end in z for itself. The model is loaded and checked once, before the first
answer.
"""

import json
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import functions_framework
import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Bucket, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from .errors import BundleError, PosterError, PosterFormatError
from .image import FORMATS, MAX_PIXELS
from .model import MANIFEST, MODEL, GenrePrediction, Model

MAX_BYTES = 20 * 1024 * 1024  # of a poster; Cloud Run itself ends at 32 MiB a request
STORAGE_TIMEOUT_SECONDS = 20.0
_UNREACHABLE = (
    google_exceptions.GoogleAPIError,
    auth_exceptions.GoogleAuthError,
    requests.RequestException,
    OSError,
)

Answer = tuple[dict[str, Any], int]


class RequestError(Exception):
    """A request that cannot be answered: HTTP status, a code for programs, one sentence for a person."""

    def __init__(self, status: int, code: str, message: str, allow: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.allow = allow


class LoadedOnce:
    """The bundle that the environment names, loaded by the first request that needs it.

    A failed load is tried again by the next request: the bucket may answer by then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bucket: Bucket | None = None
        self._model: Model | None = None

    def bucket(self) -> Bucket:
        """The bundle's bucket."""
        with self._lock:
            if self._bucket is None:
                self._bucket = _client().bucket(_bundle_address()[0])
            return self._bucket

    def model(self) -> Model:
        """The checked model; BundleError where the bundle is incomplete or not what it should be."""
        bucket = self.bucket()
        with self._lock:
            if self._model is None:
                self._model = _load(bucket, _bundle_address()[1])
            return self._model


_loaded = LoadedOnce()


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    """Answer one request, and write one line about it to the log."""
    started = time.perf_counter()
    headers = {}
    stack_trace = None
    try:
        body, status = _route(request)
    except RequestError as error:
        body, status = _error(error.code, str(error)), error.status
        if error.allow:
            headers["Allow"] = error.allow
    except PosterFormatError as error:
        body, status = _error("unsupported_format", str(error)), 415
    except PosterError as error:
        body, status = _error("unusable_image", str(error)), 422
    except BundleError as error:
        body, status = _error("bundle_error", str(error)), 503
    except RequestEntityTooLarge:
        body, status = _error("too_large", f"The request is larger than {MAX_BYTES // 2**20} MiB."), 413
    except HTTPException as error:  # Flask's own, while a body is parsed
        body, status = _error("bad_request", "The request's body is malformed."), error.code or 400
    except Exception:
        body, status = _error("internal", "Something went wrong that this function did not expect."), 500
        stack_trace = traceback.format_exc()
    _log(request, body, status, time.perf_counter() - started, stack_trace)
    content = json.dumps(body, ensure_ascii=False) + "\n"
    # The framework reads every request to its end before it answers, unless the answer is a stream: so a body
    # that is too large stays unread.
    response = iter([content]) if status == 413 else content
    return flask.Response(response, status, headers, mimetype="application/json")


def _route(request: flask.Request) -> Answer:
    if request.path == "/":
        actions: dict[str, Callable[[flask.Request], Answer]] = {"GET": _describe, "POST": _predict}
    elif request.path in ("/health", "/healthz"):
        actions = {"GET": _health}
    else:
        raise RequestError(404, "no_such_page", "There is nothing at this address; GET / says what there is.")
    method = "GET" if request.method == "HEAD" else request.method
    if method not in actions:
        raise RequestError(
            405,
            "method_not_allowed",
            f"This address takes {' or '.join(actions)}, not {request.method}.",
            allow=", ".join([*actions, "HEAD"]),
        )
    return actions[method](request)


def _describe(request: flask.Request) -> Answer:
    return {
        "name": "anime-genre",
        "what": "Names the genres of an anime from its poster.",
        "ask": [
            'POST / with {"name": "posters/5.jpg"}: an object in the bucket, or its gs:// address',
            "POST / with an image as the body",
            "POST / with an image as a file of a form",
        ],
        "formats": list(FORMATS),
        "limits": {"size_bytes": MAX_BYTES, "pixels": MAX_PIXELS},
        "health": "/health",
    }, 200


def _health(request: flask.Request) -> Answer:
    return {"status": "ok", "model": _identity(_loaded.model())}, 200


def _predict(request: flask.Request) -> Answer:
    poster = _poster(request)
    if len(poster) > MAX_BYTES:
        raise RequestError(413, "too_large", f"The poster is larger than {MAX_BYTES // 2**20} MiB.")
    model = _loaded.model()
    predictions = sorted(model.predict([poster])[0], key=lambda genre: -genre.probability)
    return {"genres": [_genre(genre) for genre in predictions], "model": _identity(model)}, 200


def _genre(genre: GenrePrediction) -> dict[str, object]:
    return {
        "id": genre.id,
        "name": genre.name,
        "probability": genre.probability,
        "threshold": genre.threshold,
        "predicted": genre.predicted,
    }


def _identity(model: Model) -> dict[str, object]:
    return {
        "version": os.environ.get("MODEL_VERSION"),
        "sha256": model.sha256,
        "dataset_date": os.environ.get("DATASET_DATE"),
    }


def _poster(request: flask.Request) -> bytes:
    """The bytes of the poster that a request brings or names, at most MAX_BYTES + 1 of them."""
    # A body of unknown length is cut there without an error, so that one byte too many shows.
    request.max_content_length = MAX_BYTES + 1
    kind = request.mimetype
    if kind == "application/json":
        return _named_poster(request.get_json(silent=True))
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


def _named_poster(body: object) -> bytes:
    """Read the poster named by {"name": ...} from the bundle's bucket."""
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name or len(name.encode(errors="replace")) > 1024:
        raise RequestError(400, "bad_request", 'The JSON has to be an object like {"name": "posters/5.jpg"}.')
    bucket = _loaded.bucket()
    if name.startswith("gs://"):
        bucket_name, _, name = name.removeprefix("gs://").partition("/")
        if bucket_name != bucket.name:
            raise RequestError(403, "forbidden_bucket", "Posters are read from the function's own bucket only.")
        if not name:
            raise RequestError(400, "bad_request", "The gs:// address names a bucket and no object.")
    try:
        # A range, so that no object can fill the memory.
        return _download(bucket, name, end=MAX_BYTES)
    except google_exceptions.NotFound as error:
        raise RequestError(404, "no_such_poster", f"There is no poster '{name}' in the bucket.") from error
    except google_exceptions.RequestRangeNotSatisfiable:
        return b""  # an empty object has no first byte
    except _UNREACHABLE as error:
        raise RequestError(503, "storage_unavailable", "The bucket does not answer; try again.") from error


def _client() -> Client:
    """Google's own client; against an emulator it needs no identity."""
    if "STORAGE_EMULATOR_HOST" in os.environ:
        return Client(project="local", credentials=AnonymousCredentials())
    try:
        return Client()
    except auth_exceptions.GoogleAuthError as error:
        raise RequestError(503, "storage_unavailable", "The function has no access to its bucket.") from error


def _bundle_address() -> tuple[str, str]:
    """Bucket and folder of BUNDLE_URI."""
    scheme, _, address = os.environ.get("BUNDLE_URI", "").partition("://")
    bucket, _, folder = address.partition("/")
    if scheme != "gs" or not bucket or not folder:
        raise BundleError("BUNDLE_URI has to be set to gs://BUCKET/FOLDER of a bundle.")
    return bucket, folder.rstrip("/")


def _load(bucket: Bucket, folder: str) -> Model:
    expected = os.environ.get("BUNDLE_SHA256")
    if not expected:
        raise BundleError("BUNDLE_SHA256 has to be set to the sha256 of the bundle's manifest.json.")
    with tempfile.TemporaryDirectory() as temporary:
        for name in (MANIFEST, MODEL):
            try:
                (Path(temporary) / name).write_bytes(_download(bucket, f"{folder}/{name}"))
            except google_exceptions.NotFound as error:
                raise BundleError(f"The bundle has no {name} in the bucket.") from error
            except _UNREACHABLE as error:
                raise RequestError(503, "storage_unavailable", "The model's bucket does not answer.") from error
        return Model.load(Path(temporary), expected)


def _download(bucket: Bucket, name: str, end: int | None = None) -> bytes:
    data: bytes = bucket.blob(name).download_as_bytes(
        end=end, timeout=STORAGE_TIMEOUT_SECONDS, retry=DEFAULT_RETRY.with_timeout(STORAGE_TIMEOUT_SECONDS)
    )
    return data


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _log(request: flask.Request, body: dict[str, Any], status: int, seconds: float, stack_trace: str | None) -> None:
    """One JSON line in Cloud Logging's shape; nothing of the image is in it."""
    line: dict[str, object] = {
        "severity": "ERROR" if status >= 500 else "WARNING" if status >= 400 else "INFO",
        "message": f"{request.method} {request.path} {status}",
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "trace": request.headers.get("X-Cloud-Trace-Context", ""),
    }
    if "error" in body:
        line |= {"code": body["error"]["code"], "reason": body["error"]["message"]}
    elif "genres" in body:
        line |= {"model_sha256": body["model"]["sha256"], "top_genre": body["genres"][0]["name"]}
    if stack_trace:
        line["stack_trace"] = stack_trace  # for those who run the function, never for those who ask it
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
