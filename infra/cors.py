"""Whether pages of other origins may call the function: `cors_origins` works only with a public function."""

import requests

from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError, ServiceUnavailable
from infra.settings import Settings

_TIMEOUT_SECONDS = 10.0


def check_cors(settings: Settings) -> None:
    """Check that the function is public if `cors_origins` is set. The stand-in's functions are always public.

    Raises: see `check_public`, and `CloudRun`.
    """
    if settings.cors_origins.strip() and not settings.cloud_run_endpoint:
        check_public(CloudRun(settings).url())


def check_public(url: str | None) -> None:
    """Check that the service at `url` answers without a token. Browsers ask without one first (a preflight request).

    Raises:
        ConfigurationError: the service is private, or does not exist yet (None): a new one is private.
        ServiceUnavailable: the service cannot be reached.
    """
    try:
        private = url is None or requests.get(f"{url}/health", timeout=_TIMEOUT_SECONDS).status_code in (401, 403)
    except requests.RequestException as error:
        raise ServiceUnavailable(f"The function at {url} cannot be reached. Try again later.", str(error)) from error
    if private:
        raise ConfigurationError(
            "ANIME_GENRE_CORS_ORIGINS does not work with a private function, because browsers ask without a token "
            "first. Unset it and let the page call the function, or make the function public: give allUsers the role "
            "run.invoker."
        )
