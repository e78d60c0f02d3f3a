"""The Cloud Run stand-in as a process: its API over plain HTTP, its restarts, and that it leaves nothing."""

import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from infra.cloud_run import CloudRun
from infra.errors import StackError
from infra.local.run_api import cloud_run
from infra.revisions import Revision
from infra.settings import Settings

pytestmark = pytest.mark.stack

PARENT = "/v2/projects/test-project/locations/test-region"
SOURCE = """
import os, time
def predict(request):
    if request.path == "/slow":
        time.sleep(60)
    if request.path == "/die":
        os.kill(os.getppid(), 9)
        os._exit(1)
    return {"bundle": os.environ.get("BUNDLE"), "service": os.environ["K_SERVICE"],
            "path": request.full_path, "body": request.get_data(as_text=True),
            "header": request.headers.get("X-Test")}, 200, {"X-Answer": "yes"}
"""


@dataclass
class StandIn:
    """A running stand-in: its endpoint, its process, and Google's client led to it."""

    endpoint: str
    process: psutil.Process
    client: CloudRun
    log: Path

    def deploy(self, service: str, **environment: str) -> Revision:
        """Build SOURCE and make a candidate of it."""
        image = self.client.image_for(service, "5" * 64)
        self.client.build("test-bucket", "functions/stand-in.zip", image)
        return self.client.deploy_candidate(service, image, "5" * 64, environment)

    def processes(self) -> list[psutil.Process]:
        """Itself and all it started."""
        return [self.process, *self.process.children(recursive=True)]


Start = Callable[..., AbstractContextManager[StandIn]]


@pytest.fixture(scope="module")
def source(storage_url: str) -> str:
    """SOURCE in the bucket; gives the emulator's address."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", SOURCE)
    options = {"api_endpoint": storage_url}
    client = Client(project="test", credentials=AnonymousCredentials(), client_options=options)
    client.bucket("test-bucket").blob("functions/stand-in.zip").upload_from_string(buffer.getvalue())
    return storage_url


@pytest.fixture(scope="module")
def start(source: str) -> Start:
    """Start a stand-in by its command line, with its state in a folder."""

    @contextmanager
    def started(folder: Path, *options: str) -> Iterator[StandIn]:
        folder.mkdir(exist_ok=True)
        log = folder / "stand-in.log"
        command = [sys.executable, "-m", "infra.local.run_api", "--port", "0", "--state", str(folder)]
        environment = {**os.environ, "STORAGE_EMULATOR_HOST": source}
        with (
            log.open("a") as errors,
            subprocess.Popen(
                [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process,
        ):
            try:
                assert process.stdout
                endpoint = process.stdout.readline().strip().rpartition(" ")[2]
                settings = Settings(
                    cloud_run_endpoint=endpoint, google_project="test-project", google_region="test-region"
                )
                yield StandIn(endpoint, psutil.Process(process.pid), CloudRun(settings), log)
            finally:
                process.terminate()

    return started


@pytest.fixture(scope="module")
def stand_in(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in for tests that leave it running."""
    with start(tmp_path_factory.mktemp("cloud-run")) as running:
        yield running


def gone(processes: list[psutil.Process], timeout_seconds: float) -> bool:
    """Whether all of them end in time; who has ended and waits for its parent has ended."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        left = [item for item in processes if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return True
        time.sleep(0.05)
    return False


def test_a_request_is_passed_on_whole_and_so_is_its_answer(stand_in: StandIn) -> None:
    url = stand_in.deploy("whole", BUNDLE="one").url
    answer = requests.post(f"{url}/a%20b/c?d=1&e=%2F", data="grüße".encode(), headers={"X-Test": "kept"}, timeout=30)
    assert answer.json() == {
        "bundle": "one",
        "service": "whole",
        "path": "/a b/c?d=1&e=%2F",
        "body": "grüße",
        "header": "kept",
    }
    assert answer.headers["X-Answer"] == "yes"
    chunked = requests.post(str(url), data=iter([b"in ", b"pieces"]), timeout=30)
    assert chunked.json()["body"] == "in pieces"
    assert requests.head(str(url), timeout=30).status_code == 200


def test_traffic_is_shared_by_percent(stand_in: StandIn) -> None:
    first = stand_in.deploy("shared", BUNDLE="one")
    second = stand_in.deploy("shared", BUNDLE="two")
    service = f"{stand_in.endpoint}{PARENT}/services/shared"
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    traffic = [
        {"type": kind, "revision": first.name, "percent": 70},
        {"type": kind, "revision": second.name, "percent": 30},
    ]
    assert requests.patch(f"{service}?updateMask=traffic", json={"traffic": traffic}).status_code == 200
    url = requests.get(service).json()["uri"]
    said = Counter(requests.get(url, timeout=30).json()["bundle"] for _ in range(150))
    assert 15 < said["two"] < 80 < said["one"]


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "status"),
    [
        ("GET", f"{PARENT}/services/none", None, 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/services/none/revisions", None, 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/operations/none", None, 404, "NOT_FOUND"),
        ("GET", "/v2/nothing", None, 404, "NOT_FOUND"),
        ("DELETE", f"{PARENT}/services/none", None, 405, "UNIMPLEMENTED"),
        ("POST", f"{PARENT}/services?serviceId=Bad_Name", {}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=empty", {}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=odd", {"unheard": 1}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=odd", [], 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/builds:submit", {"imageUri": "image"}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_a_wrong_request_is_answered_as_google_does(
    stand_in: StandIn, method: str, path: str, body: object, code: int, status: str
) -> None:
    response = requests.request(method, stand_in.endpoint + path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (code, code, status)
    assert error["message"]


def test_an_update_that_cannot_be_changes_nothing(stand_in: StandIn) -> None:
    stand_in.deploy("firm", BUNDLE="one")
    address = f"{stand_in.endpoint}{PARENT}/services/firm"
    before = requests.get(address).json()
    half = {"traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 50}]}
    outdated = {"etag": "outdated", "traffic": before["traffic"]}
    assert requests.patch(f"{address}?updateMask=traffic", json=half).status_code == 400
    assert requests.patch(f"{address}?updateMask=traffic", json=outdated).status_code == 409
    assert requests.patch(f"{address}?updateMask=uid", json={}).status_code == 400
    assert requests.get(address).json() == before


def test_services_are_listed_by_location(stand_in: StandIn) -> None:
    stand_in.deploy("listed", BUNDLE="one")
    names = [item["name"] for item in requests.get(f"{stand_in.endpoint}{PARENT}/services").json()["services"]]
    assert "projects/test-project/locations/test-region/services/listed" in names
    elsewhere = requests.get(f"{stand_in.endpoint}{PARENT}-2/services").json()
    assert elsewhere == {"services": []}


def test_a_process_that_died_is_started_again(stand_in: StandIn) -> None:
    url = stand_in.deploy("phoenix", BUNDLE="one").url
    assert requests.get(f"{url}/die", timeout=30).status_code == 503
    assert requests.get(str(url), timeout=30).json()["bundle"] == "one"


def test_only_revisions_with_traffic_or_a_tag_run(start: Start, tmp_path: Path) -> None:
    def running() -> set[str]:
        return {
            item.environ()["K_REVISION"]
            for item in stand_in.process.children()
            if item.is_running() and item.status() != psutil.STATUS_ZOMBIE
        }

    with start(tmp_path / "state") as stand_in:
        first = stand_in.deploy("lean", BUNDLE="one")
        second = stand_in.deploy("lean", BUNDLE="two")
        assert running() == {first.name, second.name}
        [old] = [item for item in stand_in.process.children() if item.environ()["K_REVISION"] == first.name]
        stand_in.client.send_traffic("lean", second.name)
        assert gone([old], timeout_seconds=15)
        assert running() == {second.name}
        stand_in.client.send_traffic("lean", first.name)
        assert first.name in running()


def test_a_restart_brings_services_back_at_the_same_address(start: Start, tmp_path: Path) -> None:
    with start(tmp_path / "state") as stand_in:
        live = stand_in.client.send_traffic("lasting", stand_in.deploy("lasting", BUNDLE="one").name)
        candidate = stand_in.deploy("lasting", BUNDLE="two")
        revisions = stand_in.client.revisions("lasting")
    with pytest.raises(requests.ConnectionError):
        requests.get(str(live.url))
    with start(tmp_path / "state") as stand_in:
        assert stand_in.client.live("lasting") == live
        assert stand_in.client.revisions("lasting") == revisions
        assert requests.get(str(live.url), timeout=30).json()["bundle"] == "one"
        assert requests.get(str(candidate.url), timeout=30).json()["bundle"] == "two"
        assert stand_in.client.send_traffic("lasting", candidate.name).url == live.url


def test_revisions_write_nothing_into_the_users_home(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with start(tmp_path / "state") as stand_in:
        stand_in.deploy("tidy", BUNDLE="one")
        stand_in.deploy("tidy", BUNDLE="two")
        folders = {Path(child.environ()["XDG_RUNTIME_DIR"]) for child in stand_in.process.children()}
        assert len(folders) == 2
        deadline = time.monotonic() + 15
        while not all((folder / "gunicorn.ctl").exists() for folder in folders) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert all((folder / "gunicorn.ctl").is_socket() for folder in folders)
    assert not any(folder.exists() for folder in folders)
    assert not list(home.rglob("*"))


def test_a_service_can_be_given_its_port_and_an_interrupt_leaves_nothing(start: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with start(tmp_path / "state", "--service-port", f"placed={port}") as stand_in:
        stand_in.deploy("placed", BUNDLE="one")
        assert requests.get(f"http://127.0.0.1:{port}", timeout=30).json()["bundle"] == "one"
        family = stand_in.processes()
        assert len(family) > 2
        stand_in.process.send_signal(signal.SIGINT)
        assert gone(family, timeout_seconds=15)
    assert stand_in.log.read_text() == ""


def test_a_revision_that_hangs_is_killed_and_a_client_that_left_makes_no_noise(start: Start, tmp_path: Path) -> None:
    with start(tmp_path / "state") as stand_in:
        url = stand_in.deploy("hanging", BUNDLE="one").url
        with pytest.raises(requests.Timeout):
            requests.get(f"{url}/slow", timeout=0.5)
        host, _, port = str(url).removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf of it")
        family = stand_in.processes()
        stand_in.process.terminate()
        assert gone(family, timeout_seconds=15)
    assert stand_in.log.read_text() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_even_a_killed_stand_in_leaves_nothing(start: Start, tmp_path: Path) -> None:
    with start(tmp_path / "state") as stand_in:
        stand_in.deploy("orphan", BUNDLE="one")
        family = stand_in.processes()
        stand_in.process.kill()
        assert gone(family, timeout_seconds=15)


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path, source: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        environment = {"STORAGE_EMULATOR_HOST": source}
        with (
            pytest.raises(StackError, match=rf"^Port {port} for the Cloud Run stand-in is taken .*\.$"),
            cloud_run(tmp_path, port, environment),
        ):
            logging.error("never reached")


def test_without_a_storage_emulator_it_says_what_to_set(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "STORAGE_EMULATOR_HOST"}
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.run_api", "--port", "0", "--state", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["Set STORAGE_EMULATOR_HOST to the storage emulator that builds read from."]
