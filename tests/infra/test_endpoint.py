"""The client of the function against a server with scripted responses."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError, TransportError
from google.auth.transport.requests import AuthorizedSession
from pydantic import SecretStr

from infra import endpoint, rights
from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction, request_predictions
from infra.errors import (
    ConfigurationError,
    DamagedBundleError,
    DeploymentError,
    FunctionDown,
    NotFound,
    ServiceUnavailable,
)
from infra.google import call, google_errors
from infra.rights import check_google_cloud
from infra.settings import Settings
from tests.certificates import certificate_for_localhost
from tests.infra.conftest import Serve

PREDICTION = {"genres": [{"name": "Action"}], "model": {"sha256": "1"}}
UNAVAILABLE = (503, b"Service Unavailable")


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PAUSE_SECONDS", 0.01)


def error(code: str) -> dict[str, object]:
    return {"error": {"code": code, "message": "The reason."}}


def test_prediction_is_requested_by_poster_name_until_the_function_has_started(serve: Serve) -> None:
    url, received = serve(UNAVAILABLE, (503, error("storage_unavailable")), (200, PREDICTION))
    assert request_prediction(url, "posters/5.jpg") == PREDICTION
    assert [json.loads(body) for body in received] == [{"name": "posters/5.jpg"}] * 3


def test_address_that_is_unknown_at_first_is_requested_again(serve: Serve) -> None:
    """As the address of a new tag is, for some seconds."""
    url, received = serve((404, b"<html>Page not found</html>"), (200, PREDICTION))
    assert request_prediction(url, "posters/5.jpg") == PREDICTION
    assert len(received) == 2
    url, _ = serve((404, b"<html>Page not found</html>"))
    with pytest.raises(NotFound, match="the status is 404"):
        request_prediction(url, "posters/5.jpg", startup_seconds=0.1)


def test_predictions_of_several_posters_are_in_their_order_without_refused_ones() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["name"]
            status, answer = (422, error("poster_error")) if name == "7" else (200, {"genres": [{"name": name}]})
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    names = [str(number) for number in range(20)]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        answers = request_predictions(f"http://127.0.0.1:{server.server_port}", names, None)
        server.shutdown()
        thread.join()
    assert answers == [{"genres": [{"name": name}]} if name != "7" else None for name in names]


@pytest.fixture
def private_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The https:// address of a function that answers callers with the token "identity" only."""
    certificate, _ = certificate_for_localhost(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            allowed = self.headers["Authorization"] == "Bearer identity"
            body = json.dumps(PREDICTION).encode() if allowed else b"<html>Unauthorized</html>"
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_person_calls_a_private_function_as_the_caller_service_account(
    private_function: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = {"type": "authorized_user", "client_id": "1", "client_secret": "2", "refresh_token": "3"}
    person |= {"token": "access", "expiry": "2999-01-01T00:00:00Z"}
    (tmp_path / "person.json").write_text(json.dumps(person))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "person.json"))
    with pytest.raises(ConfigurationError, match="or name one in ANIME_GENRE_CALLER_SERVICE_ACCOUNT"):
        request_prediction(private_function, "posters/5.jpg")
    caller = "pipeline@my-project.iam.gserviceaccount.com"
    address, received = serve((200, {"token": "identity"}))
    monkeypatch.setattr(endpoint, "_IAM_CREDENTIALS", address)
    assert request_prediction(private_function, "posters/5.jpg", caller) == PREDICTION
    assert [json.loads(body) for body in received] == [{"audience": private_function, "includeEmail": True}]
    refused, _ = serve((403, {"error": {"code": 403, "message": "Permission denied."}}))
    monkeypatch.setattr(endpoint, "_IAM_CREDENTIALS", refused)
    with pytest.raises(ConfigurationError, match=r"Give your account the role iam\.serviceAccountOpenIdTokenCreator"):
        request_prediction(private_function, "posters/5.jpg", caller)


def _after(cause: Exception) -> RefreshError:
    error = RefreshError("no token")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        (RefreshError("the status is 503", retryable=True), True),
        (_after(TransportError("the metadata server does not answer")), True),
        (RefreshError("invalid_grant"), False),
    ],
)
def test_token_that_google_cannot_give_at_the_moment_is_worth_a_retry(
    error: RefreshError, temporary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Credentials):
        def refresh(self, request: object, audience: str = "") -> None:
            raise error

    kind = ServiceUnavailable if temporary else ConfigurationError
    failing = Failing()  # type: ignore[no-untyped-call]
    settings = Settings(google_project="my-project-1", bucket="my-bucket-1")
    with pytest.raises(kind), google_errors("Reading"), AuthorizedSession(failing) as session:
        call(session, "GET", "http://127.0.0.1:1", settings)
    monkeypatch.setattr("google.oauth2.id_token.fetch_id_token", failing.refresh)
    with pytest.raises(kind):
        request_prediction("https://function.example", "posters/5.jpg")
    monkeypatch.setattr(rights, "credentials", lambda settings: failing)
    (check,) = check_google_cloud(settings)
    assert check.problem and check.temporary == temporary


def test_function_that_does_not_start_is_unavailable(serve: Serve) -> None:
    url, received = serve(UNAVAILABLE)
    with pytest.raises(FunctionDown, match="the status is 503"):
        request_prediction(url, "posters/5.jpg", startup_seconds=0.1)
    assert len(received) > 1
    with pytest.raises(FunctionDown, match=r"there is no complete response \(ConnectionError\)"):
        request_prediction("http://127.0.0.1:1", "posters/5.jpg", startup_seconds=0)


@pytest.fixture
def cut() -> Iterator[str]:
    """The address of a server that announces 100 bytes, sends 10 and closes the connection."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"genres":')

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_response_that_is_cut_is_worth_a_retry(cut: str) -> None:
    with pytest.raises(FunctionDown, match="there is no complete response"):
        request_prediction(cut, "posters/5.jpg", startup_seconds=0)
    settings = Settings(cloud_run_endpoint=cut, cloud_run_token=SecretStr("token"))
    reason = "the connection was lost in the middle of the response"
    with pytest.raises(ServiceUnavailable, match=reason):
        build_image(settings, "functions/1.zip", "1")
    with pytest.raises(ServiceUnavailable, match=reason):
        CloudRun(settings).url()


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, error("no_such_poster"), NotFound, r"found nothing: The reason\.$"),
        (403, b"<html>Forbidden</html>", ConfigurationError, "do not allow .*: the status is 403 Forbidden"),
        (503, error("storage_forbidden"), ConfigurationError, r"may not read its bucket: The reason\.$"),
        (403, error("forbidden_bucket"), ConfigurationError, r"refused the request: The reason\.$"),
        (422, error("unusable_image"), DeploymentError, r"refused the request: The reason\.$"),
        (503, error("bundle_error"), DamagedBundleError, r"cannot load its bundle: The reason\.$"),
        (200, b"<html>Hello</html>", DeploymentError, "is not JSON"),
        (200, {"hello": "world"}, DeploymentError, "contains no genres"),
        (200, ["genres"], DeploymentError, "contains no genres"),
        (400, ["error"], DeploymentError, "the status is 400"),
    ],
)
def test_error_response_is_explained_and_not_retried(
    serve: Serve, status: int, body: object, kind: type[Exception], message: str
) -> None:
    url, received = serve((status, body))
    with pytest.raises(kind, match=message):
        request_prediction(url, "posters/5.jpg")
    assert len(received) == 1
