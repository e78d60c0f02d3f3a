"""A storage emulator of its own for the tests of clients."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.processes import Processes, free_port
from infra.settings import Settings

BUCKET = "test-bucket"


@pytest.fixture(scope="session")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a storage emulator with one empty bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("storage")
    command = [sys.executable, "-m", "infra.local.storage", "--port", str(port)]
    command += ["--folder", str(folder / "data"), "--bucket", BUCKET]
    with Processes(folder) as processes:
        processes.start("Storage", command, {}, f"{url}/storage/v1/b")
        processes.wait_ready()
        yield url


@pytest.fixture
def settings(storage_url: str, tmp_path: Path) -> Settings:
    """Settings that lead to the emulator, with a workspace of the test's own."""
    return Settings(workspace=tmp_path, bucket=BUCKET, storage_emulator_host=storage_url, service_timeout_seconds=1)
