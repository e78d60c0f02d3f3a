"""The bundle that the environment names: downloaded when it is available, checked, and described."""

import hashlib
from pathlib import Path

import pytest
import requests
from google.cloud.storage import Bucket

from tests.pictures import image_file
from tests.serving.conftest import StartFunction

pytestmark = pytest.mark.stack


def error_of(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_model_address_returns_card_and_figures(url: str, uploaded_bundle: str) -> None:
    body = requests.get(f"{url}/model").json()
    assert body["card"] == "# A model of colours\n"
    assert body["figures"] == {"part": "validation"}
    assert body["model"]["sha256"] == uploaded_bundle


def test_bundle_with_another_sha256_is_refused(
    start_function: StartFunction, client: requests.Session, uploaded_bundle: str
) -> None:
    address = f"gs://posters-bucket/bundles/{uploaded_bundle}"
    with start_function(BUNDLE_URI=address, BUNDLE_SHA256="1" * 64) as (url, _):
        response = client.post(url, data=image_file(), headers={"Content-Type": "image/jpeg"})
        assert error_of(response) == (503, "bundle_error")
        assert f"sha256 {uploaded_bundle}, but {'1' * 64} was expected" in response.text
        assert client.get(f"{url}/healthz").status_code == 503


def test_bundle_is_loaded_once_it_is_uploaded(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    with start_function(BUNDLE_URI="gs://posters-bucket/late", BUNDLE_SHA256=sha256) as (url, _):
        missing = client.get(f"{url}/healthz")
        assert error_of(missing) == (503, "bundle_error")
        assert "no manifest.json" in missing.text
        for path in bundle.iterdir():
            bucket.blob(f"late/{path.name}").upload_from_filename(str(path))
        assert client.get(f"{url}/healthz").status_code == 200


def test_missing_environment_variable_is_named(start_function: StartFunction, client: requests.Session) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        response = client.get(f"{url}/healthz")
        assert error_of(response) == (503, "bundle_error")
        assert "BUNDLE_URI must be set" in response.text
