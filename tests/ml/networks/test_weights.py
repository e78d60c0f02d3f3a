import hashlib
import http.server
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from safetensors.torch import save_file

from ml.errors import SettingError, WeightsError, WeightsUnavailable
from ml.networks.weights import WeightsFile, download, imagenet_url, imagenet_weights, load_state, safetensors_of

pytestmark = pytest.mark.train


@contextmanager
def serving(folder: Path, wait_seconds: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A server of the folder's files. Yields its address and the requested paths."""
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            requested.append(self.path)
            time.sleep(wait_seconds)
            super().do_GET()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requested
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with a state dict under a name like torchvision's."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save({"weight": torch.ones(2)}, folder / "new")
    sha256 = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    return (folder / "new").rename(folder / f"net-{sha256[:8]}.pth")


def test_download_happens_once_and_checks_the_cached_file(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    with serving(published.parent) as (address, requested):
        url = f"{address}/{published.name}"
        file = download(url, cache)
        assert file.read_bytes() == published.read_bytes()
        assert download(url, cache) == file
        assert len(requested) == 1
        file.write_bytes(b"damaged")
        assert download(url, cache).read_bytes() == published.read_bytes()
    assert "damaged and is downloaded again" in caplog.text
    assert load_state(file).file.sha256 == hashlib.sha256(published.read_bytes()).hexdigest()


def test_download_with_another_hash_is_not_kept(published: Path, tmp_path: Path) -> None:
    published.write_bytes(b"something else")
    with (
        serving(published.parent) as (address, _),
        pytest.raises(WeightsUnavailable, match="sha256 does not start with"),
    ):
        download(f"{address}/{published.name}", tmp_path / "cache")
    assert not (tmp_path / "cache" / published.name).exists()


@pytest.mark.parametrize(("name", "reason"), [("absent-0123abcd.pth", "File not found"), ("net.pth", "has no sha256")])
def test_download_that_is_refused_is_not_worth_a_retry(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as (address, _):
        monkeypatch.setattr("ml.networks.weights.imagenet_url", lambda backbone: f"{address}/{name}")
        with pytest.raises(WeightsError, match=rf"{reason}.*\. Set weights to ") as raised:
            imagenet_weights("resnet18", tmp_path / "cache")
    assert not raised.value.retryable


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (429, True), (503, True)])
def test_download_that_a_proxy_refuses_is_not_worth_a_retry(
    status: int, retryable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_error(status)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "do_CONNECT", refuse, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it reads the variables only once
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(tmp_path) as (address, _):
        monkeypatch.setenv("https_proxy", address)
        with pytest.raises(WeightsError, match=f"cannot be downloaded .*{status}") as raised:
            download("https://example.invalid/net-0123abcd.pth", tmp_path / "cache")
    assert raised.value.retryable == retryable


def test_download_times_out_if_the_server_does_not_respond(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.networks.weights.DOWNLOAD_TIMEOUT_SECONDS", 0.1)
    with (
        serving(published.parent, wait_seconds=0.5) as (address, _),
        pytest.raises(WeightsUnavailable, match="timed out"),
    ):
        download(f"{address}/{published.name}", tmp_path / "cache")


def test_imagenet_weights_raise_a_retryable_error_that_names_the_setting_if_imagenet_weights_are_not_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(
        WeightsUnavailable, match=r"cannot be downloaded \(.*\)\. .* set weights to .* 'none'"
    ) as raised:
        imagenet_weights("resnet18", tmp_path)
    assert raised.value.retryable
    assert len(str(raised.value)) <= 300


def test_imagenet_url_contains_a_hash() -> None:
    assert imagenet_url("resnet18").endswith("/resnet18-f37072fd.pth")


def test_imagenet_weights_name_a_backbone_without_imagenet_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "weightless", torch.nn.Identity)
    for name in ("resnet19", "weightless"):
        with pytest.raises(SettingError, match=f"no ImageNet weights for '{name}'"):
            imagenet_weights(name, tmp_path)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_load_state_returns_float32_for_files_of_mixed_precision(tmp_path: Path, ending: str) -> None:
    state = {"half": torch.ones(2).half(), "full": torch.full((2,), 0.1), "count": torch.tensor(3)}
    file = tmp_path / f"mixed{ending}"
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    found = load_state(file)
    assert {name: value.dtype for name, value in found.state.items()} == {
        **{"half": torch.float32, "full": torch.float32},
        "count": torch.int64,
    }
    assert all(torch.equal(found.state[name], value.to(found.state[name].dtype)) for name, value in state.items())
    assert found.file.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_safetensors_hold_tied_weights_under_each_name() -> None:
    layer = torch.nn.Linear(3, 4)
    tied = torch.nn.ModuleDict({"one": layer, "two": layer, "three": torch.nn.Linear(2, 2)}).state_dict()
    tied["transposed"] = torch.arange(6.0).view(2, 3).T
    loaded = safetensors.torch.load(safetensors_of(tied))
    assert loaded.keys() == tied.keys()
    assert all(torch.equal(value, tied[name]) for name, value in loaded.items())
    own = {name: value for name, value in tied.items() if not name.startswith("two.")}
    assert safetensors_of(own) == safetensors.torch.save({name: value.contiguous() for name, value in own.items()})


def test_load_state_names_a_safetensors_file_that_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "cut.safetensors"
    save_file({"weight": torch.ones(100)}, file)
    for content in (file.read_bytes()[:-9], b"", b"hello, world"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"cut\.safetensors is not a complete safetensors file\."):
            load_state(file)


def test_load_state_names_a_file_that_is_missing_or_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth cannot be read: No such file"):
        load_state(tmp_path / "absent.pth")
    text = tmp_path / "text.pth"
    text.write_text("hello")
    with pytest.raises(WeightsError, match=r"text\.pth is not a weights file"):
        load_state(text)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="does not contain a state dict"):
        load_state(tmp_path / "list.pth")


def test_load_state_does_not_run_code_of_the_file(tmp_path: Path) -> None:
    torch.save({"weight": Path("a path is an object of a class")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth is not a weights file"):
        load_state(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("license", "condition"),
    [
        ("cc-by-nc-4.0", "may not be used commercially"),
        ("GPL-3.0", "may only be distributed under the same licence"),
        ("cc-by-nc-sa-4.0", "may not be used commercially and a model made from them may only be distributed"),
        ("apache-2.0", None),
        ("unknown", None),
    ],
)
def test_weights_file_names_the_condition_of_its_license(license: str, condition: str | None) -> None:
    found = WeightsFile("sha256", license=license).condition()
    assert found is None if condition is None else condition in found and license in found
