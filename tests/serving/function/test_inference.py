"""Predictions over HTTP: all ways to send a poster, batches, explanations and concurrent clients."""

import io
import json
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
from google.cloud.storage import Bucket
from PIL import Image

from serving.bundle.image import DECODING_BYTES, _decoding
from serving.bundle.model import Model
from serving.function import inference
from serving.function.errors import RequestError
from serving.function.request_body import PosterRequest
from serving.function.request_log import Measurements
from serving.function.response_types import BatchResponse, InstanceError
from tests.pictures import image_file
from tests.serving.conftest import StartFunction, mean_colour_network, upload_bundle, write_int8_network

pytestmark = pytest.mark.stack
JPEG: dict[str, Any] = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}}


def prediction(response: requests.Response) -> dict[str, Any]:
    """The body of a successful response, without its timing."""
    assert response.status_code == 200, response.text
    return {name: value for name, value in response.json().items() if name != "timing_ms"}


def send_png(url: str, data: bytes, **parameters: object) -> requests.Response:
    return requests.post(url, data=data, headers={"Content-Type": "image/png"}, params=parameters)


def test_response_lists_all_genres_most_probable_first(
    url: str, bucket: Bucket, uploaded_bundle: str, bundle: Path
) -> None:
    data = image_file()
    bucket.blob("posters/5.jpg").upload_from_string(data)
    body = requests.post(url, json={"name": "posters/5.jpg"}).json()
    expected = sorted(Model.load(bundle).predict([data])[0], key=lambda genre: -genre.probability)
    assert [genre | {"probability": None} for genre in body["genres"]] == [
        vars(genre) | {"probability": None} for genre in expected
    ]
    assert [genre["probability"] for genre in body["genres"]] == pytest.approx(
        [genre.probability for genre in expected], abs=1e-6
    )
    assert body["model"] == {
        "version": "3",
        "sha256": uploaded_bundle,
        "dataset_date": "2026-11-23",
        "precision": "fp32",
        "explains": True,
        "collection": "built-in",
    }
    assert 0 < body["timing_ms"]["fetch"] <= body["timing_ms"]["total"]


def test_poster_gives_the_same_prediction_in_every_form(url: str, bucket: Bucket) -> None:
    data = image_file("PNG", seed=1)
    bucket.blob("posters/ü 7.png").upload_from_string(data)
    responses = [
        requests.post(url, json={"name": "posters/ü 7.png"}),
        requests.post(url, json={"name": "gs://posters-bucket/posters/ü 7.png"}),
        requests.post(url, json={"image": b64encode(data).decode()}),
        send_png(url, data),
        requests.post(url, data=data, headers={"Content-Type": "application/octet-stream"}),
        requests.post(url, data=iter([data[:100], data[100:]]), headers={"Content-Type": "image/png"}),
        requests.post(url, files={"poster": ("poster.png", data, "image/png")}),
    ]
    assert all(prediction(response) == prediction(responses[0]) for response in responses)


def test_top_limits_the_number_of_genres(url: str) -> None:
    genres = prediction(requests.post(url, **JPEG))["genres"]
    assert prediction(requests.post(f"{url}?top=2", **JPEG))["genres"] == genres[:2]
    assert prediction(requests.post(f"{url}?top=50", **JPEG))["genres"] == genres


def test_batch_has_a_prediction_or_an_error_per_poster(url: str, bucket: Bucket) -> None:
    posters = [image_file("PNG", seed=seed) for seed in range(12)]
    bucket.blob("posters/11.png").upload_from_string(posters[11])
    instances: list[object] = [{"image": b64encode(data).decode()} for data in posters[:11]]
    instances += [{"name": "posters/11.png"}, {"name": "posters/none.png"}, {"image": "=="}, {"image": ""}, 7]
    batch = prediction(requests.post(f"{url}?top=1", json={"instances": instances}))
    assert batch.keys() == {"predictions", "model"}
    for entry, data in zip(batch["predictions"][:12], posters, strict=True):
        single = prediction(send_png(url, data, top=1))
        assert entry["genres"][0]["name"] == single["genres"][0]["name"]
        assert entry["genres"][0]["probability"] == pytest.approx(single["genres"][0]["probability"], abs=1e-6)
    errors = [entry["error"] for entry in batch["predictions"][12:]]
    assert [(error["status"], error["code"]) for error in errors] == [
        (404, "no_such_poster"),
        (400, "bad_request"),
        (422, "unusable_image"),
        (400, "bad_request"),
    ]


def test_explain_shows_where_the_model_sees_a_genre(url: str) -> None:
    """The test network sees its first genre in red pixels."""
    picture = Image.new("RGB", (40, 60), (20, 90, 90))
    picture.paste((250, 90, 90), (0, 0, 20, 60))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    for genre in ("Action", "action", "1"):
        explanation = prediction(send_png(url, buffer.getvalue(), explain=genre, top=1))["explanation"]
        assert explanation["genre"] == {"id": 1, "name": "Action"}
        png = explanation["image"].removeprefix("data:image/png;base64,")
        heat = np.asarray(Image.open(io.BytesIO(b64decode(png))).convert("RGBA"))
        assert heat.shape == (16, 16, 4)
        assert heat[:, 2, 3].min() > 150 and heat[:, 13, 3].max() < 50, "opaque on red pixels, transparent elsewhere"
        assert heat[8, 2, :3].tolist() == [253, 231, 37], "the colour of the highest value"
    instances = [{"image": b64encode(buffer.getvalue()).decode()}, {"image": b64encode(image_file()).decode()}]
    [first, second] = prediction(requests.post(f"{url}?explain=1", json={"instances": instances}))["predictions"]
    assert first["explanation"] == explanation
    assert second["explanation"]["image"] != explanation["image"]


def test_explain_returns_a_small_jpeg_of_a_named_poster(url: str, bucket: Bucket) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (1000, 1500), (20, 90, 200, 255)).save(buffer, "PNG")
    bucket.blob("posters/large.png").upload_from_string(buffer.getvalue())
    named: dict[str, object] = {"json": {"name": "posters/large.png"}}
    poster = prediction(requests.post(f"{url}?explain=1", **named))["explanation"]["poster"]
    with Image.open(io.BytesIO(b64decode(poster.removeprefix("data:image/jpeg;base64,")))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 480))
        assert picture.getpixel((160, 240)) == pytest.approx((20, 90, 200), abs=4)
    batch = {"instances": [{"name": "posters/large.png"}, {"image": b64encode(buffer.getvalue()).decode()}]}
    [first, second] = prediction(requests.post(f"{url}?explain=1", json=batch))["predictions"]
    assert first["explanation"]["poster"] == poster and "poster" not in second["explanation"]
    assert "explanation" not in prediction(requests.post(url, **named))


def test_explain_gives_a_reason_if_the_network_has_no_maps(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    changed = manifest | {"explains": False, "not_explained": "its features are not means"}
    (bundle / "manifest.json").write_text(json.dumps(changed))
    with start_function(**upload_bundle(bucket, bundle)) as (url, _):
        body = prediction(client.post(f"{url}?explain=8", **JPEG))
    assert body["model"]["explains"] is False
    assert body["explanation"] == {
        "genre": {"id": 8, "name": "Drama"},
        "image": None,
        "reason": "This network cannot show where on a poster it sees a genre: its features are not means.",
    }
    assert len(body["genres"]) == 3


def test_int8_network_is_used_if_the_manifest_serves_it(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    write_int8_network(bundle, mean_colour_network(slope=-8))
    with start_function(**upload_bundle(bucket, bundle)) as (url, _):
        body = prediction(client.post(url, **JPEG))
        assert client.get(f"{url}/health").json()["model"]["precision"] == body["model"]["precision"] == "int8"
    expected = {genre.name: genre.probability for genre in Model.load(bundle).predict([JPEG["data"]])[0]}
    assert {genre["name"]: genre["probability"] for genre in body["genres"]} == pytest.approx(expected, abs=1e-5)


def test_poster_that_waits_too_long_for_memory_is_refused_as_busy(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "_DECODING_WAIT_SECONDS", 0.01)
    model = Model.load(bundle)
    loaded: Any = SimpleNamespace(model=lambda: model)
    with _decoding.hold(DECODING_BYTES):
        with pytest.raises(RequestError, match="Too many large posters are being decoded") as refused:
            inference.predict_posters(PosterRequest([image_file()], False, None, None), loaded, Measurements())
        assert (refused.value.status, refused.value.code) == (503, "busy")
        batch = inference.predict_posters(PosterRequest([image_file()], True, None, None), loaded, Measurements())
        assert isinstance(batch, BatchResponse) and isinstance(batch.predictions[0], InstanceError)
        assert batch.predictions[0].error.code == "busy"
    inference.predict_posters(PosterRequest([image_file()], False, None, None), loaded, Measurements())


def test_concurrent_clients_get_their_own_predictions(url: str, bundle: Path) -> None:
    posters = [image_file("PNG", seed=seed) for seed in range(24)]

    def predict(data: bytes) -> list[tuple[str, float]]:
        genres = send_png(url, data).json()["genres"]
        return sorted((genre["name"], round(genre["probability"], 5)) for genre in genres)

    with ThreadPoolExecutor(8) as clients:
        predictions = list(clients.map(predict, posters))
    for received, genres in zip(predictions, Model.load(bundle).predict(posters), strict=True):
        assert received == sorted((genre.name, round(genre.probability, 5)) for genre in genres)
