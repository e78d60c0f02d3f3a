"""Google's exceptions told as this project's, so that a step knows what may be tried again."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions

from infra.errors import ConfigurationError, NotFound, ServiceUnavailable

_PASSING = (
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
    """Translate what Google's clients raise inside the block; `doing` begins the sentence.

    Raises:
        ServiceUnavailable: a passing fault (5xx, 429, a lost connection, a retry deadline).
        NotFound: 404.
        ConfigurationError: no credentials, or no permission.
    """
    try:
        yield
    except google_exceptions.NotFound as error:
        raise NotFound(f"{doing}: there is no such thing ({error.message}).") from error
    except _REFUSED as error:
        raise ConfigurationError(f"{doing} is not allowed: {_reason(error)}.") from error
    except _PASSING as error:
        raise ServiceUnavailable(f"{doing} failed for now: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else type(cause).__name__
