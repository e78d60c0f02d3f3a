"""The Flask app of the page `/anime`: it sends a poster to the function and shows the predicted genres.

    FUNCTION_URL=http://127.0.0.1:8080 gunicorn 'serving.web.app:create_app()'

The page works without JavaScript: the response to the form is the same page with the genres. Programs get JSON from
the same address with `Accept: application/json`. `/anime/model` describes the model.
"""

import os
import re
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wrappers import Response as BaseResponse

from .card_html import card_html
from .errors import FunctionError, PageError
from .function_client import describe_model, predict
from .responses import GenrePrediction, Prediction
from .upload import MAX_POSTER_BYTES, SAMPLES, TOO_LARGE, read_poster

FORM_BYTES = 64 * 1024  # for everything in a form except its file
MAX_DRAINED_BYTES = 200 * 1024 * 1024
MODEL_TIMEOUT_SECONDS = 20.0  # this page has no script that could explain a longer wait
MAYBE_SHARE = 0.6  # a genre is "maybe" from this fraction of its threshold
SECURITY_HEADERS = {
    # blob: is for the chosen poster, data: for heat maps and the thumbnails of recent posters.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(
    function_url: str | None = None,
    timeout_seconds: float = 60,
    title_noun: str | None = None,
    label_noun: str | None = None,
) -> Flask:
    """Create the app. `function_url` defaults to the environment variable FUNCTION_URL; without it the page says so.

    The page's texts call what a poster shows `title_noun` and what is predicted `label_noun`. They default to the
    environment variables TITLE_NOUN and LABEL_NOUN, then to "anime" and "genre".

    Raises:
        ValueError: the function's address is not an http or https address.
    """
    function_url = function_url or os.environ.get("FUNCTION_URL") or None
    if function_url is not None:
        parts = urlsplit(function_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"FUNCTION_URL must be an http:// or https:// address, not {function_url!r}.")
    app = Flask(__name__)
    app.config.update(
        FUNCTION_URL=function_url,
        FUNCTION_TIMEOUT_SECONDS=timeout_seconds,
        MAX_CONTENT_LENGTH=MAX_POSTER_BYTES + FORM_BYTES,
        MAX_FORM_MEMORY_SIZE=FORM_BYTES,
    )
    label = label_noun or os.environ.get("LABEL_NOUN") or "genre"
    app.jinja_env.globals.update(
        samples=SAMPLES,
        max_poster_bytes=MAX_POSTER_BYTES,
        too_large=TOO_LARGE,
        title_noun=title_noun or os.environ.get("TITLE_NOUN") or "anime",
        label=label,
        labels=plural(label),
    )
    app.jinja_env.filters.update(
        likelihood=likelihood,
        readable_date=readable_date,
        card_html=card_html,
        with_article=with_article,
        with_capital=with_capital,
    )
    app.add_url_rule("/", view_func=_home)
    app.add_url_rule("/anime", view_func=_page)
    app.add_url_rule("/anime", view_func=_predict, methods=["POST"])
    app.add_url_rule("/anime/model", view_func=_model)
    app.add_url_rule("/healthz", view_func=_health)
    # Google's front end reserves addresses that end in z.
    app.add_url_rule("/health", view_func=_health)
    app.register_error_handler(PageError, _page_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    app.after_request(_add_security_headers)
    return app


def likelihood(genre: GenrePrediction) -> str:
    """The word beside a bar: "likely" if predicted, "maybe" near the threshold, else "unlikely"."""
    if genre.predicted:
        return "likely"
    return "maybe" if genre.probability >= MAYBE_SHARE * genre.threshold else "unlikely"


def plural(noun: str) -> str:
    """The plural of an English noun: "genres", "categories", "classes"."""
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(?:s|x|z|ch|sh)$", noun) else f"{noun}s"


def with_article(noun: str) -> str:
    """A noun after its indefinite article: "an anime", "a film"."""
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def with_capital(text: str) -> str:
    """A text whose first letter is a capital."""
    return text[:1].upper() + text[1:]


def readable_date(iso: str) -> str:
    """Format "2026-11-23" as "23 November 2026". Other text stays as it is."""
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
    prediction = predict(
        _function_url(),
        poster.content,
        current_app.config["FUNCTION_TIMEOUT_SECONDS"],
        poster.content_type,
        explain=request.form.get("explain"),
    )
    if _wants_json():
        return jsonify(_as_json(prediction))
    return Response(render_template("anime.html", prediction=prediction, poster=poster))


def _model() -> str:
    timeout_seconds = min(MODEL_TIMEOUT_SECONDS, current_app.config["FUNCTION_TIMEOUT_SECONDS"])
    description = describe_model(_function_url(), timeout_seconds)
    return render_template("model.html", description=description)


def _function_url() -> str:
    function_url: str | None = current_app.config["FUNCTION_URL"]
    if function_url is None:
        raise FunctionError(503, "no_function", "This page has no function to call: FUNCTION_URL is not set.")
    return function_url


def _wants_json() -> bool:
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def _as_json(prediction: Prediction) -> dict[str, Any]:
    """The function's response, with the word for each genre."""
    body: dict[str, Any] = {
        "genres": [{**vars(genre), "likelihood": likelihood(genre)} for genre in prediction.genres],
        "model": vars(prediction.model),
    }
    if explanation := prediction.explanation:
        body["explanation"] = {
            "genre": {"id": explanation.genre_id, "name": explanation.genre},
            "image": explanation.image,
        }
        if explanation.reason:
            body["explanation"]["reason"] = explanation.reason
    return body


def _page_error(error: PageError) -> Response:
    return _error_response(error.status, error.code, str(error))


def _http_error(error: HTTPException) -> Response:
    """Show Flask's own errors on the page instead of Werkzeug's."""
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        _drain()
        return _error_response(status, "too_large", TOO_LARGE)
    response = _error_response(status, "bad_request", f"{error.name}. Go back to the page and try again.")
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> Response:
    current_app.logger.error("Unexpected error", exc_info=error)
    return _error_response(500, "internal", "The page failed with an unexpected error. Try again.")


def _drain() -> None:
    """Read the rest of the upload. A browser that cannot finish sending shows a lost connection, not this response."""
    length = request.content_length or 0
    if not MAX_POSTER_BYTES + FORM_BYTES < length <= MAX_DRAINED_BYTES:
        return
    while length > 0 and (chunk := request.environ["wsgi.input"].read(min(length, 64 * 1024))):
        length -= len(chunk)


def _error_response(status: int, code: str, message: str) -> Response:
    if _wants_json():
        response = jsonify(error={"code": code, "message": message})
    else:
        template = "model.html" if request.endpoint == "_model" else "anime.html"
        response = Response(render_template(template, error=message, code=code))
    response.status_code = status
    return response


def _add_security_headers(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Accept")
    return response
