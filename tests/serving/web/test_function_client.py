"""Calls of the function: failures become sentences, and a private function gets an ID token."""

import json
import ssl
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from google.auth.exceptions import DefaultCredentialsError

from infra.local.processes import free_port
from serving.web import identity
from serving.web.errors import FunctionError
from serving.web.function_client import describe_model, predict
from tests.certificates import certificate_for_localhost, pem


def failure(call: Callable[..., Any], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(FunctionError) as caught:
        call(*arguments)
    return caught.value.status, caught.value.code, str(caught.value)


def test_predict_sends_bytes_unchanged_and_an_address_as_json(function: Any) -> None:
    predict(function.url, b"bytes", 5, "image/png")
    predict(function.url, "https://example.org/p.jpg", 5)
    assert function.posters == [b"bytes", b'{"name": "https://example.org/p.jpg"}']
    assert [headers["Content-Type"] for headers in function.headers] == ["image/png", "application/json"]
    assert function.explained == [None, None]


def test_predict_returns_an_explanation_only_if_requested(function: Any) -> None:
    assert predict(function.url, b"bytes", 5).explanation is None
    explanation = predict(function.url, b"bytes", 5, explain="Slice of Life").explanation
    assert explanation is not None
    assert (explanation.genre_id, explanation.genre, explanation.reason) == (36, "Slice of Life", None)


def test_heat_map_that_is_not_a_png_is_refused(function: Any) -> None:
    genre = {"id": 1, "name": "Action"}
    function.body = {**function.body, "explanation": {"genre": genre, "image": "https://example.org/x.png"}}
    assert failure(predict, function.url, b"bytes", 5)[:2] == (502, "unreadable_answer")


def test_describe_model_returns_card_and_figures(function: Any) -> None:
    description = describe_model(function.url + "/", 5)
    assert description.model.version == "3" and description.model.explains
    assert description.card == function.model["card"]
    assert description.figures is not None
    assert list(description.figures.parts) == ["train", "validation", "test"]
    assert [genre.name for genre in description.figures.genres][-1] == "Gourmet"
    assert [pair.posters for pair in description.figures.confusions] == [52, 31]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, {"error": {"code": "no_such_page", "message": "There is nothing here."}}, (503, "no_description")),
        (404, b"No revision serves this address.\n", (503, "no_model")),
        (503, {"error": {"code": "bundle_error", "message": "The bundle is incomplete."}}, (503, "bundle_error")),
        (200, {"model": {}}, (502, "unreadable_answer")),
        (200, b"<html>", (502, "unreadable_answer")),
    ],
)
def test_describe_model_failure_becomes_a_sentence(
    status: int, body: Any, expected: tuple[int, str], function: Any
) -> None:
    function.model_status, function.model = status, body
    *code, message = failure(describe_model, function.url, 5)
    assert tuple(code) == expected
    assert message.endswith(".") and message[0].isupper()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"No revision serves this address.\n", (503, "no_model")),
        (503, b"Service Unavailable\n", (503, "waking")),
        (429, b"Rate exceeded.", (503, "waking")),
        (403, b"<html>Forbidden</html>", (502, "not_allowed")),
        (413, b"<html>Too large</html>", (413, "too_large")),
        (408, b"<html>", (503, "waking")),
        (302, b"", (502, "unreadable_answer")),
        (200, b"<html>", (502, "unreadable_answer")),
        (200, {"genres": [{"name": "Action"}]}, (502, "unreadable_answer")),
        (200, {"genres": [], "model": "3"}, (502, "unreadable_answer")),
        (200, [], (502, "unreadable_answer")),
        (500, {"error": "no object"}, (503, "waking")),
    ],
)
def test_predict_failure_becomes_a_sentence(status: int, body: Any, expected: tuple[int, str], function: Any) -> None:
    function.status, function.body, function.content_type = status, body, "text/html"
    *code, message = failure(predict, function.url, b"bytes", 5)
    assert tuple(code) == expected
    assert message.endswith(".") and message[0].isupper()


def test_timeout_says_that_the_function_may_be_starting(function: Any) -> None:
    function.seconds = 0.5
    status, code, message = failure(predict, function.url, b"bytes", 0.2)
    assert (status, code) == (504, "timeout")
    assert "starting up" in message


def test_stopped_function_is_unreachable() -> None:
    status, code, message = failure(predict, f"http://127.0.0.1:{free_port()}", b"bytes", 5)
    assert (status, code) == (503, "unreachable")
    assert "cannot be reached" in message


# --- a function with an https address


class Google:
    """A stand-in for Google's token server. Its tokens expire after `seconds`; it records requests and tokens."""

    url = ""
    status = 200
    seconds = 3600
    delay = 0.0

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.given: list[str] = []

    def respond(self, assertion: str) -> bytes:
        self.requests.append(assertion)
        time.sleep(self.delay)
        claims = {"iat": int(time.time()), "exp": int(time.time()) + self.seconds, "jti": len(self.requests)}
        parts = [json.dumps({"alg": "none"}), json.dumps(claims), "signature"]
        self.given.append(".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts))
        return json.dumps({"id_token": self.given[-1]}).encode()


@pytest.fixture
def google() -> Iterator[Google]:
    running = Google()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = running.respond(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(running.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # the client may have disconnected
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running.url = f"http://127.0.0.1:{server.server_address[1]}/token"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield running
        server.shutdown()
        thread.join()


@pytest.fixture
def https_function(encrypted_function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function with an https address, and a page without credentials."""
    file, key = certificate_for_localhost(tmp_path)
    (tmp_path / "key.pem").write_bytes(pem(key))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    monkeypatch.setattr(identity, "_kept", {})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with encrypted_function(context) as running:
        yield running


@pytest.fixture
def private_function(https_function: Any, google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function with an https address, and a page with the key of a service account."""
    account = {
        "type": "service_account",
        "client_email": "page@example.iam.gserviceaccount.com",
        "private_key": (tmp_path / "key.pem").read_text(),
        "token_uri": google.url,
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    return https_function


def sent_tokens(function: Any) -> list[str | None]:
    return [headers.get("Authorization", "").removeprefix("Bearer ") or None for headers in function.headers]


def test_id_token_is_sent_to_a_private_function_and_reused(private_function: Any, google: Google) -> None:
    predict(f"{private_function.url}/?top=3", b"bytes", 5)
    describe_model(private_function.url, 5)
    assert len(google.requests) == 1
    claims = parse_qs(google.requests[0])["assertion"][0].split(".")[1]
    assert json.loads(urlsafe_b64decode(claims + "=="))["target_audience"] == private_function.url
    assert sent_tokens(private_function) == google.given * 2


def test_id_token_is_renewed_five_minutes_before_it_expires(private_function: Any, google: Google) -> None:
    google.seconds = 299
    predict(private_function.url, b"bytes", 5)
    google.seconds = 310
    predict(private_function.url, b"bytes", 5)
    predict(private_function.url, b"bytes", 5)
    first, second = google.given
    assert sent_tokens(private_function) == [first, second, second]


def test_id_token_is_shared_by_concurrent_requests(private_function: Any, google: Google) -> None:
    google.delay = 0.1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: predict(private_function.url, b"bytes", 5), range(4)))
    assert sent_tokens(private_function) == google.given * 4


def test_id_token_differs_per_function(private_function: Any, google: Google) -> None:
    tokens = [identity.id_token(audience) for audience in (private_function.url, "https://example.org")]
    assert tokens == google.given and len(set(tokens)) == 2


@pytest.mark.parametrize(("status", "delay"), [(400, 0.0), (200, 0.6)], ids=["refuses", "is slow"])
def test_id_token_failure_is_explained_and_retried(
    status: int, delay: float, private_function: Any, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "TIMEOUT_SECONDS", 0.3)
    google.status, google.delay = status, delay
    *code, message = failure(predict, private_function.url, b"bytes", 5)
    assert code == [502, "no_identity"]
    assert "Google gives this page no ID token" in message
    assert private_function.headers == []
    google.status, google.delay = 200, 0.0
    predict(private_function.url, b"bytes", 5)
    # A slow first response may be given after the one that was used; the page no longer waited for it.
    (sent,) = sent_tokens(private_function)
    assert sent in google.given


def test_public_function_needs_no_identity(https_function: Any) -> None:
    predict(https_function.url, b"bytes", 5)
    describe_model(https_function.url, 5)
    assert sent_tokens(https_function) == [None, None]


@pytest.mark.parametrize("status", [401, 403])
def test_private_function_without_an_identity_is_explained(status: int, https_function: Any) -> None:
    https_function.status, https_function.body = status, b"<html>Forbidden</html>"
    *code, message = failure(predict, https_function.url, b"bytes", 5)
    assert code == [502, "no_identity"]
    assert "this page has no Google identity" in message


def test_error_of_a_public_function_is_kept_without_an_identity(https_function: Any) -> None:
    words = {"code": "forbidden_host", "message": "Posters are not fetched from example.org."}
    https_function.status, https_function.body = 403, {"error": words}
    assert failure(predict, https_function.url, "https://example.org/p.jpg", 5) == (403, *words.values())


def test_missing_identity_is_checked_again_after_some_minutes(
    https_function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def absent(audience: str, request: Any) -> None:
        looked.append(audience)
        raise DefaultCredentialsError("No metadata server.")

    monkeypatch.setattr(identity, "fetch_id_token_credentials", absent)
    for _ in range(2):
        predict(https_function.url, b"bytes", 5)
    assert len(looked) == 1
    monkeypatch.setattr(identity.time, "time", lambda now=time.time: now() + identity.ABSENT_SECONDS)
    predict(https_function.url, b"bytes", 5)
    assert len(looked) == 2


def test_refused_id_token_names_the_missing_role(private_function: Any) -> None:
    private_function.status, private_function.body = 403, b"<html>Forbidden</html>"
    *code, message = failure(predict, private_function.url, b"bytes", 5)
    assert code == [502, "not_allowed"]
    assert "Cloud Run Invoker" in message
