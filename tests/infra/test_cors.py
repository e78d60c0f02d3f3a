"""CORS_ORIGINS is refused with a private function, to which no browser can send a preflight request."""

import pytest

from infra.cors import check_cors, check_public
from infra.errors import ConfigurationError, ServiceUnavailable
from infra.local.processes import free_port
from infra.settings import Settings
from tests.infra.conftest import Serve


@pytest.mark.parametrize("status", [401, 403])
def test_private_function_is_refused_with_the_two_ways_that_work(serve: Serve, status: int) -> None:
    url, _ = serve((status, "Forbidden"))
    with pytest.raises(ConfigurationError, match="let the page call the function, or make the function public"):
        check_public(url)


def test_function_that_does_not_exist_yet_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="private function"):
        check_public(None)


@pytest.mark.parametrize("status", [200, 503])
def test_public_function_is_accepted(serve: Serve, status: int) -> None:
    url, _ = serve((status, {"status": "ok"}))
    check_public(url)


def test_function_that_cannot_be_reached_is_a_temporary_fault() -> None:
    with pytest.raises(ServiceUnavailable):
        check_public(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("origins", ["", "https://page.example"])
def test_local_function_is_not_asked(origins: str) -> None:
    check_cors(Settings(cors_origins=origins, cloud_run_endpoint=f"http://127.0.0.1:{free_port()}"))
