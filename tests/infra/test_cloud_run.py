"""Google's own client against the Cloud Run stand-in: builds, candidates, traffic, and what goes wrong."""

import io
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

import serving
from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError, DeploymentError, NotFound, ServiceUnavailable
from infra.local.run_api import cloud_run
from infra.revisions import RUNTIME_ENVIRONMENT
from infra.settings import Settings
from infra.store import Store

pytestmark = pytest.mark.stack

SERVING = Path(serving.__file__).parent
SOURCE = """
import os
if "BROKEN" in os.environ:
    raise SystemExit("this revision is broken")
def predict(request):
    return {"genres": [], "bundle": os.environ["BUNDLE_SHA256"], "revision": os.environ["K_REVISION"]}
"""


def zip_of(main: str) -> bytes:
    """A function's source with this main.py."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", main)
    return buffer.getvalue()


def bundle_at(url: str | None) -> str:
    """Which bundle the function at an address has."""
    answer = requests.post(str(url), json={}, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["bundle"])


@pytest.fixture(scope="module")
def endpoint(storage_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Cloud Run stand-in."""
    environment = {"STORAGE_EMULATOR_HOST": storage_url}
    with cloud_run(tmp_path_factory.mktemp("cloud-run"), environment=environment) as address:
        yield address


@pytest.fixture
def patient_settings(settings: Settings, endpoint: str) -> Settings:
    """Settings that lead to both stand-ins."""
    return settings.model_copy(update={"cloud_run_endpoint": endpoint, "service_timeout_seconds": 20})


@pytest.fixture
def client(patient_settings: Settings) -> CloudRun:
    """Google's client, led to the stand-in."""
    return CloudRun(patient_settings)


@pytest.fixture
def image(client: CloudRun, patient_settings: Settings) -> str:
    """A built image of SOURCE."""
    Store(patient_settings).write("functions/source.zip", zip_of(SOURCE))
    return client.build(patient_settings.bucket, "functions/source.zip", client.image_for("any", "5" * 64))


def test_a_service_goes_from_its_first_revision_to_the_next_and_back(client: CloudRun, image: str) -> None:
    assert client.live("round-trip") is None
    assert client.revisions("round-trip") == []
    assert client.built_image("round-trip", "5" * 64) is None

    first = client.deploy_candidate("round-trip", image, "5" * 64, {"BUNDLE_SHA256": "one"})
    assert bundle_at(first.url) == "one"
    assert client.live("round-trip") is None, "nobody has checked it yet"
    live = client.send_traffic("round-trip", first.name)
    assert client.live("round-trip") == live
    assert live.name == first.name
    assert bundle_at(live.url) == "one"
    assert client.built_image("round-trip", "5" * 64) == image

    second = client.deploy_candidate("round-trip", image, "5" * 64, {"BUNDLE_SHA256": "two"})
    assert second.name != first.name
    assert second.ready
    assert bundle_at(second.url) == "two"
    assert bundle_at(live.url) == "one", "a candidate has no traffic"
    assert client.live("round-trip") == live

    now_live = client.send_traffic("round-trip", second.name)
    assert now_live.url == live.url, "the service's address is stable"
    assert bundle_at(live.url) == "two"
    assert now_live.environment == {**RUNTIME_ENVIRONMENT, "BUNDLE_SHA256": "two"}
    assert now_live.source_sha256 == "5" * 64

    assert [revision.name for revision in client.revisions("round-trip")] == [second.name, first.name]
    assert client.send_traffic("round-trip", first.name).name == first.name
    assert bundle_at(live.url) == "one", "rollback is a traffic change"
    assert client.live("round-trip") == client.send_traffic("round-trip", first.name)


def test_a_first_revision_whose_check_failed_keeps_the_traffic_and_is_not_live(client: CloudRun, image: str) -> None:
    unchecked = client.deploy_candidate("unchecked", image, "5" * 64, {"BUNDLE_SHA256": "one"})
    second = client.deploy_candidate("unchecked", image, "5" * 64, {"BUNDLE_SHA256": "two"})
    assert client.live("unchecked") is None
    live = client.send_traffic("unchecked", second.name)
    assert (client.live("unchecked"), bundle_at(live.url)) == (live, "two")
    assert client.deploy_candidate("unchecked", image, "5" * 64, {"BUNDLE_SHA256": "one"}).name == unchecked.name
    assert client.live("unchecked") == live


def test_traffic_that_another_tool_moved_is_not_taken_for_checked(
    client: CloudRun, image: str, patient_settings: Settings
) -> None:
    first = client.deploy_candidate("moved", image, "5" * 64, {"BUNDLE_SHA256": "one"})
    client.send_traffic("moved", first.name)
    second = client.deploy_candidate("moved", image, "5" * 64, {"BUNDLE_SHA256": "two"})
    place = f"projects/{patient_settings.google_project}/locations/{patient_settings.google_region}/services/moved"
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    answer = requests.patch(
        f"{patient_settings.cloud_run_endpoint}/v2/{place}?updateMask=traffic",
        json={"traffic": [{"type": kind, "revision": second.name, "percent": 100}]},
        timeout=30,
    )
    assert answer.status_code == 200
    deadline = time.monotonic() + 30
    while client.live("moved") is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert client.live("moved") is None


def test_the_same_content_is_not_deployed_twice(client: CloudRun, image: str) -> None:
    environment = {"BUNDLE_SHA256": "one", "MODEL_VERSION": "1"}
    first = client.deploy_candidate("again", image, "5" * 64, environment)
    again = client.deploy_candidate("again", image, "5" * 64, dict(reversed(environment.items())))
    assert again.name == first.name
    assert bundle_at(again.url) == "one"
    assert len(client.revisions("again")) == 1
    assert client.deploy_candidate("again", image, "6" * 64, environment).name != first.name


def test_a_revision_that_does_not_start_is_named_and_the_traffic_stays(client: CloudRun, image: str) -> None:
    good = client.deploy_candidate("stays", image, "5" * 64, {"BUNDLE_SHA256": "good"})
    live = client.send_traffic("stays", good.name)
    broken = {"BUNDLE_SHA256": "bad", "BROKEN": "yes"}
    for attempt in (1, 2):
        with pytest.raises(DeploymentError, match=rf"-{attempt}' is not ready .* this revision is broken"):
            client.deploy_candidate("stays", image, "5" * 64, broken)
    assert client.live("stays") == live
    assert bundle_at(live.url) == "good"
    assert [revision.ready for revision in client.revisions("stays")] == [False, False, True]
    better = client.deploy_candidate("stays", image, "5" * 64, {"BUNDLE_SHA256": "better"})
    assert bundle_at(better.url) == "better"


def test_a_first_revision_that_does_not_start_leaves_nothing_live(client: CloudRun, image: str) -> None:
    with pytest.raises(DeploymentError, match="this revision is broken"):
        client.deploy_candidate("stillborn", image, "5" * 64, {"BROKEN": "yes"})
    assert client.live("stillborn") is None
    good = client.deploy_candidate("stillborn", image, "5" * 64, {"BUNDLE_SHA256": "good"})
    live = client.send_traffic("stillborn", good.name)
    assert (client.live("stillborn"), bundle_at(live.url)) == (live, "good")


def test_what_is_not_there_is_named(client: CloudRun, image: str, patient_settings: Settings) -> None:
    with pytest.raises(NotFound, match="no service nobody"):
        client.send_traffic("nobody", "nobody-1")
    with pytest.raises(DeploymentError, match=r"gs://test-bucket/none\.zip is not there"):
        client.build(patient_settings.bucket, "none.zip", client.image_for("any", "7" * 64))
    with pytest.raises(NotFound, match="Image 'never-built' not found"):
        client.deploy_candidate("missing-image", "never-built", "5" * 64, {})
    client.deploy_candidate("known", image, "5" * 64, {"BUNDLE_SHA256": "one"})
    with pytest.raises(DeploymentError, match="Revision 'unknown' of the traffic does not exist"):
        client.send_traffic("known", "unknown")


@pytest.mark.parametrize(
    ("archive", "says"),
    [(b"no zip", "not a zip archive"), (zip_of("").replace(b"main", b"niam"), "no main.py")],
)
def test_a_source_that_cannot_be_built_says_why(
    client: CloudRun, patient_settings: Settings, archive: bytes, says: str
) -> None:
    Store(patient_settings).write("functions/bad.zip", archive)
    with pytest.raises(DeploymentError, match=says):
        client.build(patient_settings.bucket, "functions/bad.zip", client.image_for("any", "8" * 64))


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that answers everything with one status, as a faulty Cloud Run would."""
    status: int = request.param

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"error": {"code": %d, "message": "as the test wants it"}}' % status
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answering", "error"),
    [
        (403, ConfigurationError),
        (429, ServiceUnavailable),
        (500, ServiceUnavailable),
        (503, ServiceUnavailable),
        (409, ServiceUnavailable),
        (400, DeploymentError),
    ],
    indirect=["answering"],
)
def test_googles_errors_become_ours(settings: Settings, answering: str, error: type[Exception]) -> None:
    client = CloudRun(settings.model_copy(update={"cloud_run_endpoint": answering}))
    with pytest.raises(error, match="as the test wants it"):
        client.build("bucket", "object", "image")


def test_a_cloud_run_that_does_not_answer_may_be_tried_again(settings: Settings) -> None:
    client = CloudRun(settings.model_copy(update={"cloud_run_endpoint": "http://127.0.0.1:1"}))
    with pytest.raises(ServiceUnavailable) as caught:
        client.live("any")
    assert caught.value.retryable


def test_without_credentials_google_itself_is_a_matter_of_configuration(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigurationError, match="Opening Cloud Run"):
        CloudRun(settings)
