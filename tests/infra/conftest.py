"""A storage emulator and settings for it, a Cloud Run stand-in, and a server with scripted responses."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.certificates import certificate_for_localhost, pem
from tests.storage import storage_emulator

BUCKET = "test-bucket"
TOKEN = "the-token"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
Serve = Callable[..., tuple[str, list[bytes]]]


@pytest.fixture(scope="session")
def private_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A private key as the key file of a service account contains it."""
    return pem(certificate_for_localhost(tmp_path_factory.mktemp("key"))[1]).decode()


@pytest.fixture(scope="session")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a storage emulator with one empty bucket."""
    with storage_emulator(tmp_path_factory.mktemp("storage"), BUCKET) as url:
        yield url


@pytest.fixture
def settings(storage_url: str, tmp_path: Path) -> Settings:
    """Settings for the emulator, with a workspace for this test."""
    return Settings(workspace=tmp_path, bucket=BUCKET, storage_emulator_host=storage_url, service_timeout_seconds=1)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve((status, body), ...)` starts a server and returns its address and the list of received bodies.

    The server sends the responses in turn and repeats the last one. Bodies that are not bytes are sent as JSON.
    """
    with ExitStack() as servers:
        yield lambda *responses: servers.enter_context(_scripted_server(responses))


@contextmanager
def run_api(folder: Path, storage_url: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the Cloud Run stand-in with its state in `folder`; yield its endpoint and its process.

    Its error output goes to stand-in.log in the folder.
    """
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "infra.local.run_api", "--port", "0", "--state", str(folder), *options]
    environment = {**os.environ, "STORAGE_EMULATOR_HOST": storage_url, "ANIME_GENRE_CLOUD_RUN_TOKEN": TOKEN}
    with (
        (folder / "stand-in.log").open("a") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout
            yield process.stdout.readline().strip().rpartition(" ")[2], process
        finally:
            process.terminate()


@contextmanager
def _scripted_server(responses: tuple[tuple[int, object], ...]) -> Iterator[tuple[str, list[bytes]]]:
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            received.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            status, content = responses[min(len(received), len(responses)) - 1]
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()
