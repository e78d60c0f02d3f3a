"""The function answers as PyTorch does about the same posters, whatever kind of picture they are."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import requests
from google.cloud.storage import Bucket

from tests.parity import TOLERANCE, answers_differ, random_bundle

StartFunction = Callable[..., AbstractContextManager[tuple[str, Path]]]


def test_the_function_answers_as_pytorch_does_about_pictures_of_all_kinds(
    start_function: StartFunction, bucket: Bucket, tmp_path: Path
) -> None:
    network, genres = random_bundle(tmp_path / "bundle")
    sha256 = hashlib.sha256((tmp_path / "bundle" / "manifest.json").read_bytes()).hexdigest()
    for file in (tmp_path / "bundle").iterdir():
        bucket.blob(f"parity/{file.name}").upload_from_filename(str(file))
    running = start_function(BUNDLE_URI="gs://posters-bucket/parity", BUNDLE_SHA256=sha256)
    with running as (url, _), requests.Session() as session:
        session.headers["Connection"] = "close"
        differences = answers_differ(url, session, network, genres)
    assert len(differences) == 21
    assert max(differences.values()) <= TOLERANCE, differences
