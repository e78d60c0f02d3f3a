"""The app behind /anime: what it sends to the function, what it shows, and what it says when that fails."""

import http.client
import io
import json
import re
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.serving import make_server

from infra.local.processes import free_port
from serving.web.app import MAX_POSTER_BYTES, SAMPLES, create_app

JSON = {"Accept": "application/json"}


def poster() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 60), (200, 40, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def upload(client: FlaskClient, data: bytes | None = None, name: str = "p.jpg", **options: Any) -> Any:
    """Send a form as a browser writes it."""
    kind = "text/plain" if name.endswith(".txt") else "image/jpeg"
    head = f'Content-Disposition: form-data; name="poster"; filename="{name}"\r\nContent-Type: {kind}'
    body = f"--x\r\n{head}\r\n\r\n".encode() + (poster() if data is None else data) + b"\r\n--x--\r\n"
    return client.post("/anime", data=body, content_type="multipart/form-data; boundary=x", **options)


@pytest.fixture
def client(function: Any) -> FlaskClient:
    return create_app(function.url).test_client()


def error_of(response: Any) -> tuple[int, str, str]:
    return response.status_code, response.json["error"]["code"], response.json["error"]["message"]


# --- the page


def test_the_root_leads_to_the_page_and_the_page_has_a_form(client: FlaskClient) -> None:
    response = client.get("/", follow_redirects=True)
    assert response.request.path == "/anime"
    assert 'method="post" enctype="multipart/form-data"' in response.text


def test_health_needs_no_function() -> None:
    assert create_app().test_client().get("/healthz").json == {"status": "ok"}


def test_nothing_comes_from_elsewhere_and_nothing_is_inline(client: FlaskClient) -> None:
    response = upload(client)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', response.text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", response.text)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"


def test_every_file_the_page_names_is_there(client: FlaskClient) -> None:
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/anime").text)
    assert len(files) == 3 + len(SAMPLES)
    for file in files:
        with client.get(file) as response:
            assert response.status_code == 200


# --- a poster and its genres


def test_the_function_is_sent_the_bytes_as_an_image(client: FlaskClient, function: Any) -> None:
    data = poster()
    assert upload(client, data).status_code == 200
    assert function.posters == [data]
    assert function.headers[0]["Content-Type"] == "image/jpeg"
    assert "Authorization" not in function.headers[0]


def test_a_file_that_is_called_no_image_is_sent_as_plain_bytes(client: FlaskClient, function: Any) -> None:
    upload(client, name="poster.txt")
    assert function.headers[0]["Content-Type"] == "application/octet-stream"


def test_genres_become_bars_with_words_thresholds_and_the_model(client: FlaskClient) -> None:
    text = upload(client, name="<b>.jpg").text
    genres = re.findall(r'<li class="genre (\w+)">\s*<span class="name">([^<]+)</span>', text)
    assert genres == [
        ("likely", "Action"),
        ("likely", "Sci-Fi"),
        ("maybe", "Adventure"),
        ("unlikely", "Slice of Life"),
    ]
    assert 'aria-label="83 percent; counts as likely from 40 percent on"' in text
    assert re.search(r'class="fill" width="83.0%".*\n.*class="threshold" x="40.0%"', text)
    assert "<h2>Action, Sci-Fi</h2>" in text
    assert "1 unlikely genre<" in text
    assert "version 3" in text and "9f86d081884c<" in text
    assert '<time datetime="2026-11-23">23 November 2026</time>' in text
    assert "Read from &lt;b&gt;.jpg" in text


def test_no_genre_above_its_threshold_is_said(client: FlaskClient, function: Any) -> None:
    function.body = {
        "genres": [{"id": None, "name": "Drama", "probability": 0.01, "threshold": 0.5, "predicted": False}],
        "model": {"version": None, "sha256": "0" * 64, "dataset_date": None},
    }
    text = upload(client).text
    assert "No genre stands out" in text
    assert "of unknown version" in text
    assert "<details open>" in text
    assert "catalogue of" not in text


def test_programs_get_the_function_s_answer_as_json(client: FlaskClient, function: Any) -> None:
    answer = upload(client, headers=JSON).json
    words = [genre.pop("likelihood") for genre in answer["genres"]]
    assert words == ["likely", "likely", "maybe", "unlikely"]
    assert answer == function.body


def test_genres_are_shown_most_probable_first_whatever_their_order(client: FlaskClient, function: Any) -> None:
    function.body = {**function.body, "genres": function.body["genres"][::-1]}
    names = [genre["name"] for genre in upload(client, headers=JSON).json["genres"]]
    assert names == ["Action", "Sci-Fi", "Adventure", "Slice of Life"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_drawn_sample_is_asked_about_like_an_upload(sample: str, client: FlaskClient, function: Any) -> None:
    response = client.post("/anime", data={"sample": sample})
    assert response.status_code == 200
    with Image.open(io.BytesIO(function.posters[0])) as image:
        assert image.size == (225, 318)


# --- what can go wrong


def test_the_function_s_own_words_are_shown(client: FlaskClient, function: Any) -> None:
    function.status = 415
    function.body = {"error": {"code": "unsupported_format", "message": "This is no image <1>."}}
    response = upload(client)
    assert response.status_code == 415
    assert 'role="alert" data-code="unsupported_format"' in response.text
    assert "This is no image &lt;1&gt;." in response.text
    assert error_of(upload(client, headers=JSON)) == (415, "unsupported_format", "This is no image <1>.")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"No revision serves this address.\n", (503, "no_model")),
        (503, b"Service Unavailable\n", (503, "waking")),
        (429, b"Rate exceeded.", (503, "waking")),
        (403, b"<html>Forbidden</html>", (502, "not_allowed")),
        (302, b"", (502, "unreadable_answer")),
        (200, b"<html>", (502, "unreadable_answer")),
        (200, {"genres": [{"name": "Action"}]}, (502, "unreadable_answer")),
        (200, [], (502, "unreadable_answer")),
        (500, {"error": "no object"}, (503, "waking")),
    ],
)
def test_what_is_no_answer_becomes_a_sentence(
    status: int, body: Any, expected: tuple[int, str], client: FlaskClient, function: Any
) -> None:
    function.status, function.body, function.content_type = status, body, "text/html"
    *code, message = error_of(upload(client, headers=JSON))
    assert tuple(code) == expected
    assert message.endswith(".") and message[0].isupper()


def test_a_function_that_takes_too_long_may_be_waking(function: Any) -> None:
    function.seconds = 0.5
    client = create_app(function.url, timeout_seconds=0.2).test_client()
    status, code, message = error_of(upload(client, headers=JSON))
    assert (status, code) == (504, "timeout")
    assert "waking up" in message


def test_a_function_that_is_down_cannot_be_reached() -> None:
    client = create_app(f"http://127.0.0.1:{free_port()}").test_client()
    status, code, message = error_of(upload(client, headers=JSON))
    assert (status, code) == (503, "unreachable")
    assert "cannot be reached" in message


def test_without_a_function_the_page_stands_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUNCTION_URL", raising=False)
    client = create_app().test_client()
    assert client.get("/anime").status_code == 200
    assert error_of(upload(client, headers=JSON))[:2] == (503, "no_function")


def test_the_environment_names_the_function(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.setenv("FUNCTION_URL", function.url)
    assert upload(create_app().test_client()).status_code == 200


@pytest.mark.parametrize("address", ["localhost:8080", "ftp://example.org", "http://"])
def test_an_address_that_is_none_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ValueError, match="has to be an http:// or https:// address"):
        create_app(address)


@pytest.mark.parametrize("form", [{}, {"poster": ""}, {"poster": (io.BytesIO(b""), "")}, {"sample": "../app"}])
def test_a_form_without_a_poster_is_told_to_choose_one(form: dict[str, Any], client: FlaskClient) -> None:
    response = client.post("/anime", data=form, headers=JSON)
    assert error_of(response) == (400, "no_poster", "No poster was chosen; choose an image first.")


@pytest.mark.parametrize("surplus", [1, 1_000_000])
def test_a_poster_that_is_too_large_is_refused_here(surplus: int, client: FlaskClient, function: Any) -> None:
    status, code, message = error_of(upload(client, bytes(MAX_POSTER_BYTES + surplus), headers=JSON))
    assert (status, code) == (413, "too_large")
    assert "20 MB" in message
    assert function.posters == []


def test_a_poster_of_exactly_the_limit_passes(client: FlaskClient, function: Any) -> None:
    assert upload(client, bytes(MAX_POSTER_BYTES)).status_code == 200
    assert len(function.posters[0]) == MAX_POSTER_BYTES


def test_the_sender_of_a_large_body_reads_the_refusal(function: Any) -> None:
    """Over a real connection: a server that hung up on a body half sent would reset it."""
    server = make_server("127.0.0.1", 0, create_app(function.url), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        body = bytes(40 * 2**20)
        connection.request("POST", "/anime", body, {"Content-Type": "multipart/form-data; boundary=x", **JSON})
        response = connection.getresponse()
        assert response.status == 413
        assert json.load(response)["error"]["code"] == "too_large"
    finally:
        connection.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_unknown_address_and_a_wrong_method_answer_with_the_page(client: FlaskClient) -> None:
    unknown = client.get("/nowhere")
    assert unknown.status_code == 404
    assert "Not Found. Start again from the page itself." in unknown.text
    wrong = client.put("/anime", headers=JSON)
    assert error_of(wrong)[:2] == (405, "bad_request")
    assert "POST" in wrong.headers["Allow"]


# --- a private function


def certificate_for_localhost(folder: Path) -> tuple[Path, rsa.RSAPrivateKey]:
    """A self-signed certificate and its key in one file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "localhost.pem"
    file.write_bytes(pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
    return file, key


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_private_function_is_called_with_an_id_token(
    encrypted_function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        response = upload(create_app(function.url).test_client())
        thread.join()
    assert response.status_code == 200
    assert len(asked) == 1
    assert function.headers[0]["Authorization"] == f"Bearer {token}"
    assert urlsplit(function.url).scheme == "https"


def test_a_page_without_an_identity_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    client = create_app(f"https://127.0.0.1:{free_port()}").test_client()
    assert error_of(upload(client, headers=JSON))[:2] == (502, "no_identity")
