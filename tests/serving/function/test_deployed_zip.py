"""The function runs from its zip alone: the checkout is neither needed nor able to shadow it."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import requests

import serving
from infra.source_zip import source_zip
from tests import stored_formats
from tests.pictures import image_file
from tests.serving.conftest import StartFunction

pytestmark = pytest.mark.stack
SERVING = Path(serving.__file__).parent
JPEG = {"Content-Type": "image/jpeg"}


def test_zip_imports_nothing_of_the_project(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(source_zip(SERVING))) as archive:
        archive.extractall(tmp_path)
    project = {"serving", "infra", "ml", "tasks", "flows", "torch", "prefect", "mlflow", "pydantic"}
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


def test_changed_zip_shows_its_own_behaviour_beside_the_checkout(
    start_function: StartFunction, client: requests.Session, uploaded_bundle: str
) -> None:
    changed = io.BytesIO()
    sentence = b"Predicts the genres of an anime from its poster."
    with zipfile.ZipFile(io.BytesIO(source_zip(SERVING))) as today, zipfile.ZipFile(changed, "w") as copy:
        assert sentence in today.read("anime_genre_function/function/main.py")
        for name in today.namelist():
            copy.writestr(name, today.read(name).replace(sentence, b"This is the deployed source."))
    with start_function(changed.getvalue(), **environment_of(uploaded_bundle)) as (url, _):
        assert client.get(url).json()["what"] == "This is the deployed source."
        assert client.post(url, data=image_file(), headers=JPEG).ok


def test_older_zip_shows_its_old_behaviour_beside_the_checkout(
    start_function: StartFunction, client: requests.Session, uploaded_bundle: str, url: str
) -> None:
    """The zip was built in November 2026, when its package had another name."""
    (older,) = (data for name, data in stored_formats.read().items() if "/functions/" in name)
    with start_function(older, **environment_of(uploaded_bundle)) as (older_url, _):
        assert client.get(older_url).json()["what"] == "Names the genres of an anime from its poster."
        predicted = [client.post(each, data=image_file(), headers=JPEG).json()["genres"] for each in (older_url, url)]
    assert predicted[0] == predicted[1]


def environment_of(bundle_sha256: str) -> dict[str, str]:
    """The environment variables of a function with this bundle."""
    return {"BUNDLE_URI": f"gs://posters-bucket/bundles/{bundle_sha256}", "BUNDLE_SHA256": bundle_sha256}
