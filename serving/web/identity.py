"""Gets the ID tokens with which this service calls a private function, and keeps them until they expire."""

import time
from datetime import UTC
from threading import Lock
from typing import Any, NamedTuple

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2.id_token import fetch_id_token_credentials

from .errors import FunctionError

TIMEOUT_SECONDS = 10.0
RENEWED_SECONDS_BEFORE = 5 * 60
ABSENT_SECONDS = 5 * 60  # how long a missing identity is remembered


class _Kept(NamedTuple):
    token: str | None
    until: float


_kept: dict[str, _Kept] = {}  # by audience
_lock = Lock()


def id_token(audience: str) -> str | None:
    """A token for the function at `audience`; None on a machine without a Google identity.

    Raises:
        FunctionError: there is an identity, but Google refuses a token for it.
    """
    with _lock:
        kept = _kept.get(audience)
        if kept is None or kept.until <= time.time():
            kept = _kept[audience] = _fetched(audience)
        return kept.token


def _fetched(audience: str) -> _Kept:
    request = _Request()
    try:
        credentials = fetch_id_token_credentials(audience, request)
        credentials.refresh(request)
    except DefaultCredentialsError:
        return _Kept(None, time.time() + ABSENT_SECONDS)
    except GoogleAuthError as error:
        raise FunctionError(
            502,
            "no_identity",
            "Google gives this page no ID token for the function. Try again in a minute.",
        ) from error
    return _Kept(credentials.token, credentials.expiry.replace(tzinfo=UTC).timestamp() - RENEWED_SECONDS_BEFORE)


class _Request(Request):
    """Google's request with a shorter timeout; the default is two minutes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **{"timeout": TIMEOUT_SECONDS, **kwargs})  # type: ignore[no-untyped-call]
