"""The Flask app behind the page `/anime`: it takes a poster, asks the function, and shows the genres.

    FUNCTION_URL=http://127.0.0.1:8080 gunicorn 'serving.web.app:create_app()'

The page works without JavaScript: the form is answered with the same page, genres filled in. Programs ask for
JSON (`Accept: application/json`) at the same address.
"""

import os
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, jsonify, redirect, render_template, request, url_for
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as BaseResponse

from .function_client import Answer, FunctionError, GenreAnswer, ask

MAX_POSTER_BYTES = 20 * 1024 * 1024
FORM_BYTES = 64 * 1024  # what a form writes around its file
MAX_DRAINED_BYTES = 200 * 1024 * 1024
MAYBE_SHARE = 0.6  # a genre is "maybe" from this share of its threshold on
# Posters drawn for this page, by the name of their file in static/samples.
SAMPLES = {
    "nakusa": "Nakusa",
    "yuhi-tram": "Yuhi Tram: The Paper Crown",
    "niwahanes-mirror": "Niwahane's Mirror",
    "fuchiyas-mirror": "Fuchiya's Mirror",
}
TOO_LARGE = f"The poster is larger than {MAX_POSTER_BYTES // 2**20} MB; choose a smaller one."
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(function_url: str | None = None, timeout_seconds: float = 60) -> Flask:
    """The app. `function_url` is the environment's FUNCTION_URL if not given; without one the page says so.

    Raises:
        ValueError: the function's address is no http or https address.
    """
    function_url = function_url or os.environ.get("FUNCTION_URL") or None
    if function_url is not None:
        parts = urlsplit(function_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"FUNCTION_URL has to be an http:// or https:// address, not {function_url!r}.")
    app = Flask(__name__)
    app.config.update(
        FUNCTION_URL=function_url,
        FUNCTION_TIMEOUT_SECONDS=timeout_seconds,
        MAX_CONTENT_LENGTH=MAX_POSTER_BYTES + FORM_BYTES,
        MAX_FORM_MEMORY_SIZE=FORM_BYTES,
    )
    app.jinja_env.globals.update(samples=SAMPLES, max_poster_bytes=MAX_POSTER_BYTES, too_large=TOO_LARGE)
    app.jinja_env.filters.update(likelihood=likelihood, readable_date=readable_date)
    app.add_url_rule("/", view_func=_home)
    app.add_url_rule("/anime", view_func=_page)
    app.add_url_rule("/anime", view_func=_predict, methods=["POST"])
    app.add_url_rule("/healthz", view_func=_health)
    app.register_error_handler(FunctionError, _function_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    app.after_request(_secured)
    return app


def likelihood(genre: GenreAnswer) -> str:
    """The word beside a bar: "likely" if predicted, "maybe" near the threshold, else "unlikely"."""
    if genre.predicted:
        return "likely"
    return "maybe" if genre.probability >= MAYBE_SHARE * genre.threshold else "unlikely"


def readable_date(iso: str) -> str:
    """ "2026-11-23" as "23 November 2026"; whatever is no such date stays as it is."""
    try:
        day = date.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{day.day} {day:%B %Y}"


def _home() -> BaseResponse:
    return redirect(url_for("_page"))


def _health() -> Response:
    return jsonify(status="ok")


def _page() -> str:
    return render_template("anime.html")


def _predict() -> Response:
    poster, name, content_type = _poster()
    if current_app.config["FUNCTION_URL"] is None:
        raise FunctionError(503, "no_function", "This page does not know its function; FUNCTION_URL is not set.")
    answer = ask(
        current_app.config["FUNCTION_URL"],
        poster,
        content_type,
        current_app.config["FUNCTION_TIMEOUT_SECONDS"],
    )
    if _wants_json():
        return jsonify(_as_json(answer))
    return Response(render_template("anime.html", answer=answer, name=name))


def _poster() -> tuple[bytes, str, str]:
    """Bytes, name and content type of what the form brought: a file, or the name of a sample."""
    sample = request.form.get("sample")
    if sample in SAMPLES:
        data = (Path(current_app.root_path) / "static" / "samples" / f"{sample}.jpg").read_bytes()
        return data, SAMPLES[sample], "image/jpeg"
    upload = request.files.get("poster")
    if upload is None or not upload.filename:
        raise FunctionError(400, "no_poster", "No poster was chosen; choose an image first.")
    data = upload.read()
    if len(data) > MAX_POSTER_BYTES:
        raise FunctionError(413, "too_large", TOO_LARGE)
    return data, upload.filename, _content_type(upload)


def _content_type(upload: FileStorage) -> str:
    """The browser's word for the file if it is an image; the function looks at the bytes in any case."""
    return upload.mimetype if upload.mimetype.startswith("image/") else "application/octet-stream"


def _wants_json() -> bool:
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def _as_json(answer: Answer) -> dict[str, Any]:
    """The function's own answer, with the word for each genre."""
    return {
        "genres": [{**vars(genre), "likelihood": likelihood(genre)} for genre in answer.genres],
        "model": {"version": answer.version, "sha256": answer.sha256, "dataset_date": answer.dataset_date},
    }


def _function_error(error: FunctionError) -> Response:
    return _refusal(error.status, error.code, str(error))


def _http_error(error: HTTPException) -> Response:
    """Flask's own refusals, said on the page instead of Werkzeug's."""
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        _drain()
        return _refusal(status, "too_large", TOO_LARGE)
    response = _refusal(status, "bad_request", f"{error.name}. Start again from the page itself.")
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> Response:
    current_app.logger.error("An unexpected error", exc_info=error)
    return _refusal(500, "internal", "Something went wrong that this page did not expect. Try again.")


def _drain() -> None:
    """Read what a browser is still sending: one that cannot finish shows a lost connection, not our words."""
    length = request.content_length or 0
    if not MAX_POSTER_BYTES + FORM_BYTES < length <= MAX_DRAINED_BYTES:
        return
    while length > 0 and (chunk := request.environ["wsgi.input"].read(min(length, 64 * 1024))):
        length -= len(chunk)


def _refusal(status: int, code: str, message: str) -> Response:
    if _wants_json():
        response = jsonify(error={"code": code, "message": message})
    else:
        response = Response(render_template("anime.html", error=message, code=code))
    response.status_code = status
    return response


def _secured(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Accept")
    return response
