"""The bundle that the environment names, fetched from its bucket, checked, and kept.

BUNDLE_URI      gs://BUCKET/bundles/SHA256, where the model is
BUNDLE_SHA256   the sha256 that the bundle's manifest.json must have
MODEL_VERSION   the version in the model registry, said with every answer
DATASET_DATE    the day its catalogue was read, said with every answer
"""

import json
import os
import threading
from contextlib import suppress
from typing import Any

import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Bucket, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from ..bundle.errors import AnimeGenreError, BundleError, RequestError
from ..bundle.model import CARD, FIGURES, Model, check_sha256

STORAGE_TIMEOUT_SECONDS = 20.0
UNREACHABLE = (
    google_exceptions.GoogleAPIError,
    DataCorruption,
    auth_exceptions.GoogleAuthError,
    requests.RequestException,
    OSError,
)
"""What the storage client raises where the bucket does not answer."""


class Bundle:
    """The bundle of the environment, loaded by the first request that needs it.

    A load that failed is tried again by the next request: the bucket may answer by then.
    """

    def __init__(self) -> None:
        self._loading, self._reading = threading.Lock(), threading.Lock()
        self._bucket: Bucket | None = None
        self._model: Model | None = None
        self._about: dict[str, Any] | None = None

    def load_in_background(self) -> None:
        """Begin to load the model before it is asked for; what fails is told to whoever asks."""

        def load() -> None:
            with suppress(AnimeGenreError):
                self.model()

        threading.Thread(target=load, name="loading the model", daemon=True).start()

    def bucket(self) -> Bucket:
        """The bundle's bucket."""
        if self._bucket is None:  # two at once make two clients, of which one is kept
            self._bucket = _client().bucket(_address()[0])
        return self._bucket

    def model(self) -> Model:
        """The checked model. Raises BundleError where the bundle is incomplete or not what it should be, and
        RequestError (503) where the bucket does not answer."""
        if self._model is None:
            with self._loading:
                if self._model is None:
                    self._model = _load(self.bucket(), _address()[1])
        return self._model

    def about(self) -> dict[str, Any]:
        """The card and the figures of the model, None where its bundle has none; raises as `model`."""
        model = self.model()
        if self._about is None:
            with self._reading:  # not the lock of those who ask for genres
                if self._about is None:
                    self._about = _about(self.bucket(), _address()[1], model)
        return self._about


def identity(model: Model) -> dict[str, Any]:
    """Which model answers, and whether it can show where it looked."""
    return {
        "version": os.environ.get("MODEL_VERSION"),
        "sha256": model.sha256,
        "dataset_date": os.environ.get("DATASET_DATE"),
        "precision": model.manifest.served.precision,
        "explains": model.manifest.explains,
    }


def download(bucket: Bucket, name: str, end: int | None = None) -> bytes:
    """An object's bytes, up to and with byte `end`."""
    data: bytes = bucket.blob(name).download_as_bytes(
        end=end, timeout=STORAGE_TIMEOUT_SECONDS, retry=DEFAULT_RETRY.with_timeout(STORAGE_TIMEOUT_SECONDS)
    )
    return data


def _client() -> Client:
    """Google's own client; against an emulator it needs no identity."""
    if "STORAGE_EMULATOR_HOST" in os.environ:
        return Client(project="local", credentials=AnonymousCredentials())
    try:
        return Client()
    except auth_exceptions.GoogleAuthError as error:
        raise RequestError(503, "storage_unavailable", "The function has no access to its bucket.") from error


def _address() -> tuple[str, str]:
    """Bucket and folder of BUNDLE_URI."""
    scheme, _, address = os.environ.get("BUNDLE_URI", "").partition("://")
    bucket, _, folder = address.partition("/")
    if scheme != "gs" or not bucket or not folder:
        raise BundleError("BUNDLE_URI has to be set to gs://BUCKET/FOLDER of a bundle.")
    return bucket, folder.rstrip("/")


def _load(bucket: Bucket, folder: str) -> Model:
    expected = os.environ.get("BUNDLE_SHA256")
    if not expected:
        raise BundleError("BUNDLE_SHA256 has to be set to the sha256 of the bundle's manifest.json.")
    return Model.read(lambda name: _file(bucket, folder, name), expected)


def _about(bucket: Bucket, folder: str, model: Model) -> dict[str, Any]:
    about: dict[str, Any] = {"card": None, "figures": None}
    with suppress(BundleError):  # prose, which bundles may lack
        about["card"] = _file(bucket, folder, CARD).decode(errors="replace")
    if FIGURES in model.manifest.files:
        figures = _file(bucket, folder, FIGURES)
        check_sha256(FIGURES, figures, model.manifest.files[FIGURES])
        about["figures"] = json.loads(figures)
    return about


def _file(bucket: Bucket, folder: str, name: str) -> bytes:
    try:
        return download(bucket, f"{folder}/{name}")
    except google_exceptions.NotFound as error:
        raise BundleError(f"The bundle has no {name} in the bucket.") from error
    except UNREACHABLE as error:
        raise RequestError(503, "storage_unavailable", "The model's bucket does not answer.") from error
