"""The bucket, with Google's client and a local emulator."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from google.api_core import exceptions as google_exceptions

from infra.errors import ConfigurationError, NotFound, OutdatedError, ServiceUnavailable
from infra.google import reason_of
from infra.settings import Settings
from infra.store import Store
from tests.damage import DAMAGES
from tests.faults import Fault, fault_proxy
from tests.infra.conftest import Serve
from tests.messages import project_messages

pytestmark = pytest.mark.stack


def test_store_reads_what_was_written(settings: Settings) -> None:
    store = Store(settings)
    assert not store.exists("a/b.json")
    store.write("a/b.json", b"content")
    assert store.exists("a/b.json")
    assert store.read("a/b.json") == b"content"
    assert store.uri("a/b.json") == "gs://test-bucket/a/b.json"


def test_store_uses_the_proxy_of_the_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.storage_emulator_host
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fault_proxy(settings.storage_emulator_host, Fault("/o/nothing", status=403)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(ConfigurationError):
            Store(settings).exists("nothing")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert not Store(settings).exists("nothing")
        assert proxy.faults[0].hits == 1


def _read(store: Store, key: str) -> None:
    store.read_parsed(key, bytes.decode)


def _list(store: Store, key: str) -> None:
    store.keys(key)


@pytest.mark.parametrize("look", [_read, _list])
@pytest.mark.parametrize("size", [7, 9 * 1024 * 1024], ids=["small", "resumable"])
def test_store_replaces_only_the_object_that_it_has_seen(
    settings: Settings, look: Callable[[Store, str], None], size: int, tmp_path: Path
) -> None:
    key = f"seen/{look.__name__}-{size}"
    ours, theirs = Store(settings), Store(settings)
    ours.write(key, b"first")
    for store in (ours, theirs):
        look(store, key)
    theirs.write(key, b"t" * size)
    with pytest.raises(OutdatedError, match=f"Another run has replaced gs://test-bucket/{key} since it was read"):
        ours.write(key, b"o" * size)
    (tmp_path / "file").write_bytes(b"o" * size)
    for change in (lambda: ours.upload({key: tmp_path / "file"}), lambda: ours.delete(key)):
        with pytest.raises(OutdatedError):
            change()
    assert ours.read(key) == b"t" * size
    ours.write(key, b"t" * size)  # as after a lost response: it is there already
    ours.write(key, b"o" * size)
    theirs.delete("seen/nothing")
    look(theirs, key)
    theirs.delete(key)
    with pytest.raises(OutdatedError):
        ours.write(key, b"again")


def test_store_creates_an_object_only_if_there_is_none_since_it_looked(settings: Settings) -> None:
    ours, theirs = Store(settings), Store(settings)
    for store in (ours, theirs):
        assert store.read_parsed("created.json", json.loads) is None
    theirs.write("created.json", b"[1]")
    with pytest.raises(OutdatedError):
        ours.write("created.json", b"[2]")
    assert ours.read_parsed("created.json", json.loads) == [1]
    ours.write("created.json", b"[2]")
    ours.write("created.json", b"[3]")
    Store(settings).write("created.json", b"without having looked")


def test_store_lists_keys_by_prefix(settings: Settings) -> None:
    store = Store(settings)
    for key in ("listed/one.json", "listed/two.npy", "listed-not/three"):
        store.write(key, b"content")
    assert sorted(store.keys("listed/")) == ["listed/one.json", "listed/two.npy"]
    assert store.keys("nothing/") == []


def test_store_lists_all_pages_of_a_listing(settings: Settings, serve: Serve) -> None:
    described = {"crc32c": "AAAAAA==", "size": "1", "generation": "1", "updated": "2026-11-30T00:00:00Z"}
    first = {"items": [{"name": "listed/1", **described}], "nextPageToken": "more"}
    url, requests = serve((200, first), (200, {"items": [{"name": "listed/2", **described}]}))
    store = Store(settings.model_copy(update={"storage_emulator_host": url}))
    assert store.keys("listed/") == ["listed/1", "listed/2"]
    assert len(requests) == 2


def test_store_uploads_and_downloads_many_files(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings)
    files = {f"many/{i}": tmp_path / "up" / str(i) for i in range(40)}
    (tmp_path / "up").mkdir()
    for i, path in enumerate(files.values()):
        path.write_bytes(bytes([i]) * 1000)
    store.upload(files)
    downloaded = {key: tmp_path / "down" / path.name for key, path in files.items()}
    store.download(downloaded)
    assert all(downloaded[key].read_bytes() == files[key].read_bytes() for key in files)
    assert len(list((tmp_path / "down").iterdir())) == len(files)


def test_store_download_keeps_each_complete_file_after_a_fault_in_the_middle(
    settings: Settings, storage_url: str, tmp_path: Path
) -> None:
    store = Store(settings)
    (tmp_path / "up").mkdir()
    files = {f"kept/{i:02}": tmp_path / "up" / f"{i:02}" for i in range(30)}
    for path in files.values():
        path.write_bytes(path.name.encode())
    store.upload(files)
    wanted = {key: tmp_path / "down" / path.name for key, path in files.items()}

    with fault_proxy(storage_url, Fault("kept%2F20")) as proxy:
        faulty = Store(settings.model_copy(update={"storage_emulator_host": proxy.url}))
        with pytest.raises(ServiceUnavailable, match=r"^Downloading gs://test-bucket/kept/20 failed temporarily: "):
            faulty.download(wanted)
    complete = {path.name for path in (tmp_path / "down").iterdir()}
    assert {f"{i:02}" for i in range(20)} <= complete and "20" not in complete  # and no partial file
    store.download({key: path for key, path in wanted.items() if not path.exists()})
    assert all(path.read_bytes() == path.name.encode() for path in wanted.values())

    gone = {"kept/nowhere": tmp_path / "rest" / "a", "kept/nowhere2": tmp_path / "rest" / "b"}
    with pytest.raises(NotFound, match=r"^2 of 32 objects are missing\. Downloading gs://test-bucket/kept/nowhere2? "):
        store.download(gone | {key: tmp_path / "rest" / path.name for key, path in wanted.items()})
    assert {path.name for path in (tmp_path / "rest").iterdir()} == {path.name for path in wanted.values()}


def test_store_raises_not_found_and_leaves_no_file(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings)
    with pytest.raises(NotFound, match=r"^Reading gs://test-bucket/nothing/there failed: not found"):
        store.read("nothing/there")
    with pytest.raises(NotFound):
        store.fetch("nothing/there", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_store_fetch_replaces_a_damaged_file_and_names_it_once(
    damage: Callable[[Path], None], settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(settings)
    store.write("answers/hash.npz", b"some content")
    file = store.fetch("answers/hash.npz", tmp_path / "answers" / "hash.npz")
    before = file.stat()
    damage(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.fetch("answers/hash.npz", file).read_bytes() == b"some content"
    assert store.fetch("answers/hash.npz", file).read_bytes() == b"some content"
    assert project_messages(caplog) == [
        f"The file {file} is damaged and is downloaded again from gs://test-bucket/answers/hash.npz."
    ]


def test_store_fetch_keeps_a_file_whose_object_does_not_exist(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"existing")
    assert Store(settings).fetch("nothing/there", tmp_path / "file").read_bytes() == b"existing"


def test_store_retries_after_503(settings: Settings, storage_url: str) -> None:
    fault = Fault("retried", times=1)
    with fault_proxy(storage_url, fault) as proxy:
        store = Store(settings.model_copy(update={"storage_emulator_host": proxy.url, "service_timeout_seconds": 20}))
        store.write("retried", b"content")
        assert store.read("retried") == b"content"
    assert fault.hits == 1


def test_store_is_unavailable_if_it_stays_503_or_unreachable(settings: Settings, storage_url: str) -> None:
    with fault_proxy(storage_url, Fault("busy")) as proxy:
        store = Store(settings.model_copy(update={"storage_emulator_host": proxy.url}))
        with pytest.raises(ServiceUnavailable, match=r"^Reading gs://test-bucket/busy failed temporarily: ") as raised:
            store.read("busy")
    assert raised.value.retryable
    store = Store(settings.model_copy(update={"storage_emulator_host": "http://127.0.0.1:9"}))
    with pytest.raises(ServiceUnavailable):
        store.write("key", b"data")


def test_store_gives_the_reason_of_a_refusal(settings: Settings, serve: Serve) -> None:
    url, _ = serve((400, {"error": {"code": 400, "message": "Invalid bucket name: 'a..b'"}}))
    store = Store(settings.model_copy(update={"storage_emulator_host": url}))
    for call in (lambda: store.keys(""), lambda: store.write("a", b"content"), lambda: store.read("a")):
        with pytest.raises(ConfigurationError, match=r"gs://test-bucket/a? is refused: "):
            call()


def test_reason_is_the_status_if_the_response_is_empty() -> None:
    error = google_exceptions.ServiceUnavailable("GET https://storage.googleapis.com/storage/v1/b: unknown error")
    assert reason_of(error) == "the response has status 503"
    assert reason_of(google_exceptions.RetryError("Timeout of 5.0s exceeded", error)) == "the response has status 503"


@pytest.fixture
def corrupting_storage() -> Iterator[str]:
    """A storage service between which and the client all content is changed, with Google's responses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("X-Goog-Hash", "crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==")
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"changed")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            reason = 'Provided CRC32C "8P9ykg==" doesn\'t match calculated CRC32C "SLbcmw==".'
            body = json.dumps({"error": {"code": 400, "message": reason}}).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_store_is_unavailable_if_content_arrives_with_another_checksum(
    settings: Settings, corrupting_storage: str, tmp_path: Path
) -> None:
    store = Store(settings.model_copy(update={"storage_emulator_host": corrupting_storage}))
    file = tmp_path / "sent"
    file.write_bytes(b"content")
    calls = {
        "Reading gs://test-bucket/a": lambda: store.read("a"),
        "Downloading gs://test-bucket/a": lambda: store.download({"a": tmp_path / "received"}),
        "Writing gs://test-bucket/a": lambda: store.write("a", b"content"),
        "Uploading gs://test-bucket/a": lambda: store.upload({"a": file}),
    }
    for doing, call in calls.items():
        with pytest.raises(ServiceUnavailable) as caught:
            call()
        reason = "the checksum does not match the content"
        assert caught.value.message == f"{doing} failed temporarily: {reason}. Try again later."
        assert caught.value.retryable
    assert not (tmp_path / "received").exists()
