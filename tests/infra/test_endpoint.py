"""Asking a function: it may be asleep, missing, private, broken, or something else altogether."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.endpoint import ask
from infra.errors import ConfigurationError, DeploymentError, NotFound, ServiceUnavailable

ANSWER = {"genres": [{"name": "Action"}], "model": {"sha256": "1"}}
Script = list[tuple[int, object]]


@pytest.fixture
def serve() -> Iterator[Callable[[Script], tuple[str, list[bytes]]]]:
    """Serve a script of answers, the last one for ever; gives the address and the bodies received."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(script: Script) -> tuple[str, list[bytes]]:
        received: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                status, content = script[min(len(received), len(script)) - 1]
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}", received

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


Serve = Callable[[Script], tuple[str, list[bytes]]]


def refusal(code: str) -> dict[str, object]:
    return {"error": {"code": code, "message": "The reason."}}


def test_a_name_is_asked_about(serve: Serve) -> None:
    url, received = serve([(200, ANSWER)])
    assert ask(url, "posters/5.jpg") == ANSWER
    assert [json.loads(body) for body in received] == [{"name": "posters/5.jpg"}]


def test_a_function_that_wakes_up_is_waited_for(serve: Serve) -> None:
    url, received = serve([(503, b"Service Unavailable"), (503, refusal("storage_unavailable")), (200, ANSWER)])
    assert ask(url, "posters/5.jpg") == ANSWER
    assert len(received) == 3


def test_a_function_that_stays_away_is_unavailable(serve: Serve) -> None:
    url, _ = serve([(503, b"Service Unavailable")])
    with pytest.raises(ServiceUnavailable, match="it answers 503"):
        ask(url, "posters/5.jpg", wake_seconds=0.1)
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        ask("http://127.0.0.1:1", "posters/5.jpg", wake_seconds=0)


def test_a_wrong_bundle_is_not_waited_for(serve: Serve) -> None:
    url, received = serve([(503, refusal("bundle_error"))])
    started = time.monotonic()
    with pytest.raises(DeploymentError, match=r"refuses: The reason\.$"):
        ask(url, "posters/5.jpg")
    assert len(received) == 1
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (404, refusal("no_such_poster"), NotFound, "The reason"),
        (403, b"<html>Forbidden</html>", ConfigurationError, "may not be asked: it answers 403"),
        (422, refusal("unusable_image"), DeploymentError, "The reason"),
        (200, b"<html>Hello</html>", DeploymentError, "something else than JSON"),
        (200, {"hello": "world"}, DeploymentError, "not with genres"),
        (200, ["genres"], DeploymentError, "not with genres"),
        (400, ["error"], DeploymentError, "it answers 400"),
    ],
)
def test_a_refusal_is_told_with_its_reason(
    serve: Serve, status: int, body: object, error: type[Exception], says: str
) -> None:
    url, _ = serve([(status, body)])
    with pytest.raises(error, match=says):
        ask(url, "posters/5.jpg")
