"""The function gives the same probabilities as PyTorch, for every kind of picture."""

from pathlib import Path

import pytest
import requests
from google.cloud.storage import Bucket

from tests.parity import TOLERANCE, largest_differences, random_bundle
from tests.serving.conftest import StartFunction, upload_bundle

pytestmark = [pytest.mark.stack, pytest.mark.train]


def test_function_agrees_with_pytorch_on_pictures_of_all_kinds(
    start_function: StartFunction, client: requests.Session, bucket: Bucket, tmp_path: Path
) -> None:
    network, genres = random_bundle(tmp_path / "bundle")
    with start_function(**upload_bundle(bucket, tmp_path / "bundle")) as (url, _):
        differences = largest_differences(url, client, network, genres)
    assert len(differences) == 21
    assert max(differences.values()) <= TOLERANCE, differences
