"""The ping of a dead man's switch: a service that tells a person when it has not been called for too long."""

import logging

import requests
from pydantic import SecretStr

from infra.settings import environment_variable

logger = logging.getLogger("infra")
_TIMEOUT_SECONDS = 5.0


def ping(url: SecretStr | None) -> None:
    """Call an address, if there is one. A failure is only a warning, which does not show the address."""
    if url is None:
        return
    try:
        # The body is not read, because it may be long or slow.
        with requests.get(url.get_secret_value(), timeout=_TIMEOUT_SECONDS, stream=True) as response:
            problem = "" if response.ok else f"status {response.status_code}"
    except (OSError, ValueError) as error:  # ValueError: an invalid host
        problem = type(error).__name__
    if problem:
        logger.warning("The run succeeded, but the ping to %s failed (%s).", environment_variable("ping_url"), problem)
