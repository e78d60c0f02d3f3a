"""Asking a deployed function about posters, as a client with the right to call it does."""

import time
from typing import Any
from urllib.parse import urlsplit

import requests
from google.auth import exceptions as auth_exceptions
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from infra.errors import ConfigurationError, DeploymentError, NotFound, ServiceUnavailable

WAKE_SECONDS = 60.0  # a function that was asleep loads its model first
REQUEST_TIMEOUT_SECONDS = 30.0
_PAUSE_SECONDS = 0.5
_PASSING = (429, 500, 502, 503, 504)


def ask(url: str, poster_name: str, wake_seconds: float = WAKE_SECONDS) -> dict[str, Any]:
    """The function's answer about a poster in the bucket (object path or gs:// address).

    Raises NotFound for an unknown poster, ServiceUnavailable where the function does not answer within
    `wake_seconds`, ConfigurationError where this identity may not call it, and DeploymentError for what the
    function itself refuses, with its own sentence.
    """
    headers = _authorization(url)
    deadline = time.monotonic() + wake_seconds
    while True:
        try:
            response = requests.post(url, json={"name": poster_name}, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS)
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = f"it does not answer ({type(error).__name__})"
        else:
            if response.ok:
                return _answer(url, response)
            code, reason = _refusal(response)
            # A bundle that is not what it should be stays so; other faults of a server may pass.
            if response.status_code not in _PASSING or code == "bundle_error":
                raise _error(url, response.status_code, reason)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(f"The function at {url} is not available: {reason}.")
        time.sleep(_PAUSE_SECONDS)


def _answer(url: str, response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError as error:
        raise DeploymentError(f"The service at {url} answers something else than JSON.") from error
    if not isinstance(answer, dict) or "genres" not in answer:
        raise DeploymentError(f"The service at {url} answers, but not with genres.")
    return answer


def _refusal(response: requests.Response) -> tuple[str, str]:
    """The code and the sentence of an error; what stands before the function (IAM, a proxy) gives none."""
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"]).rstrip(".")
    except (ValueError, TypeError, KeyError):
        return "", f"it answers {response.status_code} {response.reason}"


def _error(url: str, status: int, reason: str) -> Exception:
    if status == 404:
        return NotFound(f"The function at {url}: {reason}.")
    if status in (401, 403):
        return ConfigurationError(f"The function at {url} may not be asked: {reason}.")
    return DeploymentError(f"The function at {url} refuses: {reason}.")


def _authorization(url: str) -> dict[str, str]:
    """An ID token for a private service; a local stand-in (http) asks for none.

    The token's audience is the service's address even where a tag's address is called
    (https://cloud.google.com/run/docs/authenticating/service-to-service).
    """
    address = urlsplit(url)
    if address.scheme != "https":
        return {}
    audience = f"https://{address.netloc.rpartition('---')[2]}"
    try:
        token = id_token.fetch_id_token(Request(), audience)
    except (auth_exceptions.DefaultCredentialsError, auth_exceptions.RefreshError) as error:
        raise ConfigurationError(
            f"No ID token for {audience}: run as a service account that may invoke the service ({error})."
        ) from error
    except auth_exceptions.TransportError as error:
        raise ServiceUnavailable(f"No ID token for {audience} for now: {error}.") from error
    return {"Authorization": f"Bearer {token}"}
