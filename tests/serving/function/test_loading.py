"""The bundle that the environment names: downloaded when it is available, checked, and described."""

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from google.cloud.storage import Bucket

import serving
from infra.source_zip import source_zip
from serving.function.shared_load import RETRY_SECONDS
from tests.messages import faults_of_message
from tests.pictures import image_file
from tests.serving.conftest import StartFunction

pytestmark = pytest.mark.stack


@dataclass
class SlowBucket:
    """A bucket that holds one bundle and responds only after `responds` is set, with `status`."""

    url: str = ""
    status: int = 200
    responds: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)


@contextmanager
def slow_bucket(bundle: Path) -> Iterator[SlowBucket]:
    bucket = SlowBucket()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].rpartition("%2F")[2]
            if not name.startswith("/"):  # an object; Google's client also asks for the bucket itself
                bucket.requests.append(name)
                bucket.responds.wait(30)
            body = (bundle / name).read_bytes() if bucket.status == 200 and name[0] != "/" else b"{}"
            self.send_response(bucket.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        bucket.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield bucket
        finally:
            bucket.responds.set()
            server.shutdown()
            thread.join()


def predict(url: str) -> requests.Response:
    headers = {"Content-Type": "image/jpeg", "Connection": "close"}
    return requests.post(url, data=image_file(), headers=headers, timeout=30)


def error_of(response: requests.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert faults_of_message(error["message"].partition("\n")[0]) == []
    return response.status_code, error["code"]


def test_model_address_returns_card_and_figures(url: str, uploaded_bundle: str) -> None:
    body = requests.get(f"{url}/model").json()
    assert body["card"] == "# A model of colours\n"
    assert body["figures"] == {"part": "validation"}
    assert body["model"]["sha256"] == uploaded_bundle
    assert body["model"]["collection"] == "built-in"
    assert "deployment" not in body


def test_model_address_returns_the_record_of_its_deployment(
    start_function: StartFunction, bucket: Bucket, bundle: Path
) -> None:
    """In a collection, whose objects are below a folder."""
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    for path in bundle.iterdir():
        bucket.blob(f"collections/films/bundles/{sha256}/{path.name}").upload_from_filename(str(path))
    record = {"version": "4", "previous_version": "3"}
    bucket.blob(f"collections/films/deployments/{sha256}.json").upload_from_string(json.dumps(record))
    with start_function(BUNDLE_URI=f"gs://posters-bucket/collections/films/bundles/{sha256}", BUNDLE_SHA256=sha256) as (
        url,
        _,
    ):
        assert requests.get(f"{url}/model", headers={"Connection": "close"}).json()["deployment"] == record


def test_record_of_the_deployment_is_read_again_while_the_function_runs(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, uploaded_bundle: str
) -> None:
    """From a source in which a record is kept for a second instead of half a minute."""
    source = io.BytesIO()
    kept, briefly = b"DEPLOYMENT_KEPT_SECONDS = 30.0", b"DEPLOYMENT_KEPT_SECONDS = 1.0"
    deployed = zipfile.ZipFile(io.BytesIO(source_zip(Path(serving.__file__).parent)))
    with deployed, zipfile.ZipFile(source, "w") as changed:
        for name in deployed.namelist():
            changed.writestr(name, deployed.read(name).replace(kept, briefly))
    record = bucket.blob(f"deployments/{uploaded_bundle}.json")
    environment = {
        "BUNDLE_URI": f"gs://posters-bucket/bundles/{uploaded_bundle}",
        "BUNDLE_SHA256": uploaded_bundle,
    }
    try:
        with start_function(source.getvalue(), **environment) as (url, _):
            for expected in ({"version": "3"}, {"version": "3", "later": {"scoreboard": {"titles": 31}}}):
                record.upload_from_string(json.dumps(expected))
                deadline = time.monotonic() + 10
                while (found := client.get(f"{url}/model").json()["deployment"]) != expected:
                    assert time.monotonic() < deadline, found
                    time.sleep(0.2)
    finally:
        record.delete()


def test_concurrent_requests_share_one_failed_load_and_health_does_not_wait(
    start_function: StartFunction, client: requests.Session, bundle: Path
) -> None:
    with slow_bucket(bundle) as storage, ThreadPoolExecutor(8) as pool:
        environment = {"BUNDLE_URI": "gs://slow/bundles/1", "BUNDLE_SHA256": "1" * 64}
        with start_function(**environment, STORAGE_EMULATOR_HOST=storage.url) as (url, _):
            responses = [pool.submit(predict, url) for _ in range(8)]
            health = client.get(f"{url}/health", timeout=1)
            assert error_of(health) == (503, "loading")
            assert not any(response.done() for response in responses)
            storage.responds.set()
            messages = {response.result().text for response in responses}
            assert {error_of(response.result()) for response in responses} == {(503, "bundle_error")}
            assert len(messages) == 1 and f"but {'1' * 64} was expected" in messages.pop()
            assert error_of(client.get(f"{url}/health")) == (503, "bundle_error")
            assert error_of(client.get(f"{url}/model")) == (503, "bundle_error")
            assert storage.requests == ["manifest.json"]  # a bundle that stays damaged is not downloaded again


def test_temporary_failure_is_retried_after_a_pause(
    start_function: StartFunction, client: requests.Session, bundle: Path
) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    with slow_bucket(bundle) as storage:
        storage.status = 400
        storage.responds.set()
        environment = {"BUNDLE_URI": "gs://slow/bundles/1", "BUNDLE_SHA256": sha256}
        with start_function(**environment, STORAGE_EMULATOR_HOST=storage.url) as (url, _):
            for _ in range(5):
                assert error_of(predict(url)) == (503, "storage_unavailable")
            assert len(storage.requests) <= 2
            storage.status = 200
            deadline = time.monotonic() + 10
            while (health := client.get(f"{url}/health")).status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert health.json()["model"]["sha256"] == sha256
            assert predict(url).status_code == 200


def test_bucket_that_may_not_be_read_is_named_and_not_read_again(start_function: StartFunction, bundle: Path) -> None:
    with slow_bucket(bundle) as storage:
        storage.status = 403
        storage.responds.set()
        environment = {"BUNDLE_URI": "gs://slow/bundles/1", "BUNDLE_SHA256": "1" * 64}
        with start_function(**environment, STORAGE_EMULATOR_HOST=storage.url) as (url, _):
            responses = [predict(url), predict(url)]
            time.sleep(RETRY_SECONDS + 0.5)
            responses.append(predict(url))
    assert {error_of(response) for response in responses} == {(503, "storage_forbidden")}
    assert "may not read the bucket slow; give it the role roles/storage.objectViewer" in responses[0].text
    assert storage.requests == ["manifest.json"]


def test_damaged_and_missing_files_are_named(start_function: StartFunction, bucket: Bucket, bundle: Path) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    environment = {"BUNDLE_URI": "gs://posters-bucket/damaged", "BUNDLE_SHA256": sha256}
    with start_function(**environment) as (url, _):
        assert "no manifest.json in the bucket" in predict(url).text
    bucket.blob("damaged/manifest.json").upload_from_filename(str(bundle / "manifest.json"))
    bucket.blob("damaged/model.onnx").upload_from_string(b"damaged")
    with start_function(**environment) as (url, _):
        assert "model.onnx has sha256" in predict(url).text


def test_missing_environment_variable_is_named(start_function: StartFunction, client: requests.Session) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        response = client.get(f"{url}/model")
        assert error_of(response) == (503, "bundle_error")
        assert "BUNDLE_URI must be set" in response.text
