"""The storage emulator keeps its objects: after a kill, and from the file of an earlier version."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.storage import Storage
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Bucket, Client

from infra.local.processes import Processes, free_port

pytestmark = pytest.mark.stack


@contextmanager
def emulator(folder: Path) -> Iterator[tuple[Bucket, psutil.Process]]:
    """The bucket of a new emulator process in this folder, and its process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "infra.local.storage", "--port", str(port)]
    with Processes(folder / "logs") as processes:
        processes.start("Storage", [*command, "--folder", str(folder), "--bucket", "b"], {}, f"{url}/storage/v1/b")
        processes.wait_ready()
        client = Client(project="t", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
        (process,) = [each for each in psutil.Process().children() if str(port) in each.cmdline()]
        yield client.bucket("b"), process


def contents(bucket: Bucket) -> dict[str, bytes]:
    # By name: the emulator's lists give the addresses that objects had when they were written.
    return {blob.name: bucket.blob(blob.name).download_as_bytes() for blob in bucket.list_blobs()}


def test_storage_keeps_each_change_if_it_is_killed(tmp_path: Path) -> None:
    with emulator(tmp_path) as (bucket, process):
        for name in ("kept", "replaced", "deleted"):
            bucket.blob(f"folder/{name}").upload_from_string(b"first")
        bucket.blob("folder/replaced").upload_from_string(b"second")
        bucket.blob("folder/deleted").delete()
        expected = {"folder/kept": b"first", "folder/replaced": b"second"}
        assert contents(bucket) == expected
        process.kill()
    with emulator(tmp_path) as (bucket, _):
        assert contents(bucket) == expected
        assert [path.name for path in tmp_path.rglob("*deleted*")] == [], "what is deleted takes no space"


def test_storage_reads_the_objects_of_an_earlier_version(tmp_path: Path) -> None:
    earlier = Storage(data_dir=str(tmp_path))
    earlier.create_bucket("b", {"kind": "storage#bucket", "name": "b"})
    resource = _make_object_resource("http://127.0.0.1", "b", "posters/5.jpg", "image/jpeg", "4")
    assert _checksums(b"JPEG", resource)
    earlier.create_file("b", "posters/5.jpg", b"JPEG", resource)
    for _ in range(2):  # the first start converts the file
        with emulator(tmp_path) as (bucket, _):
            assert [(blob.name, blob.content_type) for blob in bucket.list_blobs()] == [("posters/5.jpg", "image/jpeg")]
            assert bucket.blob("posters/5.jpg").download_as_bytes() == b"JPEG"
