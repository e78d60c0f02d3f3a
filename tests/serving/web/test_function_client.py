"""Asking the function: what is no answer becomes a sentence, and a private function gets an ID token."""

import json
import ssl
import threading
from base64 import urlsafe_b64decode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from infra.local.processes import free_port
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


# --- a private function


@pytest.mark.parametrize("what", ["genres", "the model"])
def test_a_private_function_is_called_with_an_id_token(
    what: str, encrypted_function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's own client asks a stand-in of Google's token server, with a service account's key."""
    file, key = certificate_for_localhost(tmp_path)
    asked: list[str] = []
    # What Google answers: a JWT, of which the client reads only when it ends (the year 2100).
    token = "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDAsImlhdCI6MTcwMDAwMDAwMH0.c2lnbmF0dXJl"

    class TokenServer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            body = json.dumps({"id_token": token}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with HTTPServer(("127.0.0.1", 0), TokenServer) as tokens, encrypted_function(context) as function:
        thread = threading.Thread(target=tokens.handle_request)
        thread.start()
        account = {
            "type": "service_account",
            "client_email": "page@example.iam.gserviceaccount.com",
            "private_key": pem(key).decode(),
            "token_uri": f"http://127.0.0.1:{tokens.server_address[1]}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
        if what == "genres":
            ask(function.url, b"bytes", 5)
        else:
            describe_model(function.url, 5)
        thread.join()
    assert len(asked) == 1
    claims = parse_qs(asked[0])["assertion"][0].split(".")[1]
    assert json.loads(urlsafe_b64decode(claims + "=="))["target_audience"] == function.url
    assert function.headers[0]["Authorization"] == f"Bearer {token}"
    assert urlsplit(function.url).scheme == "https"


def test_a_page_without_an_identity_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    assert failure(ask, f"https://127.0.0.1:{free_port()}", b"bytes", 5)[:2] == (502, "no_identity")
