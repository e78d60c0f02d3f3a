"""Invalid requests: each gets a status, a code and a sentence."""

import pytest
import requests
from google.cloud.storage import Bucket

from serving.function.named_posters import MAX_BYTES
from serving.function.request_body import MAX_JSON_BYTES
from tests.messages import faults_of_message
from tests.pictures import image_file, jpeg_with_scans

pytestmark = pytest.mark.stack
JSON = "application/json"


def error_code(response: requests.Response) -> str:
    """The code of an error response, whose shape is checked."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"code", "message"}
    assert faults_of_message(body["error"]["message"]) == []
    assert "Traceback" not in response.text
    return str(body["error"]["code"])


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
        ({"json": {"name": "a. B " * 40}}, 404, "no_such_poster"),
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_content"),
        ({"data": b"x"}, 415, "unsupported_content"),
        ({"data": b"x", "headers": {"Content-Type": "a/" + 999 * "b"}}, 415, "unsupported_content"),
        ({"data": b"not an image", "headers": {"Content-Type": "image/png"}}, 415, "unsupported_format"),
        ({"data": image_file()[:-400], "headers": {"Content-Type": "image/jpeg"}}, 422, "unusable_image"),
        ({"data": b"", "headers": {"Content-Type": "image/jpeg"}}, 422, "unusable_image"),
        ({"data": jpeg_with_scans(3000), "headers": {"Content-Type": "image/jpeg"}}, 422, "unusable_image"),
        ({"files": {"one": b"1", "two": b"2"}}, 400, "bad_request"),
        ({"files": [("poster", image_file()), ("poster", image_file())]}, 400, "bad_request"),
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
def test_invalid_request_gets_a_status_a_code_and_a_sentence(
    url: str, request_of: dict[str, object], status: int, code: str
) -> None:
    response = requests.post(url, **request_of)
    assert (response.status_code, error_code(response)) == (status, code)


def test_object_that_is_not_a_poster_is_refused(url: str, bucket: Bucket) -> None:
    bucket.blob("table.csv").upload_from_string("a,b\n")
    bucket.blob("empty.jpg").upload_from_string(b"")
    bucket.blob("huge.jpg").upload_from_string(bytes(MAX_BYTES + 1))
    responses = {name: requests.post(url, json={"name": name}) for name in ("table.csv", "empty.jpg", "huge.jpg")}
    assert {name: (response.status_code, error_code(response)) for name, response in responses.items()} == {
        "table.csv": (415, "unsupported_format"),
        "empty.jpg": (422, "unusable_image"),
        "huge.jpg": (413, "too_large"),
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "allowed"),
    [
        ("DELETE", "/", 405, "method_not_allowed", "GET, POST, HEAD, OPTIONS"),
        ("POST", "/healthz", 405, "method_not_allowed", "GET, HEAD, OPTIONS"),
        ("GET", "/nothing", 404, "no_such_page", None),
    ],
)
def test_unsupported_method_or_address_is_refused(
    url: str, method: str, path: str, status: int, code: str, allowed: str | None
) -> None:
    response = requests.request(method, url + path)
    assert (response.status_code, error_code(response)) == (status, code)
    assert response.headers.get("Allow") == allowed
