"""Translation of the exceptions of Google's clients into this project's, which say whether a retry may help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud.storage.exceptions import DataCorruption

from infra.errors import ConfigurationError, NotFound, ServiceUnavailable, failure

_TEMPORARY = (
    google_exceptions.ServerError,
    google_exceptions.TooManyRequests,
    google_exceptions.RetryError,
    google_exceptions.Aborted,
    auth_exceptions.TransportError,
    requests.ConnectionError,
    requests.Timeout,
    ConnectionError,
)
_REFUSED = (
    google_exceptions.Forbidden,
    google_exceptions.Unauthorized,
    auth_exceptions.DefaultCredentialsError,
    auth_exceptions.RefreshError,
)


@contextmanager
def google_errors(doing: str) -> Iterator[None]:
    """Translate the exceptions that Google's clients raise in the block.

    Args:
        doing: what the block does, such as "Reading gs://bucket/key". The error's message begins with it.

    Raises:
        ServiceUnavailable: a temporary failure (5xx, 429, a lost connection, a timeout, a content that arrived with
            another checksum).
        NotFound: 404.
        ConfigurationError: missing credentials or permission.
    """
    try:
        yield
    except google_exceptions.NotFound as error:
        raise failure(NotFound, f"{doing} failed", reason_of(error), details=str(error)) from error
    except _REFUSED as error:
        advice = "Check the credentials and their roles."
        raise failure(ConfigurationError, f"{doing} is not permitted", reason_of(error), advice) from error
    except (DataCorruption, google_exceptions.BadRequest) as error:
        # An upload with another checksum than announced is refused with the status 400.
        if not isinstance(error, DataCorruption) and not re.search("(crc32c|md5).*match", str(error), re.IGNORECASE):
            raise
        reason = "the checksum does not match the content"
        raise failure(ServiceUnavailable, f"{doing} failed temporarily", reason, "Try again later.") from error
    except _TEMPORARY as error:
        what = f"{doing} failed temporarily"
        raise failure(ServiceUnavailable, what, reason_of(error), "Try again later.", str(error)) from error


def reason_of(error: Exception) -> str:
    """What the service said, or why there is no response. Google's clients begin with the address of the request."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, requests.Timeout):
        return "the server did not respond in time"
    if isinstance(cause, requests.ConnectionError):
        return "the server is not reachable"
    text = re.sub(r"^(?:\d+ )?(?:[A-Z]+ https?://\S+: )?", "", str(cause).strip())
    if refused := re.match(r"\('Request failed with status code', (\d+)", text):
        text = "" if refused[1] == "404" else f"the response has status {refused[1]}"
    if isinstance(error, google_exceptions.NotFound) and text in ("", "unknown error"):
        return "not found"
    return text or type(cause).__name__
