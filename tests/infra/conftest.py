"""Settings that lead the tests of clients to a storage emulator."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.storage import storage_emulator

BUCKET = "test-bucket"


@pytest.fixture(scope="session")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a storage emulator with one empty bucket."""
    with storage_emulator(tmp_path_factory.mktemp("storage"), BUCKET) as url:
        yield url


@pytest.fixture
def settings(storage_url: str, tmp_path: Path) -> Settings:
    """Settings that lead to the emulator, with a workspace of the test's own."""
    return Settings(workspace=tmp_path, bucket=BUCKET, storage_emulator_host=storage_url, service_timeout_seconds=1)
