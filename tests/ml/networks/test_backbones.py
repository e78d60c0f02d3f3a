from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from ml.errors import SettingError, TrainingError, WeightsError
from ml.networks import backbones
from ml.networks.backbones import (
    HALF,
    IMAGENET_NORMALISATION,
    Backbone,
    GenreNetwork,
    Normalisation,
    feature_count,
    head,
    read_backbone,
    scratch_body,
)
from ml.networks.weights import Weights, WeightsFile

pytestmark = pytest.mark.train

FREQUENCIES = np.array([0.5, 0.1, 0.02])


def with_weights(name: str, state: dict[str, torch.Tensor]) -> Backbone:
    return replace(read_backbone(name, "none", Path()), weights=Weights(state, WeightsFile("sha256")))


@pytest.mark.parametrize("size", [32, 64, 100, 256])
def test_scratch_body_takes_posters_of_any_size(size: int) -> None:
    body = scratch_body(size)
    assert feature_count(body, size, "scratch") == 256
    kinds = [type(layer) for layer in body]
    assert kinds.count(nn.Conv2d) == 4
    assert kinds.count(nn.MaxPool2d) == 3


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("resnet18", 512),
        ("squeezenet1_1", 512),
        ("mobilenet_v3_small", 1024),
        ("densenet121", 1024),
        ("shufflenet_v2_x0_5", 1024),
        ("regnet_x_400mf", 400),
        ("mnasnet0_5", 1280),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
        ("swin_t", 768),
        ("vgg11", 4096),
        ("googlenet", 1024),
    ],
)
def test_backbone_can_be_any_torchvision_network(name: str, features: int) -> None:
    assert feature_count(read_backbone(name, "none", Path()).body(), 64, name) == features


def test_backbone_with_an_unknown_name_raises_with_similar_names() -> None:
    with pytest.raises(SettingError, match=r"no backbone named 'resnet19'; it has .*resnet18"):
        read_backbone("resnet19", "none", Path())


def test_feature_count_raises_if_the_backbone_does_not_accept_the_size() -> None:
    with pytest.raises(TrainingError, match="vit_b_16 does not accept posters of 64 x 64 pixels"):
        feature_count(read_backbone("vit_b_16", "none", Path()).body(), 64, "vit_b_16")


def test_backbone_loads_all_weights_but_the_classifier() -> None:
    pretrained = torchvision.models.resnet18()
    network = with_weights("resnet18", pretrained.state_dict())
    assert torch.equal(network.body().state_dict()["layer4.1.conv2.weight"], pretrained.layer4[1].conv2.weight)


def test_backbone_names_the_keys_of_weights_that_do_not_fit() -> None:
    state = torchvision.models.squeezenet1_1().state_dict()
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    with_weights("squeezenet1_1", features).body()
    with pytest.raises(WeightsError, match=r"squeezenet1_1: they lack features\.0\.bias"):
        with_weights("squeezenet1_1", {key: features[key] for key in features if key != "features.0.bias"}).body()
    with pytest.raises(WeightsError, match=r"hold unexpected head\.weight"):
        with_weights("squeezenet1_1", {**features, "head.weight": torch.zeros(1)}).body()
    with pytest.raises(WeightsError, match=r"another shape in features\.0\.weight"):
        with_weights("squeezenet1_1", {**features, "features.0.weight": torch.zeros(1)}).body()
    with pytest.raises(WeightsError, match="and 97 more"):
        with_weights("resnet18", {}).body()


@pytest.mark.parametrize("bgr", [False, True])
def test_genre_network_normalises_pixels_and_orders_channels(bgr: bool) -> None:
    how = replace(IMAGENET_NORMALISATION, bgr=bgr)
    network = GenreNetwork(nn.Identity(), head(1, FREQUENCIES, 0, 0.0), how, frozen=False)
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225][:: -1 if bgr else 1]
    assert network.features(pixels).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_head_starts_at_the_genre_frequencies() -> None:
    fresh = head(8, FREQUENCIES, 0, 0.5).eval()
    probabilities = fresh(torch.zeros(1, 8)).sigmoid()
    assert probabilities.flatten().tolist() == pytest.approx(FREQUENCIES.tolist(), abs=1e-3)
    assert [type(layer) for layer in head(8, FREQUENCIES, 16, 0.5)].count(nn.Linear) == 2


def test_genre_network_keeps_a_frozen_body_in_evaluation_mode() -> None:
    network = GenreNetwork(scratch_body(32), head(256, FREQUENCIES, 0, 0.0), HALF, frozen=True).train()
    assert network.head.training
    assert not any(layer.training for layer in network.body.modules())
    assert not any(parameter.requires_grad for parameter in network.body.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_backbone_has_no_auxiliary_heads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Random initial weights of these networks take seconds.
    monkeypatch.setattr(
        backbones, "_torchvision_network", lambda name: torchvision.models.get_model(name, init_weights=False)
    )
    state = torchvision.models.get_model(name, init_weights=False).state_dict()
    body = with_weights(name, state).body()
    loaded = body.state_dict()
    assert not [key for key in loaded if key.startswith(("aux", "AuxLogits"))]
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())
    # The auxiliary head of Inception does not accept smaller posters than its own.
    features = GenreNetwork(body, nn.Identity(), HALF, frozen=False).train()(torch.zeros(2, 3, 96, 96))
    assert features.shape[0] == 2


def test_backbone_has_the_normalisation_of_its_weights() -> None:
    for name in ("efficientnet_v2_s", "efficientnet_v2_l"):
        how = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        expected = Normalisation(tuple(how.mean), tuple(how.std))
        assert backbones._TORCHVISION.get(name, IMAGENET_NORMALISATION) == expected


def test_backbone_that_is_too_large_for_a_graph_is_refused_before_the_training() -> None:
    def large() -> nn.Module:
        return nn.Linear(500_000, 1_000, device="meta")

    backbone = replace(read_backbone("squeezenet1_1", "none", Path()), make=large)
    with pytest.raises(TrainingError, match=r"squeezenet1_1 has 2\.0 GB of weights"):
        backbone.check_size(64)
