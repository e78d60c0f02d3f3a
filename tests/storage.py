"""A storage emulator of the tests' own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local.processes import Processes, free_port


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
