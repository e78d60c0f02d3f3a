"""The address and the credentials of a Prefect server, from the environment or Prefect's active profile.

Prefect is not imported, because it reads its settings when it is.
"""

import base64
import os
import tomllib
from pathlib import Path

from infra.errors import ConfigurationError
from infra.local.processes import is_reachable
from infra.settings import user_and_password, without_user

_URL, _KEY, _AUTH = "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"


def separate_password() -> None:
    """Move the user name and the password of PREFECT_API_URL to PREFECT_API_AUTH_STRING.

    Prefect writes links with the address, also to its database.
    """
    address = _setting(_URL)
    try:
        user, password = user_and_password(address)
    except ValueError:  # an address that cannot be read is not reachable
        return
    if user:
        os.environ.update({_URL: without_user(address), _AUTH: f"{user}:{password}"})


def api_url() -> str:
    """The address of the API; empty if neither the environment nor the profile names one."""
    return _setting(_URL)


def is_server_reachable() -> bool:
    """Whether the server answers, with the API key or the password that Prefect's client sends."""
    headers = {}
    if auth := _setting(_AUTH):
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    elif key := _setting(_KEY):
        headers["Authorization"] = f"Bearer {key}"
    return is_reachable(f"{api_url()}/health", headers)


def check_server() -> None:
    """Check that the server of `api_url` answers.

    Raises:
        ConfigurationError: it does not.
    """
    if not is_server_reachable():
        raise ConfigurationError(
            f"No Prefect server is reachable at PREFECT_API_URL={api_url()}. Start it, or change or unset this address."
        )


def _setting(name: str) -> str:
    """A setting of Prefect: the environment variable if it is set, else the value of the active profile."""
    return os.environ.get(name) or _profile().get(name, "")


def _profile() -> dict[str, str]:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        profile: dict[str, str] = content["profiles"][os.environ.get("PREFECT_PROFILE") or content["active"]]
        return profile
    except (OSError, ValueError, KeyError):
        return {}
