"""The bucket with catalogues, posters, datasets and bundles.

The same code works with Google Cloud Storage and with a local emulator (STORAGE_EMULATOR_HOST).
"""

import base64
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import google_crc32c
from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed
from google.api_core.exceptions import NotFound as NoSuchObject
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import Session

from infra.disk import is_full
from infra.errors import ConfigurationError, NotFound, OutdatedError, failure
from infra.google import STORAGE_ENVIRONMENT, google_errors, reason_of
from infra.settings import MAIN_COLLECTION, Settings, check_google, read_settings
from serving.bundle.errors import AnimeGenreError
from serving.bundle.files import atomic_write

logger = logging.getLogger("infra")
Content = TypeVar("Content")

os.environ.update(STORAGE_ENVIRONMENT)

_WORKERS = 8
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class Listed:
    """An object in a listing: its checksum as of `crc32c_of_file`, its size, and when it was written."""

    crc32c: str
    size_bytes: int
    written: datetime


class Store:
    """The bucket of the settings. Objects are addressed by key, such as `datasets/4f.../manifest.json`.

    Other machines may use the bucket at the same time. So an object that `read_parsed` has read or a listing has found
    is replaced only if it is still the same one.

    Raises:
        OutdatedError: another run has replaced an object since it was read; a retry reads it again.
        ServiceUnavailable: the bucket is unreachable or overloaded after retries; a later retry may help.
        ConfigurationError: credentials or a permission are missing, or the storage service refuses a request.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = settings.bucket
        self._prefix = settings.prefix
        self._timeout = settings.service_timeout_seconds
        # The local emulator fails if the workspace's disk is full. A retry would not help then.
        self._retry = DEFAULT_RETRY.with_timeout(self._timeout).with_predicate(
            lambda error: DEFAULT_RETRY._predicate(error) and not is_full(settings.workspace)
        )
        emulator = settings.storage_emulator_host
        if not emulator:
            check_google(settings)
        with _storage_errors("Opening the bucket"):
            self._client = storage.Client(
                project=settings.google_project,
                credentials=AnonymousCredentials() if emulator else None,
                client_options={"api_endpoint": emulator} if emulator else None,
            )
        _read_environment_once(self._client._http, self._client.api_endpoint)
        self._bucket = self._client.bucket(self.name)
        self._generations: dict[str, int] = {}  # of objects that were read or listed, by address; 0: there was none

    def uri(self, key: str) -> str:
        """The gs:// address of a key."""
        return f"gs://{self.name}/{self.object_name(key)}"

    def object_name(self, key: str) -> str:
        """The name of a key's object in the bucket: the key after the collection's prefix."""
        return self._prefix + key

    def whole_bucket(self) -> Self:
        """The same bucket, with object names as keys: for what all collections share."""
        store = copy(self)
        store._prefix = ""
        return store

    def of_bucket(self, name: str) -> Self:
        """Another bucket, with object names as keys."""
        store = self.whole_bucket()
        store.name, store._bucket = name, self._client.bucket(name)
        return store

    def collections(self) -> list[Settings]:
        """The settings of all collections of the bucket."""
        names = sorted({key.split("/")[1] for key in self.whole_bucket().keys("collections/")})
        return [read_settings(name) for name in (MAIN_COLLECTION, *names)]

    def _blob(self, key: str) -> storage.Blob:
        return self._bucket.blob(self.object_name(key))

    def exists(self, key: str) -> bool:
        """Whether the object exists."""
        with _storage_errors(f"Looking for {self.uri(key)}"):
            return bool(self._blob(key).exists(timeout=self._timeout, retry=self._retry))

    def keys(self, prefix: str) -> list[str]:
        """The keys of all objects that begin with `prefix`."""
        return list(self.checksums(prefix))

    def checksums(self, prefix: str) -> dict[str, str]:
        """The checksums of all objects that begin with `prefix`, by key, in the form of `crc32c_of_file`."""
        return {key: listed.crc32c for key, listed in self.listing(prefix).items()}

    def listing(self, prefix: str) -> dict[str, Listed]:
        """What a listing says about all objects that begin with `prefix`, by key."""
        with _storage_errors(f"Listing {self.uri(prefix)}"):
            blobs = self._bucket.list_blobs(prefix=self.object_name(prefix), timeout=self._timeout, retry=self._retry)
            found: dict[str, Listed] = {}
            for seen in [uri for uri in self._generations if uri.startswith(self.uri(prefix))]:
                del self._generations[seen]  # it may have been deleted
            for blob in blobs:
                key = str(blob.name).removeprefix(self._prefix)
                found[key] = Listed(str(blob.crc32c), int(blob.size), blob.updated)
                self._generations[self.uri(key)] = int(blob.generation)
            return found

    def read(self, key: str) -> bytes:
        """Return an object's content.

        Raises:
            NotFound: the object does not exist.
        """
        with _storage_errors(f"Reading {self.uri(key)}"):
            data: bytes = self._blob(key).download_as_bytes(timeout=self._timeout, retry=self._retry)
            return data

    def read_parsed(self, key: str, parse: Callable[[bytes], Content]) -> Content | None:
        """Return an object's parsed content; None if the object does not exist, or is damaged, which is logged.

        `parse` raises an error of this project, ValueError, KeyError or TypeError if the content is damaged.
        """
        content = self._read_generation(key)
        if content is None:
            return None
        try:
            return parse(content)
        except (AnimeGenreError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and is not used: %s", self.uri(key), str(error).partition("\n")[0])
            return None

    def _read_generation(self, key: str) -> bytes | None:
        """An object's content, None if it does not exist. Notes which generation of the object this is."""
        blob = self._blob(key)
        with _storage_errors(f"Reading {self.uri(key)}"):
            try:
                blob.reload(timeout=self._timeout, retry=self._retry)
                generation = int(blob.generation)
                # Not from `blob`: it now has the address that the emulator had when the object was written.
                content: bytes = self._blob(key).download_as_bytes(
                    if_generation_match=generation, timeout=self._timeout, retry=self._retry
                )
            except NoSuchObject:
                self._generations[self.uri(key)] = 0
                return None
            except PreconditionFailed as error:
                raise _outdated(self.uri(key)) from error
        self._generations[self.uri(key)] = generation
        return content

    def read_address(self, address: str) -> bytes:
        """Return the content of the object at a gs:// address, in any bucket. Raises as `read`."""
        bucket, _, name = address.removeprefix("gs://").partition("/")
        return self.of_bucket(bucket).read(name)

    def write(self, key: str, data: bytes) -> None:
        """Write an object. Retries are safe, because they write the same bytes."""

        def send(blob: storage.Blob, **options: Any) -> None:
            blob.upload_from_string(data, content_type="application/octet-stream", **options)

        self._send(f"Writing {self.uri(key)}", key, send, lambda: crc32c_of(data))

    def _send(self, doing: str, key: str, send: Callable[..., None], checksum: Callable[[], str]) -> None:
        """Write an object with `send`, under the condition that it is the one that was read."""
        blob, known = self._blob(key), self._generations.get(self.uri(key))
        with _storage_errors(doing):
            try:
                send(blob, if_generation_match=known, checksum="crc32c", timeout=self._timeout, retry=self._retry)
            except PreconditionFailed as error:
                # After a lost response, the object that does not match may be the one that was just written.
                with suppress(NoSuchObject):
                    blob.reload(timeout=self._timeout, retry=self._retry)
                if blob.crc32c != checksum():
                    raise _outdated(self.uri(key)) from error
        if known is not None:
            self._generations[self.uri(key)] = int(blob.generation)

    def delete(self, key: str) -> None:
        """Delete an object. Nothing happens if it does not exist."""
        generation = self._generations.get(self.uri(key)) or None
        with _storage_errors(f"Deleting {self.uri(key)}"):
            try:
                self._blob(key).delete(if_generation_match=generation, timeout=self._timeout, retry=self._retry)
            except NoSuchObject:
                pass
            except PreconditionFailed as error:
                raise _outdated(self.uri(key)) from error
        if generation:
            self._generations[self.uri(key)] = 0

    def upload(self, files: Mapping[str, Path]) -> None:
        """Upload files, given by key, in parallel."""
        if missing := self._transfer("Uploaded", self._upload, files):
            raise missing[0]  # there is no such bucket

    def download(self, files: Mapping[str, Path]) -> None:
        """Download objects in parallel to the given paths. Each file appears as soon as it is complete, and stays.

        After an error, a retry needs to download only the files that are not there. A missing object does not stop the
        other downloads; any other error does.

        Raises:
            NotFound: objects do not exist; the message names one of them.
        """
        missing = self._transfer("Downloaded", self._download, files)
        if len(missing) > 1:
            raise NotFound(f"{len(missing)} of {len(files)} objects are missing. {missing[0].message}") from missing[0]
        if missing:
            raise missing[0]

    def _transfer(self, done: str, transfer: Callable[[str, Path], None], files: Mapping[str, Path]) -> list[NotFound]:
        """Copy files in parallel and return the errors of missing objects. Slow transfers log their progress."""
        missing: list[NotFound] = []
        logged = time.monotonic()
        with ThreadPoolExecutor(_WORKERS) as pool:
            transfers = [pool.submit(transfer, key, path) for key, path in files.items()]
            try:
                for number, ended in enumerate(as_completed(transfers), 1):
                    try:
                        ended.result()
                    except NotFound as error:
                        missing.append(error)
                    if time.monotonic() - logged > _LOG_SECONDS:
                        logged = time.monotonic()
                        logger.info("%s: %d of %d files, bucket %s", done, number, len(files), self.name)
            finally:
                pool.shutdown(cancel_futures=True)
        return missing

    def _upload(self, key: str, path: Path) -> None:
        def send(blob: storage.Blob, **options: Any) -> None:
            blob.upload_from_filename(str(path), **options)

        self._send(f"Uploading {self.uri(key)}", key, send, lambda: crc32c_of_file(path))

    def _download(self, key: str, path: Path) -> None:
        with _storage_errors(f"Downloading {self.uri(key)}"), atomic_write(path, durable=False) as temporary:
            self._blob(key).download_to_filename(str(temporary), timeout=self._timeout, retry=self._retry)

    def fetch(self, key: str, path: Path) -> Path:
        """Download an object and return `path`. A file that is there and has the object's content is kept.

        A file with other content is damaged, because the keys that are fetched identify the content. If the object
        does not exist, the file is kept.

        Raises:
            NotFound: neither the object nor the file exists.
        """
        if path.exists():
            blob = self._blob(key)
            try:
                with _storage_errors(f"Reading the checksum of {self.uri(key)}"):
                    blob.reload(timeout=self._timeout, retry=self._retry)
            except NotFound:
                return path
            if blob.crc32c == crc32c_of_file(path):
                return path
            logger.warning("The file %s is damaged and is downloaded again from %s.", path, self.uri(key))
        self.download({key: path})
        return path


def _read_environment_once(session: Session, address: str) -> None:
    """Give a session the proxies and certificates of the environment for an address.

    Otherwise it looks for them at each request, which takes a sixth of the CPU time of downloading a poster.
    """
    found = session.merge_environment_settings(address, {}, None, None, None)
    session.proxies, session.verify = found["proxies"], found["verify"]
    session.trust_env = False


@contextmanager
def _storage_errors(doing: str) -> Iterator[None]:
    """Like `google_errors`; other refusals, such as that of an invalid name, become ConfigurationError."""
    try:
        with google_errors(doing):
            yield
    except GoogleAPICallError as error:
        raise failure(ConfigurationError, f"{doing} is refused", reason_of(error)) from error


def _outdated(uri: str) -> OutdatedError:
    return OutdatedError(f"Another run has replaced {uri} since it was read. Try again.")


def crc32c_of(data: bytes) -> str:
    """The checksum of an object's content, in the form of the storage service: base64 of the big-endian CRC-32C."""
    return _base64_digest([data])


def crc32c_of_file(path: Path) -> str:
    """The checksum of a file, in the same form."""
    with path.open("rb") as file:
        return _base64_digest(iter(lambda: file.read(1 << 20), b""))


def _base64_digest(chunks: Iterable[bytes]) -> str:
    checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    for chunk in chunks:
        checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()
