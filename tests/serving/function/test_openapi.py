"""The function does what openapi.json says. Schemathesis generates requests from the document.

Generated requests rarely succeed, so this file also sends valid requests and one request per kind of error.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from google.cloud.storage import Bucket
from hypothesis import HealthCheck
from jsonschema import Draft202012Validator
from schemathesis import Case, HookContext
from schemathesis.config import SchemathesisConfig

from serving import openapi
from serving.function.named_posters import MAX_BYTES, MAX_NAME_BYTES
from serving.function.request_body import MAX_INSTANCES
from tests.pictures import image_file
from tests.serving.conftest import StartFunction, upload_bundle

pytestmark = pytest.mark.stack
DOCUMENT = json.loads(openapi.FILE.read_text())
for kind in ("jpeg", "png", "webp", "avif", "gif"):
    schemathesis.serializer.alias(f"image/{kind}", "application/octet-stream")
# A valid name may belong to no poster, and a valid string of bytes need not be an image.
_UNUSABLE = ["403", "404", "415", "422"]
schema = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", *_UNUSABLE]}}}
    ),
)


def test_openapi_json_is_up_to_date() -> None:
    assert openapi.document() == DOCUMENT, "run: python -m serving.openapi"


@schema.hook
def filter_case(context: HookContext, case: Case) -> bool:
    """Leave out batches in which only the posters are invalid, and names with too many bytes.

    Such a batch gets a 200 with errors inside. JSON Schema cannot limit the number of bytes.
    """
    if case.meta is None or not isinstance(case.body, dict):
        return True
    instances = case.body.get("instances")
    if case.meta.generation.mode.is_negative:
        batch = isinstance(instances, list) and 0 < len(instances) <= MAX_INSTANCES
        return not (batch and case.body.keys() == {"instances"})
    names = [each["name"] for each in instances or [case.body] if "name" in each]
    return all(len(name.encode()) <= MAX_NAME_BYTES and _is_valid_path(name) for name in names)


def _is_valid_path(name: str) -> bool:
    """Whether the emulator, which stores objects as files, can look for an object with this name."""
    return all(len(part.encode()) <= 255 for part in name.split("/"))


@schema.parametrize()
@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_response_to_generated_request_matches_the_document(case: Case, url: str) -> None:
    case.call_and_validate(base_url=url)


JPEG: dict[str, Any] = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}}
BASE64 = b64encode(image_file("PNG", seed=1)).decode()


def validator(path: str, method: str, status: int) -> Draft202012Validator:
    """A validator for responses with this status. Raises KeyError if the document does not list the status."""
    content = DOCUMENT["paths"][path][method]["responses"][str(status)]["content"]["application/json"]
    return Draft202012Validator({**content["schema"], "components": DOCUMENT["components"]})


def checked(response: requests.Response, path: str, method: str, status: int = 200) -> dict[str, Any]:
    """The body of a response, after its status and schema are checked."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    validator(path, method, status).validate(body)
    return body


def test_schemas_are_valid() -> None:
    for component in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(component)


@pytest.mark.parametrize(
    ("parameters", "genres", "explained"),
    [
        ({}, 3, False),
        ({"top": 1}, 1, False),
        ({"explain": "8"}, 3, True),
        ({"top": 2, "explain": "Sea & Sky"}, 2, True),
    ],
)
def test_prediction_matches_the_document(url: str, parameters: dict[str, object], genres: int, explained: bool) -> None:
    body = checked(requests.post(url, params=parameters, **JPEG), "/", "post")
    assert (len(body["genres"]), "explanation" in body) == (genres, explained)


@pytest.mark.parametrize("parameters", [{}, {"top": 1, "explain": "1"}])
def test_batch_matches_the_document(url: str, bucket: Bucket, parameters: dict[str, object]) -> None:
    bucket.blob("posters/documented.jpg").upload_from_string(JPEG["data"])
    instances = [
        *({"image": BASE64}, {"name": "posters/documented.jpg"}),
        *({"name": "posters/none.jpg"}, {"name": "https://evil.example/1.jpg"}, {"image": "AAAA"}, {"image": ""}, 7),
    ]
    body = checked(requests.post(url, params=parameters, json={"instances": instances}), "/", "post")
    statuses = [entry.get("error", {}).get("status", 200) for entry in body["predictions"]]
    assert statuses == [200, 200, 404, 403, 415, 422, 400]


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/model"])
def test_get_response_matches_the_document(url: str, path: str) -> None:
    checked(requests.get(url + path), path, "get")


def test_openapi_json_is_served(url: str) -> None:
    assert checked(requests.get(f"{url}/openapi.json"), "/openapi.json", "get") == DOCUMENT


def test_response_without_card_figures_version_and_maps_matches_the_document(
    start_function: StartFunction, bucket: Bucket, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["figures.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"explains": False}))
    (bundle / "card.md").unlink()
    with start_function(**upload_bundle(bucket, bundle)) as (url, _):
        body = checked(requests.post(url, params={"explain": "Drama"}, **JPEG), "/", "post")
        model = checked(requests.get(f"{url}/model"), "/model", "get")
    assert body["explanation"].keys() == {"genre", "image", "reason"}
    assert (model["card"], model["figures"], model["model"]["version"]) == (None, None, None)


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"json": {}}, 400),
        ({**JPEG, "params": {"top": "0"}}, 400),
        ({"json": {"name": "https://evil.example/1.jpg"}}, 403),
        ({"json": {"name": "posters/none.jpg"}}, 404),
        ({**JPEG, "params": {"explain": "Opera"}}, 404),
        ({**JPEG, "method": "DELETE"}, 405),
        ({**JPEG, "data": bytes(MAX_BYTES + 1)}, 413),
        ({**JPEG, "data": b"not an image"}, 415),
        ({**JPEG, "headers": {"Content-Type": "text/plain"}}, 415),
        ({**JPEG, "data": JPEG["data"][:-400]}, 422),
    ],
)
def test_error_response_matches_the_document(url: str, request_of: dict[str, Any], status: int) -> None:
    checked(requests.request(**{"method": "POST", "url": url, **request_of}), "/", "post", status)


def test_error_response_without_a_model_matches_the_document(start_function: StartFunction) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        checked(requests.post(url, **JPEG), "/", "post", 503)
        for path in ("/health", "/healthz", "/model"):
            checked(requests.get(url + path), path, "get", 503)


def test_operations_all_list_the_unexpected_error() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method in operations:
            validator(path, method, 500).validate({"error": {"code": "internal", "message": "A sentence."}})


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["genres"][0].pop("threshold"),
        lambda body: body["genres"][0].update(probability=1.5),
        lambda body: body["genres"][0].update(id="1"),
        lambda body: body["explanation"].pop("image"),
        lambda body: body["model"].update(precision="int4"),
        lambda body: body["timing_ms"].pop("infer"),
        lambda body: body.update(error={}),
    ],
)
def test_document_rejects_a_changed_response(url: str, change: Callable[[dict[str, Any]], None]) -> None:
    body = checked(requests.post(url, params={"explain": "1"}, **JPEG), "/", "post")
    change(body)
    assert not validator("/", "post", 200).is_valid(body)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (("x" * 127 + "/") * 7 + "x" * 128, 404),
        (("ü" * 63 + "x/") * 7 + "ü" * 64, 404),
        (("x" * 127 + "/") * 8 + "x", 400),
    ],
)
def test_name_may_be_as_long_in_the_document_as_in_the_function(url: str, name: str, status: int) -> None:
    body = {"name": name}
    schema = {"$ref": "#/components/schemas/NamedPoster", "components": DOCUMENT["components"]}
    assert (len(name.encode()) <= MAX_NAME_BYTES) == (status == 404)
    assert Draft202012Validator(schema).is_valid(body) == (status == 404)
    checked(requests.post(url, json=body), "/", "post", status)


def test_name_limit_is_documented_in_bytes(url: str) -> None:
    checked(requests.post(url, json={"name": "ü" * (MAX_NAME_BYTES // 2 + 1)}), "/", "post", 400)
    name = DOCUMENT["components"]["schemas"]["NamedPoster"]["properties"]["name"]
    assert f"{MAX_NAME_BYTES} bytes in UTF-8" in name["description"]
