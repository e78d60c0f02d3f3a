"""Which requests of browsers the local services refuse. tests/flows/test_up.py sends them to all services."""

import pytest

from infra.local.same_origin import origins, refusal


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", None),
        ("127.0.0.1:4200", "http://127.0.0.1:4200"),
        ("127.0.0.1:4200", "http://localhost:4200"),  # Prefect's page at localhost calls 127.0.0.1
        ("LOCALHOST:4200", "http://localhost:4200"),
        ("[::1]:4200", "http://[::1]:4200"),
        ("localhost", "http://localhost"),
    ],
)
def test_requests_of_programs_and_of_own_pages_are_accepted(host: str, origin: str | None) -> None:
    assert refusal(host, origin) is None


@pytest.mark.parametrize("host", [None, "", "evil.example:4200", "127.0.0.1.evil.example", "[", "localhost:port"])
def test_requests_with_another_host_are_refused(host: str | None) -> None:
    assert "answers only at 127.0.0.1 and localhost" in str(refusal(host, None))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "file://",
        "http://evil.example",
        "http://127.0.0.1:8000",
        "http://127.0.0.1.evil.example:4200",
        "http://[",
    ],
)
def test_requests_of_other_pages_are_refused(origin: str) -> None:
    assert "answers no pages of other origins" in str(refusal("127.0.0.1:4200", origin))


def test_own_origins_have_both_names_of_the_loopback_interface() -> None:
    assert [refusal("127.0.0.1:4200", origin) for origin in origins(4200)] == [None, None]
