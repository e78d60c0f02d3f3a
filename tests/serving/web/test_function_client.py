"""Asking the function: what is no answer becomes a sentence, and a private function gets an ID token."""

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
from serving.web.function_client import ask, describe_model
from tests.certificates import certificate_for_localhost, pem


def failure(call: Callable[..., Any], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(FunctionError) as caught:
        call(*arguments)
    return caught.value.status, caught.value.code, str(caught.value)


def test_bytes_are_sent_as_they_are_and_an_address_as_json(function: Any) -> None:
    ask(function.url, b"bytes", 5, "image/png")
    ask(function.url, "https://example.org/p.jpg", 5)
    assert function.posters == [b"bytes", b'{"name": "https://example.org/p.jpg"}']
    assert [headers["Content-Type"] for headers in function.headers] == ["image/png", "application/json"]
    assert function.explained == [None, None]


def test_a_genre_is_explained_only_where_it_is_asked_for(function: Any) -> None:
    assert ask(function.url, b"bytes", 5).explanation is None
    explanation = ask(function.url, b"bytes", 5, explain="Slice of Life").explanation
    assert explanation is not None
    assert (explanation.genre_id, explanation.genre, explanation.reason) == (36, "Slice of Life", None)


def test_a_heat_map_that_is_no_png_is_not_shown(function: Any) -> None:
    genre = {"id": 1, "name": "Action"}
    function.body = {**function.body, "explanation": {"genre": genre, "image": "https://example.org/x.png"}}
    assert failure(ask, function.url, b"bytes", 5)[:2] == (502, "unreadable_answer")


def test_the_model_is_described(function: Any) -> None:
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
def test_a_model_that_is_not_described_becomes_a_sentence(
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
def test_what_is_no_answer_becomes_a_sentence(status: int, body: Any, expected: tuple[int, str], function: Any) -> None:
    function.status, function.body, function.content_type = status, body, "text/html"
    *code, message = failure(ask, function.url, b"bytes", 5)
    assert tuple(code) == expected
    assert message.endswith(".") and message[0].isupper()


def test_a_function_that_takes_too_long_may_be_waking(function: Any) -> None:
    function.seconds = 0.5
    status, code, message = failure(ask, function.url, b"bytes", 0.2)
    assert (status, code) == (504, "timeout")
    assert "waking up" in message


def test_a_function_that_is_down_cannot_be_reached() -> None:
    status, code, message = failure(ask, f"http://127.0.0.1:{free_port()}", b"bytes", 5)
    assert (status, code) == (503, "unreachable")
    assert "cannot be reached" in message


# --- a function at https


class Google:
    """A stand-in of Google's token server: it gives tokens that end in `seconds`, and remembers what it was asked."""

    url = ""
    status = 200
    seconds = 3600
    delay = 0.0

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given: list[str] = []

    def answer(self, question: str) -> bytes:
        self.asked.append(question)
        time.sleep(self.delay)
        claims = {"iat": int(time.time()), "exp": int(time.time()) + self.seconds, "jti": len(self.asked)}
        parts = [json.dumps({"alg": "none"}), json.dumps(claims), "signature"]
        self.given.append(".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts))
        return json.dumps({"id_token": self.given[-1]}).encode()


@pytest.fixture
def google() -> Iterator[Google]:
    running = Google()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = running.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(running.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may have gone
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
    """A function at https, asked by a page that has no identity."""
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
    """A function at https, asked by a page that has a service account's key."""
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


def test_a_private_function_is_called_with_an_id_token_that_is_kept(private_function: Any, google: Google) -> None:
    """Google's own client asks a stand-in of Google's token server, with a service account's key."""
    ask(private_function.url, b"bytes", 5)
    describe_model(private_function.url, 5)
    assert len(google.asked) == 1
    claims = parse_qs(google.asked[0])["assertion"][0].split(".")[1]
    assert json.loads(urlsafe_b64decode(claims + "=="))["target_audience"] == private_function.url
    assert sent_tokens(private_function) == google.given * 2


def test_a_token_that_ends_within_five_minutes_is_renewed(private_function: Any, google: Google) -> None:
    google.seconds = 299
    ask(private_function.url, b"bytes", 5)
    google.seconds = 310
    ask(private_function.url, b"bytes", 5)
    ask(private_function.url, b"bytes", 5)
    first, second = google.given
    assert sent_tokens(private_function) == [first, second, second]


def test_posters_at_the_same_time_share_one_token(private_function: Any, google: Google) -> None:
    google.delay = 0.1
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ask(private_function.url, b"bytes", 5), range(4)))
    assert sent_tokens(private_function) == google.given * 4


def test_each_function_has_a_token_of_its_own(private_function: Any, google: Google) -> None:
    tokens = [identity.id_token(audience) for audience in (private_function.url, "https://example.org")]
    assert tokens == google.given and len(set(tokens)) == 2


@pytest.mark.parametrize(("status", "delay"), [(400, 0.0), (200, 0.6)], ids=["refuses", "is slow"])
def test_a_page_whom_google_gives_no_token_says_so_and_asks_it_again(
    status: int, delay: float, private_function: Any, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "TIMEOUT_SECONDS", 0.3)
    google.status, google.delay = status, delay
    *code, message = failure(ask, private_function.url, b"bytes", 5)
    assert code == [502, "no_identity"]
    assert "Google gives this page no ID token" in message
    assert private_function.headers == []
    google.status, google.delay = 200, 0.0
    ask(private_function.url, b"bytes", 5)
    assert sent_tokens(private_function) == google.given[-1:]


def test_a_public_function_answers_a_page_without_an_identity(https_function: Any) -> None:
    ask(https_function.url, b"bytes", 5)
    describe_model(https_function.url, 5)
    assert sent_tokens(https_function) == [None, None]


@pytest.mark.parametrize("status", [401, 403])
def test_a_page_without_an_identity_says_so_where_the_function_is_private(status: int, https_function: Any) -> None:
    https_function.status, https_function.body = status, b"<html>Forbidden</html>"
    *code, message = failure(ask, https_function.url, b"bytes", 5)
    assert code == [502, "no_identity"]
    assert "this page has no Google identity" in message


def test_a_public_function_s_own_refusal_is_said_without_an_identity_too(https_function: Any) -> None:
    words = {"code": "forbidden_host", "message": "Posters are not fetched from example.org."}
    https_function.status, https_function.body = 403, {"error": words}
    assert failure(ask, https_function.url, "https://example.org/p.jpg", 5) == (403, *words.values())


def test_a_page_without_an_identity_looks_for_one_again_after_some_minutes(
    https_function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def absent(audience: str, request: Any) -> None:
        looked.append(audience)
        raise DefaultCredentialsError("No metadata server.")

    monkeypatch.setattr(identity, "fetch_id_token_credentials", absent)
    for _ in range(2):
        ask(https_function.url, b"bytes", 5)
    assert len(looked) == 1
    monkeypatch.setattr(identity.time, "time", lambda now=time.time: now() + identity.ABSENT_SECONDS)
    ask(https_function.url, b"bytes", 5)
    assert len(looked) == 2


def test_a_private_function_that_refuses_the_page_s_token_says_what_its_account_needs(private_function: Any) -> None:
    private_function.status, private_function.body = 403, b"<html>Forbidden</html>"
    *code, message = failure(ask, private_function.url, b"bytes", 5)
    assert code == [502, "not_allowed"]
    assert "Cloud Run Invoker" in message
