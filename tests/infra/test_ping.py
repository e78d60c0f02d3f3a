"""The ping after a successful run."""

import logging

import pytest
from pydantic import SecretStr

from infra import ping as module
from infra.ping import ping
from tests.messages import project_messages
from tests.sink import running_sink


@pytest.mark.parametrize(("path", "problem"), [("/hidden", None), ("/500", "status 500"), ("/silent", "ReadTimeout")])
def test_ping_that_fails_is_one_warning_without_the_address(
    path: str, problem: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.3)
    caplog.set_level(logging.WARNING)
    with running_sink() as sink:
        ping(SecretStr(sink.url + path))
    assert [(each.method, each.path) for each in sink.received] == [("GET", path)]
    expected = f"The run succeeded, but the ping to ANIME_GENRE_PING_URL failed ({problem})."
    assert project_messages(caplog) == ([expected] if problem else [])


def test_ping_to_an_address_that_cannot_be_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ping(None)
    assert project_messages(caplog) == []
    ping(SecretStr("http://a..b/hidden"))
    assert len(project_messages(caplog)) == 1 and "hidden" not in caplog.text
