"""The bucket: where catalogues, posters, datasets and bundles live.

One code for Google Cloud Storage and for a local emulator (STORAGE_EMULATOR_HOST). Objects are named by
the hash of what they hold and a manifest is written last, so nothing here leans on preconditions.
"""

from collections.abc import Mapping
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from google.cloud.storage.retry import DEFAULT_RETRY

from infra.google import google_errors
from infra.settings import Settings

_WORKERS = 8


class Store:
    """The bucket of the settings, reached by object key (`datasets/4f.../manifest.json`)."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.bucket
        self._timeout = settings.service_timeout_seconds
        self._retry = DEFAULT_RETRY.with_timeout(self._timeout)
        with google_errors("Opening the bucket"):
            emulator = settings.storage_emulator_host
            client = storage.Client(
                project=settings.google_project,
                credentials=AnonymousCredentials() if emulator else None,
                client_options={"api_endpoint": emulator} if emulator else None,
            )
        self._bucket = client.bucket(self.name)

    def uri(self, key: str) -> str:
        """The gs:// address of a key."""
        return f"gs://{self.name}/{key}"

    def exists(self, key: str) -> bool:
        """Whether there is an object of this name."""
        with google_errors(f"Looking for {self.uri(key)}"):
            return bool(self._bucket.blob(key).exists(timeout=self._timeout, retry=self._retry))

    def keys(self, prefix: str) -> list[str]:
        """The names of all objects that begin so."""
        with google_errors(f"Listing {self.uri(prefix)}"):
            blobs = self._bucket.list_blobs(prefix=prefix, timeout=self._timeout, retry=self._retry)
            return [str(blob.name) for blob in blobs]

    def read(self, key: str) -> bytes:
        """An object's content.

        Raises:
            NotFound: no such object.
            ServiceUnavailable: the store does not answer.
        """
        with google_errors(f"Reading {self.uri(key)}"):
            data: bytes = self._bucket.blob(key).download_as_bytes(timeout=self._timeout, retry=self._retry)
            return data

    def write(self, key: str, data: bytes) -> None:
        """Put an object; its name says what it holds, so writing it twice is harmless."""
        with google_errors(f"Writing {self.uri(key)}"):
            self._bucket.blob(key).upload_from_string(
                data,
                content_type="application/octet-stream",
                checksum="crc32c",
                timeout=self._timeout,
                retry=self._retry,
            )

    def upload(self, files: Mapping[str, Path]) -> None:
        """Put many files, by key, several at a time."""
        with google_errors(f"Uploading to {self.uri('')}"):
            transfer_manager.upload_many(
                [(str(path), self._bucket.blob(key)) for key, path in files.items()],
                upload_kwargs={"checksum": "crc32c", "timeout": self._timeout, "retry": self._retry},
                worker_type=transfer_manager.THREAD,
                max_workers=_WORKERS,
                raise_exception=True,
            )

    def download(self, files: Mapping[str, Path]) -> None:
        """Fetch many objects, by key, several at a time; each is written beside its place and moved in."""
        beside = {key: path.with_name(f".{path.name}.part") for key, path in files.items()}
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with google_errors(f"Downloading from {self.uri('')}"):
                transfer_manager.download_many(
                    [(self._bucket.blob(key), str(path)) for key, path in beside.items()],
                    download_kwargs={"timeout": self._timeout, "retry": self._retry},
                    worker_type=transfer_manager.THREAD,
                    max_workers=_WORKERS,
                    raise_exception=True,
                )
            for key, path in files.items():
                beside[key].replace(path)
        finally:
            for path in beside.values():
                path.unlink(missing_ok=True)

    def fetch(self, key: str, path: Path) -> Path:
        """A local copy of an object; what is already there is taken as it is (names are hashes)."""
        if not path.exists():
            self.download({key: path})
        return path
