"""Downloads the model bundle from its bucket, checks it and keeps it. Environment variables name it:

BUNDLE_URI      address of the bundle, gs://BUCKET/bundles/SHA256
BUNDLE_SHA256   sha256 of the bundle's manifest.json
MODEL_VERSION   version in the model registry, part of every response
DATASET_DATE    day on which the catalogue was read, part of every response
COLLECTION      the catalogue whose posters the model was trained on, part of every response
"""

import json
import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

import requests
from google.api_core import exceptions as google_exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Bucket, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from ..bundle.errors import BundleError
from ..bundle.model import CARD, FIGURES, Model, check_sha256
from .errors import RequestError
from .response_types import ModelIdentity, ModelResponse
from .shared_load import SharedLoad

STORAGE_TIMEOUT_SECONDS = 20.0
DEPLOYMENT_KEPT_SECONDS = 30.0
_UNREACHABLE = "The model's bucket is unreachable; try again in a minute."
STORAGE_ERRORS = (
    google_exceptions.GoogleAPIError,
    DataCorruption,
    auth_exceptions.GoogleAuthError,
    requests.RequestException,
    OSError,
)
"""The exceptions of the storage client if the bucket is unreachable."""


class Bundle:
    """The bundle that the environment names. Concurrent requests share one load and its outcome; see `SharedLoad`."""

    def __init__(self) -> None:
        self._bucket: Bucket | None = None
        self._model = SharedLoad(lambda: _load(self.bucket(), _address()[1]))
        self._description = SharedLoad(lambda: _description(self.bucket(), _address()[1], self.model()))
        # Traffic that returns to this bundle changes the record, while this instance may keep running.
        self._deployment = SharedLoad(lambda: _deployment(self.bucket(), _address()[1]), DEPLOYMENT_KEPT_SECONDS)

    def load_in_background(self) -> None:
        """Start to load the model before the first request. The next request reports an error, if there is one."""
        self._model.start()

    def bucket(self) -> Bucket:
        """The bundle's bucket."""
        if self._bucket is None:  # two threads may each make a client; one is kept
            self._bucket = _client().bucket(_address()[0])
        return self._bucket

    def model(self) -> Model:
        """The checked model. Waits until it is loaded.

        Raises:
            RequestError: (503) the bundle is incomplete or does not match its hashes, or the bucket is unreachable.
        """
        return self._model.get()

    def model_if_loaded(self) -> Model:
        """Like `model`, but does not wait: raises RequestError (503) while the model is being loaded."""
        return self._model.get_if_loaded()

    def description(self) -> ModelResponse:
        """The model's card, figures and deployment. Raises the errors of `model`."""
        return replace(self._description.get(), deployment=self._deployment.get())


def model_identity(model: Model) -> ModelIdentity:
    """The part of a response that identifies the model."""
    return ModelIdentity(
        version=os.environ.get("MODEL_VERSION"),
        sha256=model.sha256,
        dataset_date=os.environ.get("DATASET_DATE"),
        precision=model.manifest.served.precision,
        explains=model.manifest.explains,
        collection=os.environ.get("COLLECTION"),
    )


def download(bucket: Bucket, name: str, end: int | None = None) -> bytes:
    """An object's bytes, up to and including byte `end`."""
    data: bytes = bucket.blob(name).download_as_bytes(
        end=end, timeout=STORAGE_TIMEOUT_SECONDS, retry=DEFAULT_RETRY.with_timeout(STORAGE_TIMEOUT_SECONDS)
    )
    return data


def _client() -> Client:
    """Google's client, without credentials if a storage emulator is used."""
    if "STORAGE_EMULATOR_HOST" in os.environ:
        return Client(project="local", credentials=AnonymousCredentials())
    try:
        return Client()
    except auth_exceptions.GoogleAuthError as error:
        message = "The function has no credentials for its bucket; give it a service account."
        raise RequestError(503, "storage_unavailable", message) from error


def _address() -> tuple[str, str]:
    """Bucket and folder of BUNDLE_URI."""
    scheme, _, address = os.environ.get("BUNDLE_URI", "").partition("://")
    bucket, _, folder = address.partition("/")
    if scheme != "gs" or not bucket or not folder:
        raise BundleError(
            "This function has no model: BUNDLE_URI must be set to the address of a bundle, gs://BUCKET/FOLDER. "
            "The command anime-genre retrain trains a model and deploys a function with it."
        )
    return bucket, folder.rstrip("/")


def _load(bucket: Bucket, folder: str) -> Model:
    expected = os.environ.get("BUNDLE_SHA256")
    if not expected:
        raise BundleError("BUNDLE_SHA256 must be set to the sha256 of the bundle's manifest.json.")
    return Model.read(lambda name: _file(bucket, folder, name), expected)


def _description(bucket: Bucket, folder: str, model: Model) -> ModelResponse:
    card, figures = None, None
    with suppress(BundleError):  # a bundle may have no card
        card = _file(bucket, folder, CARD).decode(errors="replace")
    if FIGURES in model.manifest.files:
        data = _file(bucket, folder, FIGURES)
        check_sha256(FIGURES, data, model.manifest.files[FIGURES])
        figures = json.loads(data)
    return ModelResponse(model_identity(model), card, figures)


def _deployment(bucket: Bucket, folder: str) -> dict[str, Any] | None:
    """The record that the pipeline wrote when it sent the traffic to this bundle; None if there is none.

    It is in deployments/, next to the folder bundles/ of the bundle. It has no sha256, because it is written later.
    """
    above, _, sha256 = folder.rpartition("bundles/")
    try:
        record = json.loads(download(bucket, f"{above}deployments/{sha256}.json"))
    except (google_exceptions.NotFound, ValueError):
        return None
    except STORAGE_ERRORS as error:
        raise _storage_error(error, bucket) from error
    return record if isinstance(record, dict) else None


def _storage_error(error: Exception, bucket: Bucket) -> RequestError:
    """The error for an exception of the storage client. Without the right to read, a retry does not help."""
    if isinstance(error, google_exceptions.Forbidden):
        role = "give it the role roles/storage.objectViewer"
        message = f"The function's service account may not read the bucket {bucket.name}; {role}."
        return RequestError(503, "storage_forbidden", message)
    return RequestError(503, "storage_unavailable", _UNREACHABLE)


def _file(bucket: Bucket, folder: str, name: str) -> bytes:
    try:
        return download(bucket, f"{folder}/{name}")
    except google_exceptions.NotFound as error:
        raise BundleError(f"The bundle has no {name} in the bucket.") from error
    except STORAGE_ERRORS as error:
        raise _storage_error(error, bucket) from error
