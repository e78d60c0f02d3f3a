"""Asks the deployed function about a poster or its model, and says in a sentence what is wrong where it cannot answer.

A function at https is called with this service's own ID token, whose audience is the function's address; where the
service has no identity, without one, which a public function answers too.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import requests

from .description import ModelDescription, read_description
from .errors import FunctionError
from .identity import id_token
from .responses import UNREADABLE, Answer, read_answer

CONNECT_TIMEOUT_SECONDS = 10.0

_Read = TypeVar("_Read")


def ask(
    function_url: str,
    poster: bytes | str,
    timeout_seconds: float,
    content_type: str = "application/octet-stream",
    explain: str | None = None,
) -> Answer:
    """Send a poster's bytes as they are, or the address or object's name it is read from, and read the answer.

    `explain` is the id or name of a genre: where the network sees it is answered too.

    Raises:
        FunctionError: the function cannot be reached, is still waking, refuses the poster or this caller, or
            answers something else than genres.
    """
    content: dict[str, Any] = (
        {"json": {"name": poster}}
        if isinstance(poster, str)
        else {"data": poster, "headers": {"Content-Type": content_type}}
    )
    response = _request(
        "POST", function_url, timeout_seconds, params={"explain": explain} if explain else None, **content
    )
    return _read(response, read_answer, "The function answered something that is no list of genres.")


def describe_model(function_url: str, timeout_seconds: float) -> ModelDescription:
    """Ask who the model is, how well it knows its genres, and what its card says.

    Raises:
        FunctionError: as for `ask`, or the function is older than its description.
    """
    response = _request("GET", function_url, timeout_seconds, path="/model")
    if response.status_code == 404 and _words(response):
        raise FunctionError(
            503, "no_description", "The deployed function does not describe its model yet; its next update will."
        )
    return _read(response, read_description, "The function answered something that does not describe a model.")


def _request(
    method: str,
    function_url: str,
    timeout_seconds: float,
    path: str = "",
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> requests.Response:
    headers = {**(headers or {}), "Accept": "application/json"}
    token = id_token(function_url) if function_url.startswith("https:") else None
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        response = requests.request(
            method,
            function_url.rstrip("/") + path if path else function_url,
            headers=headers,
            timeout=(CONNECT_TIMEOUT_SECONDS, timeout_seconds),
            allow_redirects=False,
            **content,
        )
    except requests.Timeout as error:
        raise FunctionError(
            504,
            "timeout",
            "The function has not answered in time; it may still be waking up. Try again in a moment.",
        ) from error
    except requests.RequestException as error:
        raise FunctionError(
            503, "unreachable", "The function cannot be reached at the moment. Try again in a minute."
        ) from error
    if function_url.startswith("https:") and not token and response.status_code in (401, 403) and not _words(response):
        raise FunctionError(
            502,
            "no_identity",
            "The function is private, and this page has no Google identity with which it could call it.",
        )
    return response


def _read(response: requests.Response, read: Callable[[Any], _Read], unreadable: str) -> _Read:
    """What a response holds; FunctionError where it holds something else."""
    if response.status_code != 200:
        words = _words(response)
        raise FunctionError(response.status_code, *words) if words else _without_words(response.status_code)
    try:
        return read(response.json())
    except UNREADABLE as error:
        raise FunctionError(502, "unreadable_answer", unreadable) from error


def _words(response: requests.Response) -> tuple[str, str] | None:
    """Code and message of a refusal that the function itself wrote."""
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"])
    except UNREADABLE:
        return None


def _without_words(status: int) -> FunctionError:
    """What a status means that does not come from the function itself but from what stands before it."""
    if status == 404:
        return FunctionError(503, "no_model", "No model has been deployed yet. Come back after the first training.")
    if status in (401, 403):
        return FunctionError(
            502,
            "not_allowed",
            "The function refuses this page; its account needs the role Cloud Run Invoker.",
        )
    if status == 413:
        return FunctionError(413, "too_large", "The poster is too large for the function; choose a smaller one.")
    if status in (408, 429, 500, 502, 503, 504):
        return FunctionError(
            503, "waking", "The function is waking up or busy, and did not answer. Try again in a moment."
        )
    return FunctionError(502, "unreadable_answer", f"The function answered with status {status} and no words.")
