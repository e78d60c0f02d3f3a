"""The OpenAPI document and what the function does are the same: schemathesis asks whatever the document allows.

What it makes up hardly ever has a good answer, so that those, and each kind of refusal, are asked for here besides.
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

from serving.function.openapi import document
from serving.function.question import MAX_INSTANCES
from serving.function.sources import MAX_BYTES, MAX_NAME_BYTES
from tests.pictures import image_file
from tests.serving.conftest import StartFunction, upload_bundle

for kind in ("jpeg", "png", "webp", "avif", "gif"):
    schemathesis.serializer.alias(f"image/{kind}", "application/octet-stream")
# What fits the schema may name no poster there is, and a string of bytes need not be an image.
_UNUSABLE = ["403", "404", "415", "422"]
schema = schemathesis.openapi.from_dict(
    document(),
    config=SchemathesisConfig.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", *_UNUSABLE]}}}
    ),
)


@schema.hook
def filter_case(context: HookContext, case: Case) -> bool:
    """All but batches of which only posters are wrong, and names that are too long in bytes.

    The answer to such a batch is good, with errors in it; how many bytes a name has no schema can limit.
    """
    if case.meta is None or not isinstance(case.body, dict):
        return True
    instances = case.body.get("instances")
    if case.meta.generation.mode.is_negative:
        batch = isinstance(instances, list) and 0 < len(instances) <= MAX_INSTANCES
        return not (batch and case.body.keys() == {"instances"})
    names = [each["name"] for each in instances or [case.body] if "name" in each]
    return all(len(name.encode()) <= MAX_NAME_BYTES and _fits_files(name) for name in names)


def _fits_files(name: str) -> bool:
    """Whether the emulator, which keeps objects as files, can look for an object of this name."""
    return all(len(part.encode()) <= 255 for part in name.split("/"))


@schema.parametrize()
@hypothesis.settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_every_answer_is_one_of_those_in_the_document(case: Case, url: str) -> None:
    case.call_and_validate(base_url=url)


JPEG: dict[str, Any] = {"data": image_file(), "headers": {"Content-Type": "image/jpeg"}}
BASE64 = b64encode(image_file("PNG", seed=1)).decode()


def validator(path: str, method: str, status: int) -> Draft202012Validator:
    """Of what the document says is answered there with this status; KeyError where it says nothing of it."""
    said = document()
    schema = said["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": said["components"]})


def checked(response: requests.Response, path: str, method: str, status: int = 200) -> dict[str, Any]:
    """An answer that has this status and is as the document says."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    answer: dict[str, Any] = response.json()
    validator(path, method, status).validate(answer)
    return answer


def test_every_schema_of_the_document_is_one() -> None:
    for schema in document()["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("parameters", "genres", "explained"),
    [
        ({}, 3, False),
        ({"top": 1}, 1, False),
        ({"explain": "8"}, 3, True),
        ({"top": 2, "explain": "Sea & Sky"}, 2, True),
    ],
)
def test_what_is_said_about_a_poster_is_as_documented(
    url: str, parameters: dict[str, object], genres: int, explained: bool
) -> None:
    answer = checked(requests.post(url, params=parameters, **JPEG), "/", "post")
    assert (len(answer["genres"]), "explanation" in answer) == (genres, explained)


@pytest.mark.parametrize("parameters", [{}, {"top": 1, "explain": "1"}])
def test_a_batch_of_good_and_bad_posters_is_answered_as_documented(
    url: str, bucket: Bucket, parameters: dict[str, object]
) -> None:
    bucket.blob("posters/documented.jpg").upload_from_string(JPEG["data"])
    instances = [
        *({"image": BASE64}, {"name": "posters/documented.jpg"}),
        *({"name": "posters/none.jpg"}, {"name": "https://evil.example/1.jpg"}, {"image": "AAAA"}, {"image": ""}, 7),
    ]
    answer = checked(requests.post(url, params=parameters, json={"instances": instances}), "/", "post")
    statuses = [entry.get("error", {}).get("status", 200) for entry in answer["predictions"]]
    assert statuses == [200, 200, 404, 403, 415, 422, 400]


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/model", "/openapi.json"])
def test_what_is_said_about_the_function_is_as_documented(url: str, path: str) -> None:
    checked(requests.get(url + path), path, "get")


def test_a_model_that_explains_nothing_and_has_no_card_or_version_answers_as_documented(
    start_function: StartFunction, bucket: Bucket, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["figures.json"]
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"explains": False}))
    (bundle / "card.md").unlink()
    with start_function(**upload_bundle(bucket, bundle)) as (url, _):
        answer = checked(requests.post(url, params={"explain": "Drama"}, **JPEG), "/", "post")
        about = checked(requests.get(f"{url}/model"), "/model", "get")
    assert answer["explanation"].keys() == {"genre", "image", "reason"}
    assert (about["card"], about["figures"], about["model"]["version"]) == (None, None, None)


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
def test_refusals_of_a_question_are_as_documented(url: str, request_of: dict[str, Any], status: int) -> None:
    checked(requests.request(**{"method": "POST", "url": url, **request_of}), "/", "post", status)


def test_refusals_without_a_model_are_as_documented(start_function: StartFunction) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        checked(requests.post(url, **JPEG), "/", "post", 503)
        for path in ("/health", "/healthz", "/model"):
            checked(requests.get(url + path), path, "get", 503)


def test_every_operation_may_fail_and_says_so_as_a_refusal() -> None:
    for path, operations in document()["paths"].items():
        for method in operations:
            validator(path, method, 500).validate({"error": {"code": "internal", "message": "Something."}})


@pytest.mark.parametrize(
    "change",
    [
        lambda answer: answer["genres"][0].pop("threshold"),
        lambda answer: answer["genres"][0].update(probability=1.5),
        lambda answer: answer["genres"][0].update(id="1"),
        lambda answer: answer["explanation"].pop("image"),
        lambda answer: answer["model"].update(precision="int4"),
        lambda answer: answer["timing_ms"].pop("infer"),
        lambda answer: answer.update(error={}),
    ],
)
def test_another_answer_is_not_as_documented(url: str, change: Callable[[dict[str, Any]], None]) -> None:
    answer = checked(requests.post(url, params={"explain": "1"}, **JPEG), "/", "post")
    change(answer)
    assert not validator("/", "post", 200).is_valid(answer)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (("x" * 127 + "/") * 7 + "x" * 128, 404),
        (("ü" * 63 + "x/") * 7 + "ü" * 64, 404),
        (("x" * 127 + "/") * 8 + "x", 400),
    ],
)
def test_a_name_is_allowed_to_be_as_long_as_the_function_takes(url: str, name: str, status: int) -> None:
    question = {"name": name}
    allowed = Draft202012Validator({"$ref": "#/components/schemas/Question", "components": document()["components"]})
    assert (len(name.encode()) <= MAX_NAME_BYTES) == (status == 404)
    assert allowed.is_valid(question) == (status == 404)
    checked(requests.post(url, json=question), "/", "post", status)


def test_that_the_limit_of_a_name_is_one_of_bytes_is_said_in_words(url: str) -> None:
    checked(requests.post(url, json={"name": "ü" * (MAX_NAME_BYTES // 2 + 1)}), "/", "post", 400)
    named = document()["components"]["schemas"]["Question"]["oneOf"][0]["properties"]["name"]
    assert f"{MAX_NAME_BYTES} bytes in UTF-8" in named["description"]
