"""The bundle that the environment names: loaded once it is there and whole, and told about."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import requests
from google.cloud.storage import Bucket

from tests.pictures import image_file

StartFunction = Callable[..., AbstractContextManager[tuple[str, Path]]]


def test_it_tells_its_card_and_figures(url: str, uploaded_bundle: str) -> None:
    said = requests.get(f"{url}/model").json()
    assert said["card"] == "# A model of colours\n"
    assert said["figures"] == {"part": "validation"}
    assert said["model"]["sha256"] == uploaded_bundle


def test_another_bundle_than_expected_is_503_and_named(
    start_function: StartFunction, client: requests.Session, uploaded_bundle: str
) -> None:
    with start_function(BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}", BUNDLE_SHA256="1" * 64) as (
        url,
        _,
    ):
        response = client.post(url, data=image_file(), headers={"Content-Type": "image/jpeg"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "bundle_error")
        assert f"sha256 {uploaded_bundle}, but {'1' * 64} was expected" in response.text
        assert client.get(f"{url}/healthz").status_code == 503


def test_a_bundle_that_comes_late_is_loaded_when_it_is_there(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, bundle: Path
) -> None:
    sha256 = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    with start_function(BUNDLE_URI="gs://posters-bucket/late", BUNDLE_SHA256=sha256) as (url, _):
        missing = client.get(f"{url}/healthz")
        assert (missing.status_code, missing.json()["error"]["code"]) == (503, "bundle_error")
        assert "no manifest.json" in missing.text
        for path in bundle.iterdir():
            bucket.blob(f"late/{path.name}").upload_from_filename(str(path))
        assert client.get(f"{url}/healthz").status_code == 200


def test_without_its_settings_it_says_which_is_missing(start_function: StartFunction, client: requests.Session) -> None:
    with start_function(BUNDLE_URI="", BUNDLE_SHA256="") as (url, _):
        response = client.get(f"{url}/healthz")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "bundle_error")
        assert "BUNDLE_URI has to be set" in response.text
