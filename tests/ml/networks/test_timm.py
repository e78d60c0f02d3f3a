"""Backbones of timm: anime-pretrained networks in the formats in which people publish them, and what can go wrong."""

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import metaformer, mobilenetv3
from timm.models._efficientnet_builder import decode_arch_def
from torch import Tensor

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import build_dataset
from ml.errors import MissingPackageError, SettingError, TrainingError, WeightsError, WeightsUnavailable
from ml.export.bundle_writer import write_bundle
from ml.export.model_card import model_card
from ml.networks.backbones import GenreNetwork, check_backbone, read_backbone
from ml.networks.maps import TimmMaps, with_maps
from ml.networks.pooling import PooledBody, join
from ml.reporting import NullReporter
from ml.training.learning import train_networks
from tests.messages import faults_of_message
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train

RESNET = {
    "architecture": "resnet18",
    "num_classes": 12,
    "num_features": 64,
    "model_args": {"channels": [8, 16, 32, 64]},
    "pretrained_cfg": {
        **{"tag": "st_safebooru_1k", "custom_load": True, "input_size": [3, 224, 224], "fixed_input_size": False},
        **{"interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "center", "num_classes": 12},
        **{"mean": [0.6886, 0.6415, 0.6443], "std": [0.183, 0.1852, 0.1849], "pool_size": [7, 7]},
        **{"first_conv": "conv1", "classifier": "fc"},
    },
}
CAFORMER = {
    **RESNET,
    "architecture": "caformer_tiny_test",
    "model_args": {},
    "pretrained_cfg": {**RESNET["pretrained_cfg"], "first_conv": "stem.conv", "classifier": "head.fc.fc2"},
}
MOBILENET = {
    "architecture": "mobilenet_tiny_test",
    "num_classes": 12,
    "num_features": 32,
    "global_pool": "avg",
    "tags": ["1girl", "solo"],
    "pretrained_cfg": {
        **{"tag": "lamb_in1k", "custom_load": False, "input_size": [3, 448, 448], "fixed_input_size": False},
        **{"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "num_classes": 12},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "pool_size": [14, 14]},
        **{"first_conv": "conv_stem", "classifier": "classifier", "license": "gpl-3.0"},
    },
}
VIT = {
    "architecture": "vit_base_patch16_224",
    "num_classes": 12,
    "num_features": 24,
    "global_pool": "avg",
    "model_args": {
        **{"img_size": 448, "class_token": False, "global_pool": "avg", "fc_norm": False, "act_layer": "gelu_tanh"},
        **{"patch_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2},
    },
    "pretrained_cfg": {
        **{"custom_load": False, "input_size": [3, 448, 448], "fixed_input_size": False, "interpolation": "bicubic"},
        **{"crop_pct": 1.0, "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        **{"num_classes": 12, "pool_size": None, "first_conv": None, "classifier": None},
    },
}


@timm.models.register_model
def caformer_tiny_test(pretrained: bool = False, **kwargs: Any) -> metaformer.MetaFormer:
    """CaFormer with few channels: timm's own sizes cannot be changed by arguments."""
    mixers = [metaformer.SepConv] * 2 + [metaformer.Attention] * 2
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith(("pretrained", "cache"))}
    norms = [metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}
    return metaformer.MetaFormer(**sizes, token_mixers=mixers, norm_layers=norms, **kwargs)


@timm.models.register_model
def mobilenet_tiny_test(pretrained: bool = False, **kwargs: Any) -> mobilenetv3.MobileNetV3:
    """MobileNetV3 with one block of each kind."""
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith(("pretrained", "cache"))}
    blocks = [["ds_r1_k3_s2_e1_c8_se0.25_nre"], ["ir_r1_k5_s2_e3_c16_se0.25"], ["cn_r1_k1_s1_c24"]]
    settings = {"stem_size": 8, "num_features": 32, "act_layer": torch.nn.Hardswish}
    return mobilenetv3.MobileNetV3(decode_arch_def(blocks), **settings, **kwargs)


def write_repository(folder: Path, config: dict[str, Any], card: str = "") -> Path:
    """The files of a hub repository, with random weights in a mixture of float16 and float32."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = timm.create_model(config["architecture"], num_classes=12, **config.get("model_args", {}))
    state = {
        key: value.half() if key.endswith("conv2.weight") else value for key, value in network.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A network\n")
    return folder


def autograd_maps(network: GenreNetwork, images: Tensor, size: int) -> Tensor:
    """Grad-CAM before it is scaled: the last map times the gradient of each logit by its means, [N, G, h, w]."""
    pooled = isinstance(network.body, PooledBody)
    maps = network.body.maps if pooled else with_maps(network.body, size, 1)
    assert isinstance(maps, TimmMaps)
    final, stages = maps._intermediates(network.normalised(images))
    final = final.detach().requires_grad_()
    side = int(final.shape[1] ** 0.5)
    last = final if final.dim() == 4 else final.transpose(1, 2).unflatten(2, (side, side))
    own = maps.body.forward_head(final, pre_logits=True)
    logits = network.head(join(own, [*stages[:-1], last]) if pooled else own)
    found = []
    for genre in range(logits.shape[1]):
        (gradient,) = torch.autograd.grad(logits[:, genre].sum(), final, retain_graph=True)
        axes = (2, 3) if final.dim() == 4 else (1,)
        weights = gradient.sum(axes)
        found.append((weights[:, :, None, None] * last).sum(1).relu())
    return torch.stack(found, 1).detach()


@pytest.mark.parametrize(
    ("name", "config", "size", "license"),
    [
        ("wd-vit-tagger-v3", VIT, 448, "apache-2.0"),
        ("resnet18.st_safebooru_1k", RESNET, 64, "apache-2.0"),
        ("caformer_s18.st_safebooru_1k", CAFORMER, 64, "apache-2.0"),
        ("mobilenetv3_large_150d.dbv4-full", MOBILENET, 64, "gpl-3.0"),
    ],
)
def test_backbone_in_a_published_format_is_trained_exported_and_explained_without_a_connection(
    name: str, config: dict[str, Any], size: int, license: str, make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be fetched")

    for function in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, function, refuse)
    folder = write_repository(tmp_path / name, config, "license: apache-2.0\ntags:\n- timm")
    backbone = read_backbone(f"local-dir:{folder}", "imagenet", tmp_path)
    assert backbone.weights is not None
    assert backbone.weights.file.license == license
    how = PreprocessConfig(image_size=size, min_posters=3, min_posters_per_part=1)
    dataset = build_dataset(make(tmp_path / "posters", 40), tmp_path, how, NullReporter())
    settings = TrainConfig(backbone=f"local-dir:{folder}", candidates=("frozen",), trials=1, epochs=1, device="cpu")
    outcome = train_networks(dataset, settings, backbone, NullReporter(), NoCheckpoints())
    model = write_bundle(tmp_path / "bundle", outcome.chosen, settings, dataset, model_card(outcome, dataset))
    images = torch.from_numpy(dataset.images[:4])
    probabilities, maps = model.explained(images.numpy())
    with torch.no_grad():
        expected = outcome.chosen.network(images).sigmoid()
    assert np.abs(probabilities - expected.numpy()).max() < 1e-4
    reference = autograd_maps(outcome.chosen.network, images, size).numpy()
    assert maps.shape == reference.shape
    assert np.abs(maps - reference).max() < 1e-3 * reference.max()
    assert reference.max() > 0
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["preprocessing"]["channels"] == ("BGR" if name.startswith("wd-") else "RGB")
    assert manifest["preprocessing"]["mean"] == config["pretrained_cfg"]["mean"]
    assert manifest["network"]["backbone"] == f"local-dir:{name}"
    assert manifest["network"]["weights_license"] == license
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert ("only be distributed under the same licence" in card) == (license == "gpl-3.0")
    assert str(tmp_path) not in json.dumps(manifest) + card


def test_backbone_of_timm_reads_a_weights_file_and_names_what_does_not_fit(tmp_path: Path) -> None:
    folder = write_repository(tmp_path / "net", RESNET)
    other = write_repository(tmp_path / "other", MOBILENET)
    state = timm.create_model("resnet18").state_dict()
    save_file(state, tmp_path / "resnet18.safetensors")
    body = read_backbone("timm/resnet18", str(tmp_path / "resnet18.safetensors"), tmp_path).body()
    assert torch.equal(body.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    with pytest.raises(WeightsError, match=r"do not fit timm/resnet18: they lack conv1\.weight, .* and \d+ more\."):
        read_backbone("timm/resnet18", str(other / "model.safetensors"), tmp_path)
    with pytest.raises(WeightsError, match=r"do not fit local-dir:net: they lack layer1\.0\.downsample"):
        read_backbone(f"local-dir:{folder}", str(tmp_path / "resnet18.safetensors"), tmp_path)


def test_backbone_key_changes_with_the_content_of_config_json_and_not_with_its_folder(tmp_path: Path) -> None:
    one, two = (write_repository(tmp_path / number / "net", RESNET) for number in "12")
    keys = [read_backbone(f"local-dir:{folder}", "none", tmp_path).key for folder in (one, two)]
    assert keys[0] == keys[1]
    changed = {**RESNET, "pretrained_cfg": {**RESNET["pretrained_cfg"], "mean": [0.5, 0.5, 0.5]}}
    (two / "config.json").write_text(json.dumps(changed))
    assert read_backbone(f"local-dir:{two}", "none", tmp_path).key != keys[0]


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("timm/resnet81", SettingError, "timm has no backbone named 'resnet81'; it has .*resnet18.* and others."),
        ("timm/ConvNext_Tiny", SettingError, "no backbone named 'ConvNext_Tiny'; it has convnext_tiny, .* and others."),
        (
            "timm/resnet18.abc",
            SettingError,
            "resnet18 has no weights with the tag 'abc'. Choose another one: .*a1_in1k",
        ),
        ("local-dir:absent", WeightsError, "absent/config.json cannot be read: No such file"),
        ("local-dir:text", WeightsError, "text/config.json does not describe a network of timm"),
        ("local-dir:unknown", SettingError, "needs the network 'resnet19', which timm .* lacks"),
        ("local-dir:arguments", WeightsError, "timm cannot make local-dir:arguments from its config.json"),
        ("local-dir:mean", WeightsError, "config.json of local-dir:mean has no valid mean"),
        ("local-dir:empty", WeightsError, "model.safetensors cannot be read: No such file"),
        (
            "timm/vit_tiny_patch16_224",
            TrainingError,
            r"256 x 256 pixels\. Set image_size to 224 \(--image-size 224\)",
        ),
    ],
)
def test_check_backbone_reports_invalid_input_in_one_sentence(
    name: str, error: type[Exception], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, config in {
        "text": "hello",
        "unknown": {**RESNET, "architecture": "resnet19"},
        "arguments": {**RESNET, "model_args": {"wings": 2}},
        "mean": {**RESNET, "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.5], "std": [0.5, 0.5, 0.5]}},
        "empty": RESNET,
    }.items():
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(error, match=sentence) as raised:
        check_backbone(name, "imagenet" if name.endswith("empty") else "none", 256)
    assert faults_of_message(raised.value.message) == []


def test_backbone_of_timm_names_the_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    for name in ("timm/resnet18", "hf-hub:owner/net"):
        with pytest.raises(MissingPackageError, match="needs the package 'timm': install it with `pip install timm`"):
            check_backbone(name, "imagenet", 64)


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that answers like the hub for the repositories in a folder. Yields its address and the requests."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, send: bool) -> None:
            requested.append(f"{self.command} {self.path}")
            owner, name, _, _, file = self.path.strip("/").split("/", 4)
            path = folder / owner / name / file
            known = path.is_file()
            data = path.read_bytes() if known else b""
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", "c" * 40)
            if known:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            else:
                self.send_header("X-Error-Code", "EntryNotFound" if path.parent.is_dir() else "RepoNotFound")
            self.end_headers()
            if send:
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requested
        finally:
            server.shutdown()
            thread.join()


def test_backbone_of_the_hub_is_downloaded_once_and_errors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repository(tmp_path / "hub" / "owner" / "net", RESNET, "license: cc-by-nc-4.0")
    (tmp_path / "hub" / "owner" / "empty").mkdir()
    cache = tmp_path / "cache"
    # The package waits for half a minute in all between its attempts.
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    with hub(tmp_path / "hub") as (address, requested):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        backbone = read_backbone("hf-hub:owner/net", "imagenet", cache)
        assert backbone.weights is not None
        assert (backbone.weights.file.license, backbone.name) == ("cc-by-nc-4.0", "hf-hub:owner/net")
        assert backbone.weights.file.source == f"hf-hub:owner/net ({'c' * 40})"
        assert "may not be used commercially" in str(backbone.weights.file.condition())
        again = read_backbone("hf-hub:owner/net", "imagenet", cache)
        assert again.weights is not None and again.weights.file == backbone.weights.file
        assert sum(request.startswith("GET") and "safetensors" in request for request in requested) == 1
        with pytest.raises(WeightsError, match=r"The hub has no config\.json in owner/empty"):
            read_backbone("hf-hub:owner/empty", "imagenet", cache)
        with pytest.raises(WeightsError, match=r"The hub has no config\.json in owner/other"):
            read_backbone("hf-hub:owner/other", "imagenet", cache)
    with pytest.raises(
        WeightsUnavailable, match=r"does not send config\.json of owner/more\. .* local-dir:DIR"
    ) as raised:
        read_backbone("hf-hub:owner/more", "imagenet", cache)
    assert raised.value.retryable
    with pytest.raises(WeightsUnavailable, match=r"does not send .* set weights to a \.safetensors or \.pth file"):
        read_backbone("timm/resnet18", "imagenet", cache)
    assert read_backbone("hf-hub:owner/net", "imagenet", cache).key == backbone.key, "a copy is there"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsError, match=r"(?s)does not send .*\. Give the folder of a copy.*HF_HUB_OFFLINE"
    ) as raised:
        read_backbone("hf-hub:owner/more", "imagenet", cache)
    assert not raised.value.retryable


def test_backbone_names_are_settings() -> None:
    for name in ("timm/resnet18.a1_in1k", "hf-hub:owner/net-1.0@main", "local-dir:/a folder/net", "resnet18"):
        assert replace(TrainConfig(), backbone=name).backbone == name
    for name in ("ResNet", "timm/", "timm/a/b", "hf-hub:net", "local-dir:", "file:net"):
        with pytest.raises(SettingError, match="Invalid value"):
            TrainConfig(backbone=name)
