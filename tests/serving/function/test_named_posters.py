"""Posters on allowed hosts and in allowed buckets, and addresses that must not lead anywhere else."""

import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from serving.function.named_posters import HOST_TIMEOUT_SECONDS, MAX_BYTES
from tests.certificates import certificate_for_localhost
from tests.messages import faults_of_message
from tests.pictures import image_file
from tests.serving.conftest import StartFunction

pytestmark = pytest.mark.stack


@dataclass
class Host:
    """A host of posters. The path of a request says how it responds; `requests` holds their paths and headers."""

    address: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate_for_localhost(tmp_path_factory.mktemp("certificate"))[0]


@pytest.fixture(scope="module")
def host(certificate: Path) -> Iterator[Host]:
    host = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host.requests.append({"path": self.path, **self.headers})
            what = self.path.split("/")[1]
            status = int(what) if what.isdigit() else 200
            data = bytes(MAX_BYTES + 100) if what == "large" else image_file(seed=5)
            self.send_response(status)
            if what == "302":
                self.send_header("Location", f"https://{host.address}/good")
            if what != "endless":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                if what == "silent":
                    time.sleep(HOST_TIMEOUT_SECONDS)
                elif what in ("dripping", "endless"):
                    for _ in range(int(HOST_TIMEOUT_SECONDS * 10)):
                        self.wfile.write(b"x")
                        time.sleep(0.2)
                elif what == "cut":
                    self.wfile.write(data[:100])
                else:
                    self.wfile.write(data)
            except OSError:
                pass  # the client has closed the connection

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that closes the connection is expected."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(("127.0.0.1", 0), Handler) as server:
        host.address = f"localhost:{server.server_address[1]}"
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield host
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def url(start_function: StartFunction, uploaded_bundle: str, host: Host, certificate: Path) -> Iterator[str]:
    """A function that may read posters from this host and from a second bucket."""
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        POSTER_HOSTS=f"cdn.example, {host.address}",
        POSTER_BUCKETS="second-bucket",
        REQUESTS_CA_BUNDLE=str(certificate),
    ) as (url, _):
        yield url


def status_and_code(url: str, name: str) -> tuple[int, str]:
    """The status, and the code of the error if there is one."""
    response = requests.post(url, json={"name": name}, timeout=60)
    if response.ok:
        return response.status_code, ""
    error = response.json()["error"]
    assert faults_of_message(error["message"]) == []
    return response.status_code, error["code"]


def test_poster_on_an_allowed_host_gives_the_same_prediction_as_its_bytes(url: str, host: Host) -> None:
    named = requests.post(url, json={"name": f"https://{host.address}/good/1.jpg?s=1"})
    sent = requests.post(url, data=image_file(seed=5), headers={"Content-Type": "image/jpeg"})
    assert named.json()["genres"] == sent.json()["genres"]
    assert host.requests[-1]["path"] == "/good/1.jpg?s=1"
    assert "Authorization" not in host.requests[-1]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("404", 404, "no_such_poster"),
        ("410", 404, "no_such_poster"),
        ("500", 503, "poster_unavailable"),
        ("302", 503, "poster_unavailable"),
        ("large", 413, "too_large"),
        ("cut", 503, "poster_unavailable"),
        ("silent", 504, "too_slow"),
        ("dripping", 504, "too_slow"),
    ],
)
def test_host_error_becomes_a_status_and_a_code(url: str, host: Host, path: str, status: int, code: str) -> None:
    before = len(host.requests)
    assert status_and_code(url, f"https://{host.address}/{path}") == (status, code)
    assert len(host.requests) == before + 1, "redirects are not followed"


def test_address_cannot_lead_to_another_host(url: str, host: Host) -> None:
    before = len(host.requests)
    port = host.address.partition(":")[2]
    for address in (
        f"http://{host.address}/good",
        f"https://127.0.0.1:{port}/good",
        f"https://user@{host.address}/good",
        f"https://{host.address}@evil.example/good",
        f"https://{host.address}.evil.example/good",
        f"https://localhost.:{port}/good",
        "https://localhost/good",
        "https://169.254.169.254/computeMetadata/v1/",
        "http://metadata.google.internal/computeMetadata/v1/",
        "https://[::1]/good",
        "https:///good",
    ):
        assert status_and_code(url, address) == (403, "forbidden_host"), address
    for address in (
        f"https://{host.address}\\@evil.example/",
        f"https://{host.address}/a b",
        f"https://{host.address}/\n",
        "https://[",
    ):
        assert status_and_code(url, address) == (400, "bad_request"), address
    assert status_and_code(url, "file:///etc/passwd") == (404, "no_such_poster"), "it is the name of an object"
    assert len(host.requests) == before


def test_host_without_a_valid_certificate_or_connection_is_unavailable(
    start_function: StartFunction, uploaded_bundle: str, host: Host
) -> None:
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        POSTER_HOSTS=f"{host.address},localhost:1,a.example,b.example,c.example,d.example,e.example",
    ) as (url, _):
        assert status_and_code(url, f"https://{host.address}/good") == (503, "poster_unavailable")
        assert status_and_code(url, "https://localhost:1/good") == (503, "poster_unavailable")
        refusal = requests.post(url, json={"name": "https://evil.example/1.jpg"}, headers={"Connection": "close"})
        assert refusal.json()["error"]["message"] == (
            "Posters are read only from https:// addresses on a.example, b.example, c.example, d.example, e.example "
            "and 2 more."
        )


def test_other_bucket_is_read_only_if_it_is_allowed(url: str, storage_url: str) -> None:
    created = requests.post(f"{storage_url}/storage/v1/b?project=test", json={"name": "second-bucket"})
    assert created.ok, created.text
    requests.post(
        f"{storage_url}/upload/storage/v1/b/second-bucket/o?uploadType=media&name=a.jpg", data=image_file(seed=5)
    ).raise_for_status()
    assert status_and_code(url, "gs://second-bucket/a.jpg") == (200, "")
    refusal = requests.post(url, json={"name": "gs://third-bucket/a.jpg"})
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (403, "forbidden_bucket")
    assert refusal.json()["error"]["message"] == (
        "Posters are read only from the function's own bucket and from second-bucket."
    )
