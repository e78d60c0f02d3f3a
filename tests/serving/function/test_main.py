"""The function as it is deployed: the zip, unpacked alone, run by functions-framework, asked over HTTP."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from google.cloud.storage import Bucket
from PIL import Image

import serving
from infra.source_zip import source_zip
from serving.bundle.model import Model
from serving.function.question import MAX_JSON_BYTES
from serving.function.sources import MAX_BYTES
from tests.pictures import image_file

JSON = "application/json"
LARGE_JSON = b'{"image": "' + b"A" * 2**20 + b'%s"}'
StartFunction = Callable[..., AbstractContextManager[tuple[str, Path]]]


def error_of(response: requests.Response) -> str:
    """The code of an error, after a look at its shape."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    assert body["error"]["message"].endswith(".")
    assert "Traceback" not in response.text
    return str(body["error"]["code"])


def test_the_zip_alone_imports_nothing_of_the_project(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(source_zip(Path(serving.__file__).parent))) as archive:
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
    assert answer["model"] == {
        "version": "3",
        "sha256": uploaded_bundle,
        "dataset_date": "2026-11-23",
        "precision": "fp32",
        "explains": True,
    }
    assert answer["timing_ms"].keys() == {"fetch", "decode", "infer", "total"}
    assert 0 < answer["timing_ms"]["fetch"] <= answer["timing_ms"]["total"]


def said_by(response: requests.Response) -> dict[str, Any]:
    """An answer without its timing."""
    assert response.status_code == 200, response.text
    return {name: value for name, value in response.json().items() if name != "timing_ms"}


def test_name_gs_address_base64_bytes_and_upload_give_the_same_answer(url: str, bucket: Bucket) -> None:
    data = image_file("PNG", seed=1)
    bucket.blob("posters/ü 7.png").upload_from_string(data)
    answers = [
        requests.post(url, json={"name": "posters/ü 7.png"}),
        requests.post(url, json={"name": "gs://posters-bucket/posters/ü 7.png"}),
        requests.post(url, json={"image": b64encode(data).decode()}),
        requests.post(url, data=data, headers={"Content-Type": "image/png"}),
        requests.post(url, data=data, headers={"Content-Type": "application/octet-stream"}),
        requests.post(url, data=iter([data[:100], data[100:]]), headers={"Content-Type": "image/png"}),
        requests.post(url, files={"poster": ("poster.png", data, "image/png")}),
    ]
    assert all(said_by(answer) == said_by(answers[0]) for answer in answers)


def test_top_gives_the_most_probable_genres_alone(url: str) -> None:
    asked = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}}
    all_genres = said_by(requests.post(url, **asked))["genres"]
    assert said_by(requests.post(f"{url}?top=2", **asked))["genres"] == all_genres[:2]
    assert said_by(requests.post(f"{url}?top=50", **asked))["genres"] == all_genres


def test_a_batch_has_an_answer_or_an_error_for_each_poster(url: str, bucket: Bucket) -> None:
    posters = [image_file("PNG", seed=seed) for seed in range(12)]
    bucket.blob("posters/11.png").upload_from_string(posters[11])
    instances: list[object] = [{"image": b64encode(data).decode()} for data in posters[:11]]
    instances += [{"name": "posters/11.png"}, {"name": "posters/none.png"}, {"image": "=="}, {"image": ""}, 7]
    said = said_by(requests.post(f"{url}?top=1", json={"instances": instances}))
    assert said.keys() == {"predictions", "model"}
    alone = [
        said_by(requests.post(f"{url}?top=1", data=data, headers={"Content-Type": "image/png"})) for data in posters
    ]
    assert [entry["genres"][0]["name"] for entry in said["predictions"][:12]] == [
        answer["genres"][0]["name"] for answer in alone
    ]
    for entry, answer in zip(said["predictions"][:12], alone, strict=True):
        assert entry["genres"][0]["probability"] == pytest.approx(answer["genres"][0]["probability"], abs=1e-6)
    errors = [entry["error"] for entry in said["predictions"][12:]]
    assert [(error["status"], error["code"]) for error in errors] == [
        (404, "no_such_poster"),
        (400, "bad_request"),
        (422, "unusable_image"),
        (400, "bad_request"),
    ]


def test_it_shows_where_on_the_poster_a_genre_was_seen(url: str) -> None:
    """The test network sees its first genre in red pixels."""
    picture = Image.new("RGB", (40, 60), (20, 90, 90))
    picture.paste((250, 90, 90), (0, 0, 20, 60))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    for genre in ("Action", "action", "1"):
        asked = {"data": buffer.getvalue(), "headers": {"Content-Type": "image/png"}}
        said = said_by(requests.post(url, params={"explain": genre, "top": 1}, **asked))["explanation"]
        assert said["genre"] == {"id": 1, "name": "Action"}
        png = said["image"].removeprefix("data:image/png;base64,")
        shown = np.asarray(Image.open(io.BytesIO(b64decode(png))).convert("RGBA"))
        assert shown.shape == (16, 16, 4)
        assert shown[:, 2, 3].min() > 150 and shown[:, 13, 3].max() < 50, "opaque where it is red, clear elsewhere"
        assert shown[8, 2, :3].tolist() == [253, 231, 37], "the warmest colour"
    instances = [{"image": b64encode(buffer.getvalue()).decode()}, {"image": b64encode(image_file()).decode()}]
    [first, second] = said_by(requests.post(f"{url}?explain=1", json={"instances": instances}))["predictions"]
    assert first["explanation"] == said
    assert second["explanation"]["image"] != said["image"]


def test_a_network_that_cannot_show_where_says_so(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"explains": False}
    data = json.dumps(manifest).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    bucket.blob("unexplained/manifest.json").upload_from_string(data)
    bucket.blob("unexplained/model.onnx").upload_from_filename(str(bundle / "model.onnx"))
    bucket.blob("unexplained/figures.json").upload_from_filename(str(bundle / "figures.json"))
    with start_function(BUNDLE_URI="gs://posters-bucket/unexplained", BUNDLE_SHA256=sha256) as (url, _):
        asked = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}}
        said = said_by(client.post(f"{url}?explain=8", **asked))
        assert said["model"]["explains"] is False
        assert said["explanation"] == {
            "genre": {"id": 8, "name": "Drama"},
            "image": None,
            "reason": "This network cannot show where on a poster it saw a genre.",
        }
        assert len(said["genres"]) == 3
        assert client.get(f"{url}/model").json()["card"] is None


def test_pages_of_other_origins_may_ask_where_the_setting_names_them(
    start_function: StartFunction, client: requests.Session, url: str, uploaded_bundle: str
) -> None:
    there = {"Origin": "https://pages.example"}
    assert "Access-Control-Allow-Origin" not in client.get(url, headers=there).headers
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        CORS_ORIGINS="https://other.example, https://pages.example",
    ) as (open_url, _):
        before = client.options(open_url, headers=there | {"Access-Control-Request-Method": "POST"})
        assert (before.status_code, before.content) == (204, b"")
        assert before.headers["Access-Control-Allow-Origin"] == "https://pages.example"
        assert "Content-Type" in before.headers["Access-Control-Allow-Headers"]
        answer = client.post(open_url, data=b"x", headers=there | {"Content-Type": "image/png"})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (415, "https://pages.example")
        stranger = client.get(open_url, headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in stranger.headers


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
        ({"json": {"name": "\ud800.jpg"}}, 400, "bad_request"),
        ({"json": ["posters/5.jpg"]}, 400, "bad_request"),
        ({"json": {"name": "posters/5.jpg", "image": ""}}, 400, "bad_request"),
        ({"json": {"image": "no base64!"}}, 400, "bad_request"),
        ({"json": {"image": 5}}, 400, "bad_request"),
        ({"json": {"image": ""}}, 422, "unusable_image"),
        ({"json": {"name": "."}}, 400, "bad_request"),
        ({"json": {"name": ".."}}, 400, "bad_request"),
        ({"data": b'{"image": [' + b"{}," * 5000 + b"{}]}", "headers": {"Content-Type": JSON}}, 400, "bad_request"),
        ({"data": b'{"image": "' + b"A" * 2**20 + b'\\u00fc"}', "headers": {"Content-Type": JSON}}, 400, "bad_request"),
        (
            {"data": b'{"image": "' + b"A" * 2**20 + b'\xc3\xbc"}', "headers": {"Content-Type": JSON}},
            400,
            "bad_request",
        ),
        ({"json": {"instances": [{"name": "x"}], "parameters": {}}}, 400, "bad_request"),
        ({"files": {"poster": b"x"}, "data": {"text": "x" * 600_000}}, 413, "too_large"),
        ({"json": {"instances": []}}, 400, "bad_request"),
        ({"json": {"instances": {}}}, 400, "bad_request"),
        ({"json": {"instances": [{"name": "x"}] * 33}}, 400, "bad_request"),
        ({"json": {"instances": [{"name": "x"}], "name": "x"}}, 400, "bad_request"),
        ({"json": {"name": "posters/5.jpg"}, "params": {"explain": "Opera"}}, 404, "unknown_genre"),
        ({"json": {"name": "posters/5.jpg"}, "params": {"top": "0"}}, 400, "bad_request"),
        ({"json": {"name": "posters/5.jpg"}, "params": {"top": "-1"}}, 400, "bad_request"),
        ({"json": {"name": "posters/5.jpg"}, "params": {"top": "many"}}, 400, "bad_request"),
        ({"data": b"[" * 100_000, "headers": {"Content-Type": JSON}}, 400, "bad_request"),
        ({"data": b"\xff\xfe", "headers": {"Content-Type": JSON}}, 400, "bad_request"),
        ({"json": {"name": "https://evil.example/1.jpg"}}, 403, "forbidden_host"),
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
        ({"data": bytes(MAX_JSON_BYTES + 1), "headers": {"Content-Type": JSON}}, 413, "too_large"),
        (
            {
                "data": b'{"image": "' + bytes(MAX_BYTES // 3 * 4 + 8).replace(b"\0", b"A") + b'"}',
                "headers": {"Content-Type": JSON},
            },
            413,
            "too_large",
        ),
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
    assert deleted.headers["Allow"] == "GET, POST, HEAD, OPTIONS"
    assert requests.options(url).headers["Allow"] == "GET, POST, HEAD, OPTIONS"
    posted = requests.post(f"{url}/healthz", json={})
    assert (posted.status_code, error_of(posted)) == (405, "method_not_allowed")
    lost = requests.get(f"{url}/nothing")
    assert (lost.status_code, error_of(lost)) == (404, "no_such_page")


def test_it_describes_itself_and_says_which_model_it_has(url: str, uploaded_bundle: str) -> None:
    assert requests.get(url).json()["limits"] == {"size_bytes": MAX_BYTES, "instances": 32}
    for path in ("health", "healthz"):
        answer = requests.get(f"{url}/{path}").json()
        assert (answer["status"], answer["model"]["sha256"]) == ("ok", uploaded_bundle)
    assert requests.head(url).status_code == 200


def test_every_request_leaves_one_json_line_in_the_log(function: tuple[str, Path], uploaded_bundle: str) -> None:
    url, log = function
    before = len(log.read_text().splitlines())
    data = image_file(seed=3)
    headers = {"Content-Type": "image/jpeg", "X-Cloud-Trace-Context": "105445aa7843bc8bf206b12000100000/1;o=1"}
    traced = requests.post(url, data=data, headers=headers)
    untraced = requests.post(url, json={"name": "posters/none\n.jpg"})
    good, bad = (json.loads(line) for line in log.read_text().splitlines()[before:])
    assert (good["severity"], good["httpRequest"]["status"], good["model_sha256"]) == ("INFO", 200, uploaded_bundle)
    assert good["milliseconds"].keys() == {"fetch", "decode", "infer", "total"}
    assert good["milliseconds"]["total"] > 0
    assert good["top_genre"] in {"Action", "Sea & Sky", "Drama"}
    assert good["request_id"] == traced.headers["X-Request-Id"] == "105445aa7843bc8bf206b12000100000"
    assert (bad["severity"], bad["httpRequest"]["status"], bad["code"]) == ("WARNING", 404, "no_such_poster")
    assert bad["request_id"] == untraced.headers["X-Request-Id"] != good["request_id"]
