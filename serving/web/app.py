"""The Flask app of the page `/anime`: it sends a poster to the function and shows the predicted genres.

    FUNCTION_URL=http://127.0.0.1:8080 gunicorn --threads 16 'serving.web.app:create_app()'

The page works without JavaScript: the response to the form is the same page with the genres. Programs get JSON from
the same address with `Accept: application/json`. `/anime/model` describes the model.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.sansio.utils import host_is_trusted
from werkzeug.wrappers import Response as BaseResponse

from .card_html import card_html
from .errors import FunctionError, PageError
from .function_client import describe_model, predict
from .live_model import LiveModel
from .request_limits import RequestLimits
from .responses import GenrePrediction, ModelIdentity, Prediction
from .upload import MAX_POSTER_BYTES, SAMPLES, TOO_LARGE, in_time, read_poster, stop_reading

FORM_BYTES = 64 * 1024  # for everything in a form except its file
MAX_DRAINED_BYTES = 200 * 1024 * 1024
FUNCTION_TIMEOUT_SECONDS = 60.0
MODEL_TIMEOUT_SECONDS = 20.0  # this page has no script that could explain a longer wait
NEAR_SHARE = 0.6  # a genre below its threshold is near it from this fraction
NAMED_IN_HEADING = 3  # genres; the others are counted
DRAWN_COLLECTION = "built-in"  # the collection whose posters are drawn, as the samples are
RETRY_AFTER_SECONDS = 10
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


def create_app(function_url: str | None = None) -> Flask:
    """Create the app. `function_url` defaults to the environment variable FUNCTION_URL; without it the page says so.

    The page's words for what a poster shows and for what is predicted are those of the environment variables TITLE_NOUN
    and LABEL_NOUN, by default "anime" and "genre". TRUSTED_PROXIES is the number of proxies in front of the server,
    which name the visitor's address in X-Forwarded-For; 0 by default. TRUSTED_HOSTS are the host names at which the
    page is available, separated by commas; all by default.

    Raises:
        ValueError: the function's address is not an http or https address, or TRUSTED_PROXIES is not a number.
    """
    function_url = function_url or os.environ.get("FUNCTION_URL") or None
    if function_url is not None:
        parts = urlsplit(function_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"FUNCTION_URL must be an http:// or https:// address, not {function_url!r}.")
    app = Flask(__name__)
    app.config.update(
        FUNCTION_URL=function_url,
        MAX_CONTENT_LENGTH=MAX_POSTER_BYTES + FORM_BYTES,
        MAX_FORM_MEMORY_SIZE=FORM_BYTES,
        HOSTS=[host.strip() for host in os.environ.get("TRUSTED_HOSTS", "").split(",") if host.strip()],
    )
    label = os.environ.get("LABEL_NOUN") or "genre"
    app.jinja_env.globals.update(
        samples=SAMPLES,
        max_poster_bytes=MAX_POSTER_BYTES,
        too_large=TOO_LARGE,
        title_noun=os.environ.get("TITLE_NOUN") or "anime",
        label=label,
        labels=plural(label),
    )
    app.jinja_env.filters.update(
        standing=standing,
        named=named,
        source_of_posters=source_of_posters,
        readable_date=readable_date,
        card_html=card_html,
        with_article=with_article,
        with_capital=with_capital,
    )
    app.extensions["limits"] = RequestLimits()
    live_model = LiveModel(lambda: _ask_for_model(function_url))
    live_model.ask_early()
    app.extensions["live_model"] = live_model
    if proxies := _trusted_proxies():
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies)  # type: ignore[method-assign]
    app.before_request(_check_host)
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


def standing(genre: GenrePrediction) -> str:
    """Where a probability stands: "above" the genre's threshold, "near" it from below, or far "below"."""
    if genre.predicted:
        return "above"
    return "near" if genre.probability >= NEAR_SHARE * genre.threshold else "below"


def named(genres: list[GenrePrediction]) -> str:
    """The names of the first few genres, and the number of the others: "Action, Drama, Sci-Fi and 2 more"."""
    names = ", ".join(genre.name for genre in genres[:NAMED_IN_HEADING])
    others = len(genres) - NAMED_IN_HEADING
    return f"{names} and {others} more" if others > 0 else names


def source_of_posters(collection: str) -> str:
    """Where the posters of a collection are from, in words."""
    sources = {"myanimelist": "MyAnimeList", DRAWN_COLLECTION: "the built-in site, which are drawn by a program"}
    return sources.get(collection, f"the catalogue “{collection}”")


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


def _check_host() -> None:
    hosts = current_app.config["HOSTS"]
    if hosts and not host_is_trusted(request.host, hosts):
        raise PageError(403, "forbidden_host", "This page does not answer at this host name (TRUSTED_HOSTS).")


def _home() -> BaseResponse:
    return redirect(url_for("_page"))


def _health() -> Response:
    return jsonify(status="ok")


def _page() -> str:
    return _poster_page()


def _poster_page(**context: Any) -> str:
    """The page's HTML. Without a model it says so; samples are offered only if the model knows drawn posters."""
    live = _live_model().current()
    return render_template(
        "anime.html",
        offers_samples=isinstance(live, ModelIdentity) and live.collection == DRAWN_COLLECTION,
        no_model=str(live) if isinstance(live, FunctionError) and live.code == "no_model" else None,
        **context,
    )


def _predict() -> Response:
    # The Origin of this page's own form is "null", because it sends no referrer.
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise PageError(403, "forbidden_origin", "This page takes no posters from pages of other sites.")
    with _receiving():
        explain = request.form.get("explain")  # reads the whole upload, which may be slow and calls no function
    g.typed_address = request.form.get("address", "")
    with _limits().admit(request.remote_addr or ""):
        poster = read_poster(request)
        prediction = predict(
            _function_url(), poster.content, FUNCTION_TIMEOUT_SECONDS, poster.content_type, explain=explain
        )
    _live_model().note(prediction.model)
    if _wants_json():
        return jsonify(_as_json(prediction))
    return Response(_poster_page(prediction=prediction, poster=poster))


def _model() -> str:
    with _limits().admit(request.remote_addr or ""):
        description = describe_model(_function_url(), MODEL_TIMEOUT_SECONDS)
    _live_model().note(description.model)
    return render_template("model.html", description=description)


def _function_url() -> str:
    return _checked(current_app.config["FUNCTION_URL"])


def _checked(function_url: str | None) -> str:
    if function_url is None:
        raise FunctionError(503, "no_function", "This page has no function to call: FUNCTION_URL is not set.")
    return function_url


def _ask_for_model(function_url: str | None) -> ModelIdentity:
    return describe_model(_checked(function_url), MODEL_TIMEOUT_SECONDS).model


@contextmanager
def _receiving() -> Iterator[None]:
    """Limit the number and the time of uploads, which must be read inside the block."""
    with ExitStack() as limits:
        try:
            limits.enter_context(_limits().receive(request.remote_addr or ""))
        except PageError:
            stop_reading(request)  # gunicorn would wait five seconds for the rest
            raise
        limits.enter_context(in_time(request))
        yield


def _limits() -> RequestLimits:
    limits: RequestLimits = current_app.extensions["limits"]
    return limits


def _live_model() -> LiveModel:
    live_model: LiveModel = current_app.extensions["live_model"]
    return live_model


def _trusted_proxies() -> int:
    text = os.environ.get("TRUSTED_PROXIES") or "0"
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"TRUSTED_PROXIES must be a number such as 1, not {text!r}.")
    return int(text)


def _wants_json() -> bool:
    accepted = request.accept_mimetypes
    as_json, as_html = accepted["application/json"], accepted["text/html"]
    if as_json == as_html > 0:  # as with axios: application/json, text/plain, */*
        return "application/json" in accepted.values() and "text/html" not in accepted.values()
    return as_json > as_html


def _as_json(prediction: Prediction) -> dict[str, Any]:
    """The function's response, checked and sorted."""
    body: dict[str, Any] = {
        "genres": [vars(genre) for genre in prediction.genres],
        "model": {
            name: value for name, value in vars(prediction.model).items() if value is not None or name != "collection"
        },
    }
    if explanation := prediction.explanation:
        body["explanation"] = {
            "genre": {"id": explanation.genre_id, "name": explanation.genre},
            "image": explanation.image,
        }
        body["explanation"] |= {
            name: text for name, text in (("reason", explanation.reason), ("poster", explanation.poster)) if text
        }
    return body


def _page_error(error: PageError) -> Response:
    response = _error_response(error.status, error.code, str(error))
    if error.status == 429:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _http_error(error: HTTPException) -> Response:
    """Show Flask's own errors on the page instead of Werkzeug's."""
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        if (request.content_length or 0) > MAX_POSTER_BYTES + FORM_BYTES:  # refused before it was read
            with suppress(PageError), _receiving():
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
    """Read the upload, of which nothing was read yet.

    A browser that cannot finish sending shows a lost connection, not this response.
    """
    length = request.content_length or 0
    if length > MAX_DRAINED_BYTES:
        return
    while length > 0 and (chunk := request.environ["wsgi.input"].read(min(length, 64 * 1024))):
        length -= len(chunk)


def _error_response(status: int, code: str, message: str) -> Response:
    if _wants_json():
        response = jsonify(error={"code": code, "message": message})
    elif request.endpoint == "_model":
        response = Response(render_template("model.html", error=message, code=code))
    else:
        # Known only once the upload was read: an error before that must not read it.
        response = Response(_poster_page(error=message, code=code, typed_address=g.get("typed_address")))
    response.status_code = status
    return response


def _add_security_headers(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    if request.endpoint != "static":
        # A browser that stores no page loses the genres when a visitor leaves it and goes back.
        response.headers["Cache-Control"] = "private, no-cache" if response.mimetype == "text/html" else "no-store"
        response.vary.add("Accept")
    return response
