"""What the clients of Google share: credentials, and this project's errors, which say whether a retry may help."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import google.auth
import requests
from google.api_core import exceptions as google_exceptions
from google.api_core.retry import Retry
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage.exceptions import DataCorruption

from infra.errors import ConfigurationError, DeploymentError, NotFound, ServiceUnavailable, failure
from infra.settings import Settings, environment_variable

# For traces, the client of Cloud Storage reads the metadata of each bucket in a thread of its own, even if there are
# no traces. The roles for objects do not allow that.
STORAGE_ENVIRONMENT = {"DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA": "true"}
"""Environment variables of every process that uses the client of Cloud Storage."""

LOST_CONNECTION = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""What requests raises if there is no response, or only the beginning of one."""

TEMPORARY = (
    google_exceptions.ServerError,
    google_exceptions.TooManyRequests,
    google_exceptions.RetryError,
    google_exceptions.Aborted,
    auth_exceptions.TransportError,
    *LOST_CONNECTION,
    ConnectionError,
)
_REFUSED = (
    google_exceptions.Forbidden,
    google_exceptions.Unauthorized,
    auth_exceptions.RefreshError,
)

Json = dict[str, Any]
_POLL_SECONDS = (0.25, 10.0)  # the first and the longest pause between two readings of a resource
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class _StandInCredentials(Credentials):
    """The token of the stand-in, which a client sends as it sends Google's access tokens."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.token = settings.cloud_run_token.get_secret_value() if settings.cloud_run_token else None

    def refresh(self, request: object) -> None:
        """Called if there is no token or it is refused."""
        raise auth_exceptions.RefreshError(
            f"{environment_variable('cloud_run_token')} is not the token of the running stack"
        )


def is_temporary(error: Exception) -> bool:
    """Whether a retry may help. A failure to get a token is temporary if the server for tokens failed."""
    if isinstance(error, auth_exceptions.RefreshError):
        return bool(error.retryable) or isinstance(error.__cause__, auth_exceptions.TransportError)
    return isinstance(error, TEMPORARY)


def credentials(settings: Settings) -> Credentials:
    """The credentials for Cloud Run and Cloud Build: Google's application default credentials, or the stand-in's token.

    Raises:
        DefaultCredentialsError: there are none.
    """
    if settings.cloud_run_endpoint:
        return _StandInCredentials(settings)
    return google_credentials()


def google_credentials() -> Credentials:
    """Google's application default credentials. Raises DefaultCredentialsError if there are none."""
    found: Credentials = google.auth.default(scopes=_SCOPES)[0]
    return found


def call(session: AuthorizedSession, method: str, address: str, settings: Settings, body: Json | None = None) -> Json:
    """Send a request and return the decoded response. Raises the exceptions of `google.api_core` for an error."""
    response = session.request(method, address, json=body, timeout=settings.service_timeout_seconds)
    if not response.ok:
        raise google_exceptions.from_http_response(response)
    content: Json = response.json()
    return content


def poll(
    session: AuthorizedSession, address: str, settings: Settings, is_done: Callable[[Json], bool], seconds: float
) -> Json:
    """Read a resource until it is done. Temporary errors are retried.

    Raises:
        TimeoutError: it is not done within `seconds`.
    """
    read = Retry(predicate=is_temporary, timeout=settings.service_timeout_seconds)(call)
    deadline = time.monotonic() + seconds
    pause, longest = _POLL_SECONDS
    while not is_done(content := read(session, "GET", address, settings)):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause)
        pause = min(pause * 1.5, longest)
    return content


@contextmanager
def google_errors(doing: str) -> Iterator[None]:
    """Translate the exceptions that Google's clients raise in the block.

    Args:
        doing: what the block does, such as "Reading gs://bucket/key". The error's message begins with it.

    Raises:
        ServiceUnavailable: a temporary failure (5xx, 429, a lost connection, a timeout, no token at the moment, a
            content that arrived with another checksum).
        NotFound: 404.
        ConfigurationError: missing credentials or permission.
    """
    try:
        yield
    except google_exceptions.NotFound as error:
        raise failure(NotFound, f"{doing} failed", reason_of(error), details=str(error)) from error
    except auth_exceptions.DefaultCredentialsError as error:
        advice = "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
        raise ConfigurationError(f"There are no credentials for Google Cloud. {advice}", str(error)) from error
    except (DataCorruption, google_exceptions.BadRequest) as error:
        # An upload with another checksum than announced is refused with the status 400.
        if not isinstance(error, DataCorruption) and not re.search("(crc32c|md5).*match", str(error), re.IGNORECASE):
            raise
        reason = "the checksum does not match the content"
        raise failure(ServiceUnavailable, f"{doing} failed temporarily", reason, "Try again later.") from error
    except (*_REFUSED, *TEMPORARY) as error:
        if is_temporary(error):
            what = f"{doing} failed temporarily"
            raise failure(ServiceUnavailable, what, reason_of(error), "Try again later.", str(error)) from error
        advice = "Check the credentials and their roles."
        raise failure(ConfigurationError, f"{doing} is not permitted", reason_of(error), advice) from error


@contextmanager
def deployment_errors(doing: str, hint: str = "") -> Iterator[None]:
    """Like `google_errors`; other errors of Cloud Run and Cloud Build become DeploymentError.

    A conflict means that another deployment came first. A retry reads its result. `hint` is a part of the details of a
    DeploymentError.
    """
    try:
        with google_errors(doing):
            yield
    except TimeoutError as error:
        raise ServiceUnavailable(f"{doing} took too long. Start the run again.") from error
    except google_exceptions.Conflict as error:
        what = f"{doing} conflicts with another deployment"
        raise failure(ServiceUnavailable, what, reason_of(error), "Start the run again.") from error
    except google_exceptions.GoogleAPICallError as error:
        details = "\n".join(filter(None, (reason_of(error), hint)))
        raise failure(DeploymentError, f"{doing} failed", reason_of(error), details=details) from error


def reason_of(error: Exception) -> str:
    """What the service said, or why there is no response. Google's clients begin with the address of the request."""
    cause = getattr(error, "cause", None) or error
    if isinstance(error, auth_exceptions.TransportError):
        cause = error.__cause__ or error
    if isinstance(cause, requests.Timeout):
        return "the server did not respond in time"
    if isinstance(cause, requests.ConnectionError):
        return "the server is not reachable"
    if isinstance(cause, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost in the middle of the response"
    text = re.sub(r"^(?:\d+ )?(?:[A-Z]+ https?://\S+: )?", "", str(cause).strip())
    if refused := re.match(r"\('Request failed with status code', (\d+)", text):
        text = "" if refused[1] == "404" else f"the response has status {refused[1]}"
    if isinstance(error, google_exceptions.NotFound) and text in ("", "unknown error"):
        return "not found"
    if isinstance(cause, google_exceptions.GoogleAPICallError) and text == "unknown error":  # the body is empty
        return f"the response has status {cause.code}"
    return text or type(cause).__name__
