"""The Cloud Run stand-in: its API over HTTP, restarts, and a shutdown that leaves no process."""

import io
import json
import os
import re
import shutil
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
from typing import Any

import psutil
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError, DeploymentError
from infra.local.processes import free_port
from infra.revisions import Revision
from infra.settings import Settings
from tests.damage import DAMAGES, flip_bit
from tests.infra.conftest import AUTHORIZATION, TOKEN, run_api

pytestmark = pytest.mark.stack

PARENT = "/v2/projects/test-project/locations/test-region1"
SOURCE = """
import os, time
def predict(request):
    if request.path == "/health" and time.time() < float(os.environ.get("READY_AT", 0)):
        return "loading", 503
    if request.path == "/slow":
        time.sleep(60)
    if request.path == "/die":
        os.kill(os.getppid(), 9)
        os._exit(1)
    return {"bundle": os.environ.get("BUNDLE_SHA256"), "service": os.environ["K_SERVICE"],
            "path": request.full_path, "body": request.get_data(as_text=True),
            "header": request.headers.get("X-Test")}, 200, {"X-Answer": "yes"}
"""


@dataclass
class StandIn:
    """A running stand-in with its endpoint, its process, and settings for it."""

    endpoint: str
    process: psutil.Process
    settings: Settings
    log: Path

    def request(self, method: str, path: str, json: object = None) -> requests.Response:
        """Send a request with the token of the stand-in."""
        return requests.request(method, self.endpoint + path, json=json, headers=AUTHORIZATION)

    def client(self, service: str) -> CloudRun:
        """A client for a service."""
        return CloudRun(self.settings.model_copy(update={"service": service}))

    def deploy(self, service: str, **environment: str) -> Revision:
        """Build SOURCE and deploy it as the candidate."""
        image = build_image(self.settings, "functions/stand-in.zip", "5" * 64)
        return self.client(service).deploy_candidate(image, environment)

    def processes(self) -> list[psutil.Process]:
        """The stand-in's process and all its descendants."""
        return [self.process, *self.process.children(recursive=True)]


Start = Callable[..., AbstractContextManager[StandIn]]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture(scope="module")
def source(storage_url: str) -> str:
    """Upload SOURCE and return the address of the storage emulator."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", SOURCE)
    options = {"api_endpoint": storage_url}
    client = Client(project="test", credentials=AnonymousCredentials(), client_options=options)
    client.bucket("test-bucket").blob("functions/stand-in.zip").upload_from_string(buffer.getvalue())
    return storage_url


@pytest.fixture(scope="module")
def start(source: str) -> Start:
    """`start(folder, *options)` runs a stand-in with its state in a folder."""

    @contextmanager
    def started(folder: Path, *options: str) -> Iterator[StandIn]:
        with run_api(folder, source, *options) as (endpoint, process):
            settings = Settings(
                bucket="test-bucket",
                cloud_run_endpoint=endpoint,
                cloud_run_token=TOKEN,
                google_project="test-project",
                google_region="test-region1",
            )
            yield StandIn(endpoint, psutil.Process(process.pid), settings, folder / "stand-in.log")

    return started


@pytest.fixture(scope="module")
def stand_in(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in that several tests share."""
    with start(tmp_path_factory.mktemp("cloud-run")) as running:
        yield running


@pytest.fixture(scope="module")
def deployed(stand_in: StandIn) -> Revision:
    """A revision of the service "whole", whose start takes more than a second."""
    return stand_in.deploy("whole", BUNDLE_SHA256="one")


def have_exited(processes: list[psutil.Process], timeout_seconds: float) -> bool:
    """Whether all processes exit in time. Zombies have exited; only their parent has not noticed."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if not any(item.is_running() and item.status() != psutil.STATUS_ZOMBIE for item in processes):
            return True
        time.sleep(0.05)
    return False


def test_proxy_forwards_whole_requests_and_responses(deployed: Revision) -> None:
    url = deployed.url
    response = requests.post(f"{url}/a%20b/c?d=1&e=%2F", data="grüße".encode(), headers={"X-Test": "kept"}, timeout=30)
    assert response.json() == {
        "bundle": "one",
        "service": "whole",
        "path": "/a b/c?d=1&e=%2F",
        "body": "grüße",
        "header": "kept",
    }
    assert response.headers["X-Answer"] == "yes"
    chunked = requests.post(str(url), data=iter([b"in ", b"pieces"]), timeout=30)
    assert chunked.json()["body"] == "in pieces"
    assert requests.head(str(url), timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "status"),
    [
        ("GET", f"{PARENT}/services/none", None, 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/services/none/revisions", None, 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/operations/none", None, 404, "NOT_FOUND"),
        ("GET", "/v2/nothing", None, 404, "NOT_FOUND"),
        ("PUT", f"{PARENT}/services/none", None, 405, "UNIMPLEMENTED"),
        ("POST", f"{PARENT}/services?serviceId=Bad_Name", {}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=empty", {}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=odd", {"unheard": 1}, 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/services?serviceId=odd", [], 400, "INVALID_ARGUMENT"),
        ("POST", f"{PARENT}/builds:submit", {"imageUri": "image"}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_invalid_request_gets_the_error_of_google(
    stand_in: StandIn, method: str, path: str, body: object, code: int, status: str
) -> None:
    response = stand_in.request(method, path, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (code, code, status)
    assert error["message"]


def service_with(path: str, value: object) -> dict[str, Any]:
    """A valid service, changed at a path such as template.containers.0.env."""
    service: dict[str, Any] = {
        "template": {"containers": [{"image": "image", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}
    }
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = service
    for part in above:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    place[last] = value
    return service


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("labels", {"team": "posters"}, "Field 'labels.team' is not one that this project sets"),
        ("template.vpcAccess", {"connector": "one"}, "Field 'template.vpcAccess.connector' is not one"),
        ("template.containers.0.command", ["sh"], "Field 'template.containers.0..command.0.' is not one"),
        ("ingress", "INGRESS_TRAFFIC_INTERNAL_ONLY", "Invalid value"),
        ("annotations", {"run.googleapis.com/ingress": "all"}, "is not one of Google's"),
        ("template.annotations", {"a" * 64: "long"}, "up to 63 characters"),
        ("template.revision", "Upper", "lower-case letters"),
        ("template.revision", "other-1", "must begin with that of its service, strict-"),
        ("template.serviceAccount", "somebody@example.org", "service account"),
        ("template.timeout", "3601s", "at most an hour"),
        ("template.maxInstanceRequestConcurrency", 1001, "1 to 1000"),
        ("template.containers.0.env", [{"name": "PORT", "value": "80"}], "is not reserved"),
        ("template.containers.0.env", [{"name": "X_GOOGLE_A", "value": "80"}], "is not reserved"),
        ("template.containers.0.env", [{"name": "A", "value": "1" * 32769}], "up to 32 KiB"),
        ("template.containers.0.resources.limits.cpu", "3", "1, 2, 4 or 8"),
        ("template.containers.0.resources.limits.cpu", "4", "Memory 1Gi does not go with 4 CPUs"),
        ("template.containers.0.resources.limits.memory", "8Gi", "Memory 8Gi needs more than 1 CPUs"),
        ("template.containers.0.startupProbe", {"timeoutSeconds": 11, "periodSeconds": 5}, "at most its period"),
        ("template.containers.0.baseImageUri", "python313", "an image of a runtime"),
        (
            "traffic",
            [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION", "revision": "strict-1", "percent": 100}],
            "none",
        ),
        (
            "traffic",
            [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 100, "tag": "A"}],
            "lower-case letters",
        ),
        ("buildConfig.workerPool", "pool", "Field 'buildConfig.workerPool' is not one"),
        ("buildConfig.serviceAccount", "builder@my-project.iam.gserviceaccount.com", "service account's name"),
        ("uid", "1", "Field 'uid' is not one"),
    ],
)
def test_service_with_a_field_that_breaks_a_rule_is_refused(
    stand_in: StandIn, path: str, value: object, message: str
) -> None:
    response = stand_in.request("POST", f"{PARENT}/services?serviceId=strict", service_with(path, value))
    assert response.status_code == 400
    assert re.search(message, response.json()["error"]["message"]), response.text
    assert stand_in.request("GET", f"{PARENT}/services/strict").status_code == 404


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imageUri": "docker.io/library/image"}, "an address in Artifact Registry"),
        ({"imageUri": "a-docker.pkg.dev/example.com:my-project/repository/image"}, "an address in Artifact Registry"),
        ({"workerPool": "pool"}, "Field 'workerPool' is not one"),
        ({"serviceAccount": "builder@my-project.iam.gserviceaccount.com"}, "service account's name"),
        ({"storageSource": {"bucket": "test-bucket", "object": "source.rar"}}, "a zip or tar.gz archive"),
    ],
)
def test_build_with_a_field_that_breaks_a_rule_is_refused(
    stand_in: StandIn, change: dict[str, object], message: str
) -> None:
    build = {
        "storageSource": {"bucket": "test-bucket", "object": "source.zip"},
        "imageUri": "test-region1-docker.pkg.dev/test-project/repository/image",
        "buildpackBuild": {"functionTarget": "predict"},
    }
    response = stand_in.request("POST", f"{PARENT}/builds:submit", build | change)
    assert response.status_code == 400 and message in response.json()["error"]["message"], response.text


@pytest.mark.parametrize("authorization", [None, "Bearer another", f"Basic {TOKEN}"])
def test_request_without_the_token_is_refused_and_does_nothing(
    stand_in: StandIn, source: str, authorization: str | None
) -> None:
    build = {"storageSource": {"bucket": "test-bucket", "object": "functions/stand-in.zip"}, "imageUri": "foreign"}
    body = json.dumps({**build, "buildpackBuild": {"functionTarget": "predict"}})
    headers = {"Content-Type": "text/plain", **({"Authorization": authorization} if authorization else {})}
    response = requests.post(f"{stand_in.endpoint}{PARENT}/builds:submit", body, headers=headers)
    assert (response.status_code, response.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
    assert requests.get(f"{stand_in.endpoint}/healthz").ok
    images = stand_in.log.parent / "images.json"
    assert not images.exists() or "foreign" not in images.read_text()


@pytest.mark.usefixtures("deployed")
def test_revision_does_not_get_the_token(stand_in: StandIn) -> None:
    environments = [child.environ() for child in stand_in.process.children()]
    assert environments and [each for each in environments if TOKEN in each.values()] == []


def test_client_without_the_token_is_told_which_setting_has_it(stand_in: StandIn) -> None:
    for token in (None, "another"):
        client = CloudRun(Settings(cloud_run_endpoint=stand_in.endpoint, cloud_run_token=token))
        with pytest.raises(ConfigurationError, match="ANIME_GENRE_CLOUD_RUN_TOKEN is not the token"):
            client.live()


@pytest.mark.usefixtures("deployed")
def test_invalid_update_changes_nothing(stand_in: StandIn) -> None:
    address = f"{PARENT}/services/whole"
    before = stand_in.request("GET", address).json()
    half = {"traffic": [{"type": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": 50}]}
    outdated = {"etag": "outdated", "traffic": before["traffic"]}
    assert stand_in.request("PATCH", f"{address}?updateMask=traffic", half).status_code == 400
    conflict = stand_in.request("PATCH", f"{address}?updateMask=traffic", outdated)
    assert (conflict.status_code, conflict.json()["error"]["status"]) == (409, "ABORTED")
    for mask in ("uid", "labels", "template.containers", "traffic,labels", ""):
        assert stand_in.request("PATCH", f"{address}?updateMask={mask}", {}).status_code == 400
    renamed = {**before, "name": f"{before['name']}-2"}
    assert stand_in.request("PATCH", f"{address}?updateMask=traffic", renamed).status_code == 400
    labelled = {**before, "labels": {"team": "posters"}}
    assert stand_in.request("PATCH", f"{address}?updateMask=traffic", labelled).status_code == 400
    both = {"template": {**before["template"], "revision": "new"}, **half}
    assert stand_in.request("PATCH", f"{address}?updateMask=template,traffic", both).status_code == 400
    assert len(stand_in.request("GET", f"{address}/revisions").json()["revisions"]) == 1
    assert stand_in.request("GET", address).json() == before


def test_revision_is_deleted_unless_it_can_receive_traffic_or_is_the_latest(start: Start, tmp_path: Path) -> None:
    address, kind = f"{PARENT}/services/kept", "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    with start(tmp_path / "state") as stand_in:
        stand_in.deploy("kept", BUNDLE_SHA256="0")
        template = stand_in.request("GET", address).json()["template"]
        names = [f"kept-{number}" for number in range(1, 9)]
        served = [{"type": kind, "revision": names[0], "percent": 100}]
        tagged = [{"type": kind, "revision": names[1], "tag": "red"}]
        for name in names:
            template["revision"], template["annotations"] = name, {"number": name}
            body = {"template": template, "traffic": served + (tagged if name > names[1] else [])}
            operation = stand_in.request("PATCH", f"{address}?updateMask=template,traffic", body).json()
            while not operation.get("done"):
                time.sleep(0.05)
                operation = stand_in.request("GET", f"/v2/{operation['name']}").json()
            assert "error" not in operation
        for name, reason in ((names[0], "traffic"), (names[1], "traffic"), (names[-1], "the latest revision")):
            refused = stand_in.request("DELETE", f"{address}/revisions/{name}")
            assert (refused.status_code, refused.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
            with pytest.raises(DeploymentError, match=reason):
                stand_in.client("kept").delete_revision(name)
        assert stand_in.request("DELETE", f"{address}/revisions/{names[3]}?validateOnly=true").status_code == 400
        assert stand_in.request("DELETE", f"{address}/revisions/kept-none").status_code == 404
        assert len(stand_in.client("kept").revisions()) == 9
        # Of names[2:-1] and the first one, five are kept.
        (unused,) = stand_in.client("kept").unused_revisions(["0"], ())
        assert unused.name not in names
        assert stand_in.client("kept").unused_revisions(["0"], {unused.name}) == [], "only it is known to be good"
        for _ in range(2):
            stand_in.client("kept").delete_revision(unused.name)
        for service in ("kept", "none"):
            assert stand_in.client(service).unused_revisions(["0"], ()) == []
    with start(tmp_path / "state") as stand_in:
        assert {each.name for each in stand_in.client("kept").revisions()} == set(names)


@pytest.mark.usefixtures("deployed")
def test_services_are_listed_by_location(stand_in: StandIn) -> None:
    names = [item["name"] for item in stand_in.request("GET", f"{PARENT}/services").json()["services"]]
    assert "projects/test-project/locations/test-region1/services/whole" in names
    elsewhere = stand_in.request("GET", f"{PARENT}-2/services").json()
    assert not elsewhere.get("services")


def test_revision_process_that_died_is_restarted(deployed: Revision) -> None:
    url = deployed.url
    assert requests.get(f"{url}/die", timeout=30).status_code == 503
    assert requests.get(str(url), timeout=30).json()["bundle"] == "one"


def test_long_log_of_a_revision_is_rotated_while_it_runs(stand_in: StandIn, deployed: Revision) -> None:
    log = stand_in.log.parent / "logs" / f"{deployed.name}.log"
    with log.open("ab") as file:
        file.write(b"x" * 10_000_001)
    assert requests.get(str(deployed.url), timeout=30).json()["bundle"] == "one"
    assert log.with_suffix(".1.log").read_bytes().endswith(b"x" * 10_000_000)
    assert log.stat().st_size < 1_000_000


def test_revision_is_ready_once_its_startup_probe_succeeds(stand_in: StandIn) -> None:
    ready_at = time.time() + 5
    loaded = stand_in.deploy("loading", READY_AT=str(ready_at))
    assert time.time() > ready_at
    address = f"{PARENT}/services/loading"
    template = stand_in.request("GET", address).json()["template"]
    template["revision"] = "loading-never"
    template["containers"][0]["env"].append({"name": "READY_AT", "value": "9e9"})
    template["containers"][0]["startupProbe"]["failureThreshold"] = 2
    operation = stand_in.request("PATCH", f"{address}?updateMask=template", {"template": template}).json()
    while not operation.get("done"):
        time.sleep(0.1)
        operation = stand_in.request("GET", f"/v2/{operation['name']}").json()
    assert "failed the configured startup probe checks" in operation["error"]["message"]
    service = stand_in.request("GET", address).json()
    assert service["latestCreatedRevision"].endswith("/loading-never")
    assert service["latestReadyRevision"].endswith(f"/{loaded.name}")


def test_traffic_is_split_by_percent(stand_in: StandIn, deployed: Revision) -> None:
    second = stand_in.deploy("whole", BUNDLE_SHA256="two")
    service = f"{PARENT}/services/whole"
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    traffic = [
        {"type": kind, "revision": deployed.name, "percent": 70},
        {"type": kind, "revision": second.name, "percent": 30},
    ]
    assert stand_in.request("PATCH", f"{service}?updateMask=traffic", {"traffic": traffic}).status_code == 200
    url = stand_in.request("GET", service).json()["uri"]
    served = Counter(requests.get(url, timeout=30).json()["bundle"] for _ in range(150))
    assert 15 < served["two"] < 80 < served["one"]


def test_revisions_without_traffic_or_tag_are_stopped_and_a_restart_restores_the_others_at_their_addresses(
    start: Start, tmp_path: Path
) -> None:
    def running() -> set[str]:
        return {
            item.environ()["K_REVISION"]
            for item in stand_in.process.children()
            if item.is_running() and item.status() != psutil.STATUS_ZOMBIE
        }

    with start(tmp_path / "state") as stand_in:
        first = stand_in.deploy("lasting", BUNDLE_SHA256="one")
        second = stand_in.deploy("lasting", BUNDLE_SHA256="two")
        assert running() == {first.name, second.name}
        [old] = [item for item in stand_in.process.children() if item.environ()["K_REVISION"] == first.name]
        stand_in.client("lasting").send_traffic(second.name)
        assert have_exited([old], timeout_seconds=15)
        assert running() == {second.name}
        live = stand_in.client("lasting").send_traffic(first.name)
        assert first.name in running()
        candidate = stand_in.deploy("lasting", BUNDLE_SHA256="three")
        revisions = stand_in.client("lasting").revisions()
    with pytest.raises(requests.ConnectionError):
        requests.get(str(live.url))
    with start(tmp_path / "state") as stand_in:
        assert stand_in.client("lasting").live() == live
        assert stand_in.client("lasting").revisions() == revisions
        assert requests.get(str(live.url), timeout=30).json()["bundle"] == "one"
        assert requests.get(str(candidate.url), timeout=30).json()["bundle"] == "three"
        assert stand_in.client("lasting").send_traffic(candidate.name).url == live.url


def test_service_whose_file_is_damaged_is_gone_and_can_be_deployed_again(start: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with start(state) as stand_in:
        stand_in.client("lasting").send_traffic(stand_in.deploy("lasting", BUNDLE_SHA256="one").name)
    whole = shutil.copytree(state, tmp_path / "whole")
    for damage in DAMAGES:
        shutil.rmtree(state)
        shutil.copytree(whole, state)
        (main,) = state.glob("images/*/main.py")
        if damage is flip_bit:  # in the JSON, nobody may miss one bit
            (state / "services" / "lasting.json").unlink()
        else:
            damage(state / "services" / "lasting.json")
            damage(state / "images.json")
        damage(main)
        with start(state) as stand_in:
            assert stand_in.client("lasting").live() is None
            live = stand_in.client("lasting").send_traffic(stand_in.deploy("lasting", BUNDLE_SHA256="two").name)
            assert requests.get(str(live.url), timeout=30).json()["bundle"] == "two"
            log = stand_in.log.read_text()
            assert damage is flip_bit or f"{state / 'services' / 'lasting.json'} is damaged" in log


def test_revisions_write_nothing_to_the_home_folder(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with start(tmp_path / "state") as stand_in:
        stand_in.deploy("tidy", BUNDLE_SHA256="one")
        stand_in.deploy("tidy", BUNDLE_SHA256="two")
        folders = {Path(child.environ()["XDG_RUNTIME_DIR"]) for child in stand_in.process.children()}
        assert len(folders) == 2
        deadline = time.monotonic() + 15
        while not all((folder / "gunicorn.ctl").exists() for folder in folders) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert all((folder / "gunicorn.ctl").is_socket() for folder in folders)
    assert not any(folder.exists() for folder in folders)
    assert not list(home.rglob("*"))


def test_port_of_a_service_says_how_to_train_then_serves_and_is_free_after_an_interrupt(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    with start(tmp_path / "state", "--service-port", f"placed={port}") as stand_in:
        response = requests.get(f"http://127.0.0.1:{port}/model")
        assert (response.status_code, "No model has been trained yet" in response.text) == (404, True)
        stand_in.deploy("placed", BUNDLE_SHA256="one")
        assert requests.get(f"http://127.0.0.1:{port}", timeout=30).json()["bundle"] == "one"
        processes = stand_in.processes()
        assert len(processes) > 2
        stand_in.process.send_signal(signal.SIGINT)
        assert have_exited(processes, timeout_seconds=15)
    assert stand_in.log.read_text() == ""
    with start(tmp_path / "state", "--service-port", f"placed={port}"):
        assert requests.get(f"http://127.0.0.1:{port}").ok


def test_service_whose_port_is_taken_is_refused(start: Start, tmp_path: Path, taken_port: int) -> None:
    with start(tmp_path / "state", "--service-port", f"placed={taken_port}") as stand_in:
        with pytest.raises(DeploymentError, match=f"Port {taken_port} of the service placed is taken"):
            stand_in.deploy("placed", BUNDLE_SHA256="one")
        assert stand_in.client("placed").live() is None


def test_shutdown_kills_a_hanging_revision_without_log_noise(start: Start, tmp_path: Path) -> None:
    with start(tmp_path / "state") as stand_in:
        url = stand_in.deploy("hanging", BUNDLE_SHA256="one").url
        with pytest.raises(requests.Timeout):
            requests.get(f"{url}/slow", timeout=0.5)
        host, _, port = str(url).removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf of it")
        processes = stand_in.processes()
        stand_in.process.terminate()
        assert have_exited(processes, timeout_seconds=15)
    assert stand_in.log.read_text() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_revisions_exit_if_the_stand_in_is_killed(start: Start, tmp_path: Path) -> None:
    with start(tmp_path / "state") as stand_in:
        stand_in.deploy("orphan", BUNDLE_SHA256="one")
        processes = stand_in.processes()
        stand_in.process.kill()
        assert have_exited(processes, timeout_seconds=15)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (None, r"Port {port} for the Cloud Run stand-in is taken \(.*\)\. Choose .* --port\."),
        ("STORAGE_EMULATOR_HOST", r"Set STORAGE_EMULATOR_HOST to the address of the storage emulator .*\."),
        ("ANIME_GENRE_CLOUD_RUN_TOKEN", r"Set ANIME_GENRE_CLOUD_RUN_TOKEN to the token that clients must send\."),
    ],
)
def test_command_explains_errors_in_one_sentence(
    taken_port: int, tmp_path: Path, missing: str | None, message: str
) -> None:
    command = [sys.executable, "-m", "infra.local.run_api", "--port", str(taken_port), "--state", str(tmp_path)]
    needed = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1", "ANIME_GENRE_CLOUD_RUN_TOKEN": TOKEN}
    environment = {name: value for name, value in (os.environ | needed).items() if name != missing}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(message.format(port=taken_port) + "\n", done.stderr)
