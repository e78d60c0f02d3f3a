"""The function as it is deployed: the zip, unpacked alone, run by functions-framework, asked over HTTP."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from google.cloud.storage import Bucket
from PIL import Image

import serving.function.model
from infra.functions import source_zip
from infra.local.processes import Processes, free_port
from serving.function.main import MAX_BYTES
from serving.function.model import Model

JSON = "application/json"
StartFunction = Callable[..., AbstractContextManager[tuple[str, Path]]]


def image_file(kind: str = "JPEG", size: tuple[int, int] = (60, 80), seed: int = 0) -> bytes:
    """A picture whose colours depend on the seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(size).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def start_function(tmp_path_factory: pytest.TempPathFactory, storage_url: str) -> StartFunction:
    """Run the deployed zip with an environment; gives its address and its log."""
    source = Path(serving.function.model.__file__).parent

    @contextmanager
    def start(**environment: str) -> Iterator[tuple[str, Path]]:
        folder = tmp_path_factory.mktemp("function")
        with zipfile.ZipFile(io.BytesIO(source_zip(source))) as archive:
            archive.extractall(folder / "source")
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "functions_framework", "--target", "predict", "--source", "main.py"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        environment = {"STORAGE_EMULATOR_HOST": storage_url, **environment}
        with Processes(folder) as processes:
            processes.start("function", command, environment, f"{url}/", folder / "source")
            processes.wait_ready()
            yield url, processes.log("function")

    return start


@pytest.fixture(scope="session")
def function(start_function: StartFunction, uploaded_bundle: str) -> Iterator[tuple[str, Path]]:
    """A function with a good bundle: its address and its log."""
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        MODEL_VERSION="3",
        DATASET_DATE="2026-11-23",
    ) as running:
        yield running


@pytest.fixture
def url(function: tuple[str, Path]) -> str:
    """The address of a function with a good bundle."""
    return function[0]


@pytest.fixture
def client() -> Iterator[requests.Session]:
    """A client that leaves no connection open: gunicorn waits for those before it ends."""
    with requests.Session() as session:
        session.headers["Connection"] = "close"
        yield session


def error_of(response: requests.Response) -> str:
    """The code of an error, after a look at its shape."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    assert body["error"]["message"].endswith(".")
    assert "Traceback" not in response.text
    return str(body["error"]["code"])


def test_the_zip_alone_imports_nothing_of_the_project(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(source_zip(Path(serving.function.model.__file__).parent))) as archive:
        archive.extractall(tmp_path)
    project = {"serving", "infra", "ml", "tasks", "flows", "torch", "prefect", "mlflow"}
    program = f"import main, sys; print(sorted({project} & {{name.split('.')[0] for name in sys.modules}}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_poster_in_the_bucket_is_answered_with_all_genres_best_first(
    url: str, bucket: Bucket, uploaded_bundle: str, bundle: Path
) -> None:
    data = image_file()
    bucket.blob("posters/5.jpg").upload_from_string(data)
    answer = requests.post(url, json={"name": "posters/5.jpg"}).json()
    expected = sorted(Model.load(bundle).predict([data])[0], key=lambda genre: -genre.probability)
    assert [genre["name"] for genre in answer["genres"]] == [genre.name for genre in expected]
    for said, genre in zip(answer["genres"], expected, strict=True):
        assert said["probability"] == pytest.approx(genre.probability, abs=1e-6)
        assert (said["id"], said["threshold"], said["predicted"]) == (
            genre.id,
            genre.threshold,
            genre.predicted,
        )
    assert answer["model"] == {"version": "3", "sha256": uploaded_bundle, "dataset_date": "2026-11-23"}


def test_name_gs_address_bytes_and_upload_give_the_same_answer(url: str, bucket: Bucket) -> None:
    data = image_file("PNG", seed=1)
    bucket.blob("posters/ü 7.png").upload_from_string(data)
    answers = [
        requests.post(url, json={"name": "posters/ü 7.png"}),
        requests.post(url, json={"name": "gs://posters-bucket/posters/ü 7.png"}),
        requests.post(url, data=data, headers={"Content-Type": "image/png"}),
        requests.post(url, data=data, headers={"Content-Type": "application/octet-stream"}),
        requests.post(url, data=iter([data[:100], data[100:]]), headers={"Content-Type": "image/png"}),
        requests.post(url, files={"poster": ("poster.png", data, "image/png")}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert all(answer.json() == answers[0].json() for answer in answers)


def test_many_clients_at_once_all_get_their_own_answer(url: str, bundle: Path) -> None:
    model = Model.load(bundle)
    posters = [image_file("PNG", seed=seed) for seed in range(24)]

    def ask(data: bytes) -> list[tuple[str, float]]:
        answer = requests.post(url, data=data, headers={"Content-Type": "image/png"}).json()
        return sorted((genre["name"], round(genre["probability"], 5)) for genre in answer["genres"])

    with ThreadPoolExecutor(8) as clients:
        said = list(clients.map(ask, posters))
    for answer, genres in zip(said, model.predict(posters), strict=True):
        assert answer == sorted((genre.name, round(genre.probability, 5)) for genre in genres)


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        ({"json": {}}, 400, "bad_request"),
        ({"json": {"name": 5}}, 400, "bad_request"),
        ({"json": {"name": ""}}, 400, "bad_request"),
        ({"json": {"name": "x" * 2000}}, 400, "bad_request"),
        ({"json": ["posters/5.jpg"]}, 400, "bad_request"),
        ({"data": b"{", "headers": {"Content-Type": JSON}}, 400, "bad_request"),
        ({"json": {"name": "gs://posters-bucket/"}}, 400, "bad_request"),
        ({"json": {"name": "gs://another-bucket/posters/5.jpg"}}, 403, "forbidden_bucket"),
        ({"json": {"name": "gs://"}}, 403, "forbidden_bucket"),
        ({"json": {"name": "posters/none.jpg"}}, 404, "no_such_poster"),
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_content"),
        ({"data": b"x"}, 415, "unsupported_content"),
        ({"data": b"not an image", "headers": {"Content-Type": "image/png"}}, 415, "unsupported_format"),
        ({"data": image_file()[:-400], "headers": {"Content-Type": "image/jpeg"}}, 422, "unusable_image"),
        ({"data": b"", "headers": {"Content-Type": "image/jpeg"}}, 422, "unusable_image"),
        ({"files": {"one": b"1", "two": b"2"}}, 400, "bad_request"),
        ({"data": b"junk", "headers": {"Content-Type": "multipart/form-data"}}, 400, "bad_request"),
        ({"data": bytes(MAX_BYTES + 1), "headers": {"Content-Type": "image/png"}}, 413, "too_large"),
        ({"files": {"poster": bytes(MAX_BYTES + 1)}}, 413, "too_large"),
        ({"data": bytes(MAX_BYTES + 2), "headers": {"Content-Type": JSON}}, 413, "too_large"),
        (
            {"data": iter([bytes(2**20)] * 21), "headers": {"Content-Type": "image/png"}},
            413,
            "too_large",
        ),
    ],
)
def test_a_bad_request_gets_its_status_a_code_and_a_sentence(
    url: str, request_of: dict[str, object], status: int, code: str
) -> None:
    response = requests.post(url, **request_of)
    assert (response.status_code, error_of(response)) == (status, code)


def test_objects_of_the_bucket_that_are_no_posters_are_refused(url: str, bucket: Bucket) -> None:
    bucket.blob("table.csv").upload_from_string("a,b\n")
    bucket.blob("empty.jpg").upload_from_string(b"")
    bucket.blob("huge.jpg").upload_from_string(bytes(MAX_BYTES + 1))
    statuses = {name: requests.post(url, json={"name": name}) for name in ("table.csv", "empty.jpg", "huge.jpg")}
    assert {name: (answer.status_code, error_of(answer)) for name, answer in statuses.items()} == {
        "table.csv": (415, "unsupported_format"),
        "empty.jpg": (422, "unusable_image"),
        "huge.jpg": (413, "too_large"),
    }


def test_other_methods_and_addresses_are_refused(url: str) -> None:
    deleted = requests.delete(url)
    assert (deleted.status_code, error_of(deleted)) == (405, "method_not_allowed")
    assert deleted.headers["Allow"] == "GET, POST, HEAD"
    posted = requests.post(f"{url}/healthz", json={})
    assert (posted.status_code, error_of(posted)) == (405, "method_not_allowed")
    lost = requests.get(f"{url}/nothing")
    assert (lost.status_code, error_of(lost)) == (404, "no_such_page")


def test_it_describes_itself_and_says_which_model_it_has(url: str, uploaded_bundle: str) -> None:
    assert requests.get(url).json()["limits"] == {"size_bytes": MAX_BYTES, "pixels": 16_000_000}
    for path in ("health", "healthz"):
        answer = requests.get(f"{url}/{path}").json()
        assert (answer["status"], answer["model"]["sha256"]) == ("ok", uploaded_bundle)
    assert requests.head(url).status_code == 200


def test_every_request_leaves_one_json_line_in_the_log(function: tuple[str, Path], uploaded_bundle: str) -> None:
    url, log = function
    before = len(log.read_text().splitlines())
    data = image_file(seed=3)
    requests.post(url, data=data, headers={"Content-Type": "image/jpeg"})
    requests.post(url, json={"name": "posters/none\n.jpg"})
    good, bad = (json.loads(line) for line in log.read_text().splitlines()[before:])
    assert (good["severity"], good["status"], good["model_sha256"]) == ("INFO", 200, uploaded_bundle)
    assert good["milliseconds"] > 0
    assert good["top_genre"] in {"Action", "Sea & Sky", "Drama"}
    assert (bad["severity"], bad["status"], bad["code"]) == ("WARNING", 404, "no_such_poster")


def test_another_bundle_than_expected_is_503_and_named(
    start_function: StartFunction, client: requests.Session, uploaded_bundle: str
) -> None:
    with start_function(BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}", BUNDLE_SHA256="1" * 64) as (
        url,
        _,
    ):
        response = client.post(url, data=image_file(), headers={"Content-Type": "image/jpeg"})
        assert (response.status_code, error_of(response)) == (503, "bundle_error")
        assert f"sha256 {uploaded_bundle}, but {'1' * 64} was expected" in response.text
        assert client.get(f"{url}/healthz").status_code == 503


def test_a_bundle_that_comes_late_is_loaded_when_it_is_there(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    with start_function(BUNDLE_URI="gs://posters-bucket/late", BUNDLE_SHA256=sha256) as (url, _):
        missing = client.get(f"{url}/healthz")
        assert (missing.status_code, error_of(missing)) == (503, "bundle_error")
        assert "no manifest.json" in missing.text
        for path in bundle.iterdir():
            bucket.blob(f"late/{path.name}").upload_from_filename(str(path))
        assert client.get(f"{url}/healthz").status_code == 200


def test_without_its_settings_it_says_which_is_missing(start_function: StartFunction, client: requests.Session) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        response = client.get(f"{url}/healthz")
        assert (response.status_code, error_of(response)) == (503, "bundle_error")
        assert "BUNDLE_URI has to be set" in response.text
