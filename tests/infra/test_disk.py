"""Full disks: a real small file system where the system allows one, and a real limit of file sizes."""

import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import pytest

from infra import disk
from infra.disk import disk_errors, disk_full
from infra.errors import DiskFull, NotFound, ServiceUnavailable, StackError
from infra.registry import Registry
from infra.settings import Settings
from infra.store import Store
from tests.faults import Fault, fault_proxy
from tests.messages import project_messages
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack

SENTENCE = r"The disk of {} is full: it has \d+ MB left, and a run needs 500 MB\. Free \d+ MB and start again; .*\."


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a full file system of 4 MB. Without the right to mount one, any disk counts as full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if mounted.returncode:
        monkeypatch.setattr(disk, "RESERVED_BYTES", 10**18)
        monkeypatch.setattr(disk, "MIN_FREE_BYTES", 10**18)
        yield folder
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_failed_write_to_a_full_disk_names_disk_and_megabytes(full_disk: Path) -> None:
    with pytest.raises(DiskFull, match=SENTENCE.format(full_disk)) as raised, disk_errors(full_disk):
        (full_disk / "file").write_bytes(bytes(5_000_000))
        raise OSError(28, "No space left on device")  # where only the size counts as full
    assert len(str(raised.value)) <= 300 and not raised.value.retryable


def test_database_on_a_full_disk_names_disk_and_megabytes(full_disk: Path) -> None:
    with pytest.raises(DiskFull, match=SENTENCE.format(full_disk)), disk_errors(full_disk):
        with closing(sqlite3.connect(full_disk / "ledger.sqlite")) as database:
            database.execute("create table pages (page)")
            database.execute("insert into pages values (?)", (bytes(5_000_000),))
        raise sqlite3.OperationalError("database or disk is full")


def test_thread_that_cannot_write_logs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"curves")

    with disk_errors(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert project_messages(caplog) == [
        "A thread ended, because it could not write: [Errno 28] No space left on device"
    ]


@pytest.mark.parametrize("service", ["mlflow", "storage"])
def test_service_that_fails_on_a_full_disk_is_not_retried(full_disk: Path, service: str) -> None:
    started = time.monotonic()
    with fault_proxy("http://127.0.0.1:9", Fault("", status=500)) as proxy:
        settings = Settings(
            workspace=full_disk, bucket="bucket", storage_emulator_host=proxy.url, mlflow_tracking_uri=proxy.url
        )
        with pytest.raises(DiskFull, match=SENTENCE.format(full_disk)), disk_errors(full_disk):
            if service == "mlflow":
                Registry(settings)
            else:
                Store(settings).write("key", b"content")
    mlflow.set_tracking_uri(None)
    assert time.monotonic() - started < 10


def test_emulator_on_a_full_disk_ends_in_the_sentence(full_disk: Path) -> None:
    with storage_emulator(full_disk, "bucket") as url:
        store = Store(Settings(workspace=full_disk, bucket="bucket", storage_emulator_host=url))
        with suppress(OSError), (full_disk / "filler").open("wb", buffering=0) as filler:
            for _ in range(5_000):
                filler.write(bytes(1_000))
        started = time.monotonic()
        for key in range(3):
            with pytest.raises(DiskFull, match=SENTENCE.format(full_disk)), disk_errors(full_disk):
                store.write(f"posters/{key}", bytes(1_000_000))
                raise ServiceUnavailable("503")  # where only the size counts as full
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("write", ["open(path, 'wb').write(bytes(2_000_000))", "insert()"])
def test_limit_of_file_sizes_names_file_and_megabytes(write: str, tmp_path: Path) -> None:
    """The limit holds for the whole process, so a process of its own writes."""
    code = f"""
import resource, sqlite3, sys
from pathlib import Path
from infra.disk import disk_errors
from infra.errors import DiskFull
path = sys.argv[1] + "/file"
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
def insert():
    database = sqlite3.connect(path)
    database.execute("create table pages (page)")
    database.execute("insert into pages values (?)", (bytes(2_000_000),))
    database.commit()
try:
    with disk_errors(Path(sys.argv[1])):
        {write}
except DiskFull as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert re.fullmatch(
        rf"{tmp_path}.* cannot be written \((File too large|disk I/O error)\), although its disk has space\. Raise the "
        r"quota or the limit of file sizes by 500 MB and start again; completed steps are skipped\.\n",
        ended.stdout,
    ), ended


def test_errors_that_a_full_disk_does_not_explain_stay(full_disk: Path, tmp_path: Path) -> None:
    assert disk_full(NotFound("There is no such object."), full_disk) is None
    assert isinstance(disk_full(StackError("MLflow exited with code 1."), full_disk), DiskFull)
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(13, "Permission denied")
