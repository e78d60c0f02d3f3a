"""The Flask app behind the page `/anime`: it takes a poster, asks the function, and shows the genres.

    FUNCTION_URL=http://127.0.0.1:8080 gunicorn 'serving.web.app:create_app()'

The page works without JavaScript: the form is answered with the same page, genres filled in. Programs ask for
JSON (`Accept: application/json`) at the same address. `/anime/model` shows what is known about the model.
"""

import os
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as BaseResponse

from .card_html import card_html
from .errors import FunctionError, PageError
from .function_client import ask, describe_model
from .responses import Answer, GenreAnswer
from .upload import MAX_POSTER_BYTES, SAMPLES, TOO_LARGE, read_poster

FORM_BYTES = 64 * 1024  # what a form writes around its file
MAX_DRAINED_BYTES = 200 * 1024 * 1024
MODEL_TIMEOUT_SECONDS = 20.0  # its page has no script that could say meanwhile that the function is waking
MAYBE_SHARE = 0.6  # a genre is "maybe" from this share of its threshold on
SECURITY_HEADERS = {
    # blob: is the poster a person chose, data: the heat map on it and the thumbnails of recent tries.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
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
    app.jinja_env.filters.update(likelihood=likelihood, readable_date=readable_date, card_html=card_html)
    app.add_url_rule("/", view_func=_home)
    app.add_url_rule("/anime", view_func=_page)
    app.add_url_rule("/anime", view_func=_predict, methods=["POST"])
    app.add_url_rule("/anime/model", view_func=_model)
    app.add_url_rule("/healthz", view_func=_health)
    # Google's front end keeps addresses that end in z for itself.
    app.add_url_rule("/health", view_func=_health)
    app.register_error_handler(PageError, _page_error)
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
    poster = read_poster(request)
    answer = ask(
        _function_url(),
        poster.content,
        current_app.config["FUNCTION_TIMEOUT_SECONDS"],
        poster.content_type,
        explain=request.form.get("explain"),
    )
    if _wants_json():
        return jsonify(_as_json(answer))
    return Response(render_template("anime.html", answer=answer, poster=poster))


def _model() -> str:
    timeout_seconds = min(MODEL_TIMEOUT_SECONDS, current_app.config["FUNCTION_TIMEOUT_SECONDS"])
    description = describe_model(_function_url(), timeout_seconds)
    return render_template("model.html", description=description)


def _function_url() -> str:
    function_url: str | None = current_app.config["FUNCTION_URL"]
    if function_url is None:
        raise FunctionError(503, "no_function", "This page does not know its function; FUNCTION_URL is not set.")
    return function_url


def _wants_json() -> bool:
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def _as_json(answer: Answer) -> dict[str, Any]:
    """The function's own answer, with the word for each genre."""
    body: dict[str, Any] = {
        "genres": [{**vars(genre), "likelihood": likelihood(genre)} for genre in answer.genres],
        "model": vars(answer.model),
    }
    if explanation := answer.explanation:
        body["explanation"] = {
            "genre": {"id": explanation.genre_id, "name": explanation.genre},
            "image": explanation.image,
        }
        if explanation.reason:
            body["explanation"]["reason"] = explanation.reason
    return body


def _page_error(error: PageError) -> Response:
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
        template = "model.html" if request.endpoint == "_model" else "anime.html"
        response = Response(render_template(template, error=message, code=code))
    response.status_code = status
    return response


def _secured(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Accept")
    return response
