"""Calls the deployed function. Every failure becomes a FunctionError with one sentence for a person.

A call over https carries this service's ID token, whose audience is the function's address. Without an identity the
call has no token, which is enough for a public function.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from .description import ModelDescription, read_description
from .errors import FunctionError
from .identity import id_token
from .responses import UNREADABLE, Prediction, read_prediction

CONNECT_TIMEOUT_SECONDS = 10.0
NO_MODEL = "No model has been trained yet. The command “anime-genre retrain” trains and deploys one."

_Read = TypeVar("_Read")


def predict(
    function_url: str,
    poster: bytes | str,
    timeout_seconds: float,
    content_type: str = "application/octet-stream",
    explain: str | None = None,
) -> Prediction:
    """Send a poster's bytes, or its address or object name, and return the prediction.

    `explain` is the id or name of a genre whose heat map is wanted.

    Raises:
        FunctionError: the function is unreachable, is starting up, refuses the request, or sends an invalid response.
    """
    content: dict[str, Any] = (
        {"json": {"name": poster}}
        if isinstance(poster, str)
        else {"data": poster, "headers": {"Content-Type": content_type}}
    )
    response = _request(
        "POST", function_url, timeout_seconds, params={"explain": explain} if explain else None, **content
    )
    return _read(response, read_prediction, "The function's response is not a list of genres.")


def describe_model(function_url: str, timeout_seconds: float) -> ModelDescription:
    """Return the description of the model: identity, card and figures.

    Raises:
        FunctionError: as for `predict`, or the function is too old to describe its model.
    """
    response = _request("GET", function_url, timeout_seconds, path="/model")
    if response.status_code == 404 and _error_of(response):
        raise FunctionError(
            503, "no_description", "The deployed function is too old to describe its model. Its next update will."
        )
    return _read(response, read_description, "The function's response does not describe a model.")


def _request(
    method: str,
    function_url: str,
    timeout_seconds: float,
    path: str = "",
    headers: Mapping[str, str] | None = None,
    **content: Any,
) -> requests.Response:
    headers = {**(headers or {}), "Accept": "application/json"}
    # The audience of a token is the service's own address, also for the address of a tag.
    host = urlsplit(function_url).netloc.rpartition("---")[2]
    token = id_token(f"https://{host}") if function_url.startswith("https:") else None
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
            "The function did not respond in time; it may still be starting up. Try again in a moment.",
        ) from error
    except requests.RequestException as error:
        raise FunctionError(
            503, "unreachable", "The function cannot be reached at the moment. Try again in a minute."
        ) from error
    if (
        function_url.startswith("https:")
        and not token
        and response.status_code in (401, 403)
        and not _error_of(response)
    ):
        raise FunctionError(
            502,
            "no_identity",
            "The function is private, and this page has no Google identity to call it with.",
        )
    return response


def _read(response: requests.Response, read: Callable[[Any], _Read], unreadable: str) -> _Read:
    """Read the body of a response. Raises FunctionError if it is an error or invalid."""
    if response.status_code != 200:
        error = _error_of(response)
        raise FunctionError(response.status_code, *error) if error else _infrastructure_error(response.status_code)
    try:
        return read(response.json())
    except UNREADABLE as cause:
        raise FunctionError(502, "unreadable_answer", unreadable) from cause


def _error_of(response: requests.Response) -> tuple[str, str] | None:
    """Code and message of an error response from the function itself; None for any other response."""
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"])
    except UNREADABLE:
        return None


def _infrastructure_error(status: int) -> FunctionError:
    """The error of a status that comes from the infrastructure in front of the function."""
    if status == 404:
        return FunctionError(503, "no_model", NO_MODEL)
    if status in (401, 403):
        return FunctionError(
            502,
            "not_allowed",
            "The function refuses this page. The page's service account needs the role Cloud Run Invoker.",
        )
    if status == 413:
        return FunctionError(413, "too_large", "The poster is too large for the function; choose a smaller one.")
    if status in (408, 429, 500, 502, 503, 504):
        return FunctionError(503, "waking", "The function is starting up or busy. Try again in a moment.")
    return FunctionError(502, "unreadable_answer", f"The function responded with the unexpected status {status}.")
