"""Posters from a form: files, samples and addresses are sent on; invalid or large ones are refused."""

import io
import json
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from serving.web.app import create_app
from serving.web.upload import MAX_POSTER_BYTES, SAMPLES

JSON = {"Accept": "application/json"}


@pytest.fixture
def client(function: Any) -> FlaskClient:
    return create_app(function.url).test_client()


def upload(client: FlaskClient, data: bytes, name: str = "p.jpg", kind: str = "image/jpeg") -> Any:
    """Post a form in the format of a browser."""
    head = f'Content-Disposition: form-data; name="poster"; filename="{name}"\r\nContent-Type: {kind}'
    body = f"--x\r\n{head}\r\n\r\n".encode() + data + b"\r\n--x--\r\n"
    return client.post("/anime", data=body, content_type="multipart/form-data; boundary=x", headers=JSON)


def error_of(response: Any) -> tuple[int, str, str]:
    return response.status_code, response.json["error"]["code"], response.json["error"]["message"]


def sent(function: Any) -> dict[str, str]:
    """The headers of the only poster that was sent. The page also asks the function for its model."""
    (headers,) = [each for each in function.headers if "Content-Type" in each]
    return dict(headers)


def test_upload_is_sent_to_the_function_as_an_image(client: FlaskClient, function: Any) -> None:
    assert upload(client, b"bytes").status_code == 200
    assert function.posters == [b"bytes"]
    assert sent(function)["Content-Type"] == "image/jpeg"
    assert "Authorization" not in sent(function)


@pytest.mark.parametrize("kind", ["text/plain", "image/✓", "image/a b", "image/"])
def test_upload_of_another_type_is_sent_as_bytes(kind: str, client: FlaskClient, function: Any) -> None:
    assert upload(client, b"bytes", "poster.txt", kind).status_code == 200
    assert sent(function)["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize("address", ["https://example.org/poster.jpg?a=1&b=<2>", "posters/5.jpg"])
def test_address_is_passed_to_the_function_and_not_fetched(address: str, client: FlaskClient, function: Any) -> None:
    response = client.post("/anime", data={"address": f"  {address} "})
    assert response.status_code == 200
    assert json.loads(function.posters[0]) == {"name": address}
    assert sent(function)["Content-Type"] == "application/json"
    text = unescape(response.text)
    assert f"Prediction for {address}" in text
    assert "this page shows no pictures from other sites" in text
    assert f'<input type="hidden" name="address" value="{address}">' in text


def test_file_takes_precedence_over_an_address(client: FlaskClient, function: Any) -> None:
    client.post("/anime", data={"poster": (io.BytesIO(b"bytes"), "p.jpg"), "address": "https://example.org/p.jpg"})
    assert function.posters == [b"bytes"]


def test_photo_is_the_second_file_of_the_form(client: FlaskClient, function: Any) -> None:
    files = [(io.BytesIO(b""), ""), (io.BytesIO(b"photograph"), "camera.jpg")]
    assert "Prediction for camera.jpg" in client.post("/anime", data={"poster": files}).text
    assert function.posters == [b"photograph"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_is_sent_like_an_upload(sample: str, client: FlaskClient, function: Any) -> None:
    response = client.post("/anime", data={"sample": sample})
    assert response.status_code == 200
    with Image.open(io.BytesIO(function.posters[0])) as image:
        assert image.size == (225, 318)


@pytest.mark.parametrize("form", [{}, {"poster": ""}, {"poster": (io.BytesIO(b""), "")}, {"sample": "../app"}])
def test_form_without_a_poster_is_refused(form: dict[str, Any], client: FlaskClient) -> None:
    response = client.post("/anime", data=form, headers=JSON)
    assert error_of(response) == (400, "no_poster", "No poster was chosen; choose an image or enter its address first.")


@pytest.mark.parametrize("surplus", [1, 1_000_000])
def test_large_poster_is_refused(surplus: int, client: FlaskClient, function: Any) -> None:
    status, code, message = error_of(upload(client, bytes(MAX_POSTER_BYTES + surplus)))
    assert (status, code) == (413, "too_large")
    assert "20 MB" in message
    assert function.posters == []


def test_poster_of_exactly_the_limit_is_sent(client: FlaskClient, function: Any) -> None:
    assert upload(client, bytes(MAX_POSTER_BYTES)).status_code == 200
    assert len(function.posters[0]) == MAX_POSTER_BYTES
