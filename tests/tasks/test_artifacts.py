"""Artifacts when Prefect fails."""

import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

pytestmark = [
    pytest.mark.stack,
    pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow"),
]


class _Failing(BaseHTTPRequestHandler):
    def _fail(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(500)

    do_GET = do_POST = do_PATCH = _fail

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def failing_prefect() -> Iterator[str]:
    """The API address of a Prefect server that answers every request with status 500."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_artifact_that_fails_is_logged_and_ends_nothing(failing_prefect: str, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.artifacts import ProgressBars, show_link, show_table, show_text

    caplog.set_level(logging.WARNING, "tasks")
    bars = ProgressBars()
    with temporary_settings({PREFECT_API_URL: failing_prefect}):
        show_text("catalogue", "60 titles", "The titles")
        show_table("drift", [{"what": "titles"}], "Changes")
        show_link("function", "http://127.0.0.1", "The function")
        for done in (1, 2):
            bars.show("Season pages", done, 2, f"{done} of 2")
    sentences = [record.getMessage() for record in caplog.records if record.name == "tasks"]
    assert [each.split(":")[0] for each in sentences] == [
        f"Prefect does not show {name}" for name in ("catalogue", "drift", "function", "Season pages", "Season pages")
    ]
    assert all("500" in each and "\n" not in each for each in sentences)
