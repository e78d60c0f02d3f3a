"""A storage emulator for tests, and its buckets."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from infra.local.processes import Processes, free_port
from infra.settings import Settings
from infra.store import Store


@contextmanager
def storage_emulator(folder: Path, bucket: str) -> Iterator[str]:
    """The address of a storage emulator with one empty bucket, kept in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "infra.local.storage", "--port", str(port)]
    command += ["--folder", str(folder / "data"), "--bucket", bucket]
    with Processes(folder) as processes:
        processes.start("Storage", command, {}, f"{url}/storage/v1/b")
        processes.wait_ready()
        yield url


def new_bucket(url: str, workspace: Path) -> Store:
    """A new bucket of the emulator, named after the workspace."""
    name = workspace.name.replace("_", "-")[:60].lower()
    client = storage.Client(project="tests", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    client.create_bucket(name)
    return Store(Settings(workspace=workspace, bucket=name, storage_emulator_host=url, service_timeout_seconds=5))


@contextmanager
def bucket_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A new bucket of an emulator of its own, kept in `folder`, which the settings of the environment name."""
    with storage_emulator(folder, "shared") as url:
        store = new_bucket(url, folder)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("ANIME_GENRE_BUCKET", store.name)
        yield store


def damage(store: Store, key: str, how: Callable[[Path], None]) -> None:
    """Replace an object of the bucket by a damaged one (see `tests.damage`), as another tool may do."""
    store = _of_another_tool(store)
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(store.read(key))
        how(path)
        store.write(key, path.read_bytes())


def delete(store: Store, key: str) -> None:
    """Delete an object of the bucket, as a person or another tool may do."""
    _of_another_tool(store)._blob(key).delete()


def _of_another_tool(store: Store) -> Store:
    """The same bucket, without what the store has noted about its objects."""
    other = copy(store)
    other._generations = {}
    return other
