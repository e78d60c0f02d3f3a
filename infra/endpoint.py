"""The client of the deployed function. It authenticates as a caller with the role `run.invoker`."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import id_token

from infra.errors import (
    ConfigurationError,
    DamagedBundleError,
    DeploymentError,
    FunctionDown,
    InfraError,
    NotFound,
    ServiceUnavailable,
    failure,
)
from infra.google import LOST_CONNECTION, google_credentials, google_errors, is_temporary, reason_of
from infra.settings import environment_variable

STARTUP_SECONDS = 60.0  # a new instance of the function loads its model before it responds
REQUEST_TIMEOUT_SECONDS = 30.0
_PAUSE_SECONDS = 0.5
_CONCURRENT_REQUESTS = 8
_IAM_CREDENTIALS = "https://iamcredentials.googleapis.com"
_GRANT = (
    "gcloud iam service-accounts add-iam-policy-binding {caller} --member=user:YOUR-ACCOUNT "
    "--role=roles/iam.serviceAccountOpenIdTokenCreator"
)
_ADDRESS = "Is this the address of a function?"
_RETRYABLE_STATUSES = (429, 500, 502, 503, 504)


def request_prediction(
    url: str, poster_name: str, caller: str | None = None, startup_seconds: float = STARTUP_SECONDS
) -> dict[str, Any]:
    """Request the prediction for a poster from the function at `url` and return the decoded JSON response.

    Temporary failures are retried for `startup_seconds`, and so is the 404 of Google's front end, which knows a new
    address only after a while.

    Args:
        url: the address of the service or of a tagged revision.
        poster_name: the poster's object key in the bucket, or its gs:// address.
        caller: the service account as which the function is called; by default that of the credentials.
        startup_seconds: how long to retry while the function starts.

    Raises:
        NotFound: the poster does not exist.
        FunctionDown: the function is not available within `startup_seconds`.
        ServiceUnavailable: Google gives no ID token at the moment.
        ConfigurationError: the credentials do not allow the call.
        DamagedBundleError: the function's bundle is missing or damaged.
        DeploymentError: the function refuses the request, or the response is not a prediction.
    """
    return _request(url, poster_name, _authorization(url, caller), startup_seconds)


def served_bundle(url: str, caller: str | None) -> str:
    """The sha256 of the bundle that the function at `url` serves. Arguments and errors: see `request_prediction`."""
    headers = _authorization(url, caller)
    response = _response(
        url, lambda: requests.get(f"{url}/health", headers=headers, timeout=REQUEST_TIMEOUT_SECONDS), STARTUP_SECONDS
    )
    try:
        return str(response.json()["model"]["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise DeploymentError(f"The service at {url} does not say which model it serves. {_ADDRESS}") from error


def request_predictions(url: str, poster_names: Sequence[str], caller: str | None) -> list[dict[str, Any] | None]:
    """Request the predictions for several posters, some at once and with one ID token; None for refused posters.

    Arguments and errors are those of `request_prediction`, except for the DeploymentError of a refused poster.
    """
    headers = _authorization(url, caller)

    def request(poster_name: str) -> dict[str, Any] | None:
        try:
            return _request(url, poster_name, headers, STARTUP_SECONDS)
        except DeploymentError:
            return None

    with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
        return list(pool.map(request, poster_names))


def response_times(url: str, poster_names: Sequence[str], caller: str | None) -> list[float]:
    """Request the predictions for several posters in turn over one connection; the milliseconds of each response.

    Arguments and errors are those of `request_prediction`.
    """
    headers = _authorization(url, caller)
    times = []
    with requests.Session() as session:
        for name in poster_names:
            started = time.perf_counter()
            _request(url, name, headers, STARTUP_SECONDS, session.post)
            times.append(1000 * (time.perf_counter() - started))
    return times


def _request(
    url: str,
    poster_name: str,
    headers: Mapping[str, str],
    startup_seconds: float,
    post: Callable[..., requests.Response] = requests.post,
) -> dict[str, Any]:
    def send() -> requests.Response:
        return post(url, json={"name": poster_name}, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS)

    return _prediction(url, _response(url, send, startup_seconds))


def _response(url: str, send: Callable[[], requests.Response], startup_seconds: float) -> requests.Response:
    """The successful response to a request, which is repeated while the function starts."""
    deadline = time.monotonic() + startup_seconds
    while True:
        try:
            response = send()
        except LOST_CONNECTION as error:
            reason = f"there is no complete response ({type(error).__name__})"
        else:
            if response.ok:
                return response
            code, reason = _code_and_reason(response)
            # The function cannot recover from an invalid bundle. Other server errors may be temporary.
            if code == "bundle_error":
                raise failure(DamagedBundleError, f"The function at {url} cannot load its bundle", reason)
            if code == "storage_forbidden":
                raise failure(ConfigurationError, f"The function at {url} may not read its bucket", reason)
            unknown = response.status_code == 404 and not code
            if response.status_code not in _RETRYABLE_STATUSES and not (unknown and time.monotonic() < deadline):
                raise _error(url, response.status_code, code, reason)
        if time.monotonic() > deadline:
            raise failure(FunctionDown, f"The function at {url} is not available", reason, "Try again later.")
        time.sleep(_PAUSE_SECONDS)


def _prediction(url: str, response: requests.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError as error:
        raise DeploymentError(f"The response of the service at {url} is not JSON. {_ADDRESS}") from error
    if not isinstance(content, dict) or "genres" not in content:
        raise DeploymentError(f"The response of the service at {url} contains no genres. {_ADDRESS}")
    return content


def _code_and_reason(response: requests.Response) -> tuple[str, str]:
    """The code and the message of an error response. IAM and proxies send neither; the reason is then the status."""
    try:
        error = response.json()["error"]
        return str(error["code"]), str(error["message"]).rstrip(".")
    except (ValueError, TypeError, KeyError):
        return "", f"the status is {response.status_code} {response.reason}"


def _error(url: str, status: int, code: str, reason: str) -> InfraError:
    if status == 404:
        return failure(NotFound, f"The function at {url} found nothing", reason)
    if status == 403 and code:
        return failure(ConfigurationError, f"The function at {url} refused the request", reason)
    if status in (401, 403):
        what = f"The credentials do not allow a call of the function at {url}"
        return failure(ConfigurationError, what, reason, "Give their account the role run.invoker.")
    return failure(DeploymentError, f"The function at {url} refused the request", reason)


def _authorization(url: str, caller: str | None) -> dict[str, str]:
    """The header with an ID token. A local stand-in (http) needs none.

    The token's audience is the address of the service, also for the address of a tagged revision
    (https://cloud.google.com/run/docs/authenticating/service-to-service).
    """
    address = urlsplit(url)
    if address.scheme != "https":
        return {}
    audience = f"https://{address.netloc.rpartition('---')[2]}"
    try:
        token = _token_of(caller, audience) if caller else id_token.fetch_id_token(Request(), audience)
    except auth_exceptions.GoogleAuthError as error:
        if is_temporary(error):
            raise ServiceUnavailable(
                f"Google could not be reached for an ID token for {audience}. Try again later.", str(error)
            ) from error
        raise ConfigurationError(
            f"There is no ID token for {audience}. Use the credentials of a service account with the role run.invoker, "
            f"or name one in {environment_variable('caller_service_account')}.",
            str(error),
        ) from error
    return {"Authorization": f"Bearer {token}"}


def _token_of(caller: str, audience: str) -> str:
    """An ID token of another service account. Any credentials may ask for one, also those of a person.

    See https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken.
    """
    address = f"{_IAM_CREDENTIALS}/v1/projects/-/serviceAccounts/{caller}:generateIdToken"
    with google_errors(f"Getting an ID token of {caller}"), AuthorizedSession(google_credentials()) as session:
        response = session.post(
            address, json={"audience": audience, "includeEmail": True}, timeout=REQUEST_TIMEOUT_SECONDS
        )
        if response.status_code in (403, 404):
            role = "Give your account the role iam.serviceAccountOpenIdTokenCreator on it."
            what = f"Your account may not get an ID token of {caller}"
            reason = reason_of(google_exceptions.from_http_response(response))
            raise failure(ConfigurationError, what, reason, role, _GRANT.format(caller=caller))
        if not response.ok:
            raise google_exceptions.from_http_response(response)
        return str(response.json()["token"])
