import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ml.export.graph import export_onnx
from ml.networks.activation import activation_maps, last_feature_map
from ml.networks.backbones import GenreNetwork, Normalisation, feature_count, head, read_backbone, scratch_body
from ml.networks.explanation import ExplainedNetwork, NotExplainable, explain
from ml.networks.kernel import KernelHead
from ml.networks.pooling import PooledBody, pooled

pytestmark = pytest.mark.train

GENRES = 5


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def posters(count: int, size: int) -> NDArray[np.uint8]:
    """Coarse patches of colour, so that positions differ."""
    patches = np.random.default_rng(1).integers(0, 256, (count, 3, 8, 8), np.uint8)
    return patches.repeat(size // 8, 2).repeat(size // 8, 3)


def scratch(size: int) -> GenreNetwork:
    return network_of(scratch_body(size), linear_head(256), size)


def squeezenet(size: int) -> GenreNetwork:
    """A frozen backbone with a kernel head, like those of `train_frozen`, but with random weights."""
    body = pooled(read_backbone("squeezenet1_1", "none", Path()).body().eval(), size, "squeezenet1_1")
    assert isinstance(body, PooledBody)
    count = feature_count(body, size, "squeezenet1_1")
    with torch.no_grad():
        features = body(torch.from_numpy(posters(16, size)).float() / 64 - 2)
    projection = torch.randn(count, 12) / features.std(0).clamp_min(1e-3)[:, None] / count
    landmarks = (features - features.mean(0)) @ projection + 0.1 * torch.randn(16, 12)
    width = 1 / float(landmarks.square().sum(1).mean())
    return network_of(
        body, KernelHead(features.mean(0), projection, landmarks, width, nn.Linear(len(landmarks), GENRES)), size
    )


def resnet(size: int) -> GenreNetwork:
    return network_of(read_backbone("resnet18", "none", Path()).body(), nn.Linear(512, GENRES), size)


def network_of(body: nn.Module, top: nn.Module, size: int) -> GenreNetwork:
    return GenreNetwork(body, top, Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), frozen=True).eval()


def hidden(size: int) -> GenreNetwork:
    return network_of(scratch_body(size), linear_head(256, hidden=16), size)


def mobilenet(size: int) -> GenreNetwork:
    """A network with a layer and an activation between the means of its last map and its features."""
    return network_of(read_backbone("mobilenet_v3_small", "none", Path()).body(), nn.Linear(1024, GENRES), size)


def linear_head(features: int, hidden: int = 0) -> nn.Sequential:
    """A head whose normalisation has statistics, as after training."""
    top = head(features, np.full(GENRES, 0.2), hidden, 0.3)
    top[0].running_mean.normal_()
    top[0].running_var.uniform_(0.1, 2)
    return top


def explained(network: GenreNetwork, images: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
    found = explain(network, images.shape[-1])
    assert isinstance(found, ExplainedNetwork)
    with torch.no_grad():
        return found(torch.from_numpy(images))


@pytest.mark.parametrize("make", [scratch, hidden, squeezenet, resnet, mobilenet])
def test_explained_network_has_the_maps_of_grad_cam_and_unchanged_probabilities(make) -> None:
    images = posters(4, 96)
    network = make(96)
    probabilities, maps = explained(network, images)
    with torch.no_grad():
        assert torch.equal(probabilities, network(torch.from_numpy(images)).sigmoid())
    assert maps.shape[:2] == (4, GENRES)
    layer = last_feature_map(network, torch.from_numpy(images[:1]))
    shown = 0
    for genre in range(GENRES):
        expected = activation_maps(network, layer, torch.from_numpy(images), np.full(4, genre))
        found = maps[:, genre].numpy()
        shown += (expected.max((1, 2)) == 1).sum()
        assert found.shape == expected.shape
        assert found.min() >= 0
        scaled = found / np.maximum(found.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
        assert np.abs(scaled - expected).max() < 2e-3
    assert shown > 4, "most maps must not be empty"


def test_explained_map_of_a_linear_head_averages_to_its_share_of_the_logit() -> None:
    images, network = posters(4, 64), scratch(64)
    with torch.no_grad():
        network.head[-1].weight.abs_()  # so that no value is set to 0
        _, maps = explain(network, 64)(torch.from_numpy(images))
        features = network.features(torch.from_numpy(images))
        slopes = network.head[-1].weight / (network.head[0].running_var + network.head[0].eps).sqrt()
    assert torch.allclose(maps.mean((2, 3)), features @ slopes.T, rtol=1e-4)


class Flat(nn.Module):
    """Features that are the values of the map, without pooling."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images, 16).flatten(1)


class Highest(nn.Module):
    """As many features as the map has channels, but not their means."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images).amax((2, 3))


class Dead(Highest):
    """Features that are always 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images).mul_(0).mean((2, 3))


class Branching(nn.Module):
    """A network whose steps depend on its input, which cannot be traced."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class Listing(Highest):
    """A network in timm's form that gives a list to its head, as CrossViT does."""

    def forward_intermediates(self, images: torch.Tensor, *_: object, **__: object) -> tuple[list, list[torch.Tensor]]:
        found = self.convolution(images)
        return [found], [found]

    def forward_head(self, final: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return final.mean((2, 3))


NOT_MEANS = "its features are not means over the places of a feature map"


@pytest.mark.parametrize(
    ("body", "top", "reason"),
    [
        (lambda: scratch_body(64), lambda: nn.Sequential(nn.Linear(256, GENRES), nn.Sigmoid()), "its head has a layer"),
        (Flat, lambda: nn.Linear(48, GENRES), NOT_MEANS),
        (Highest, lambda: nn.Linear(8, GENRES), NOT_MEANS),
        (Dead, lambda: nn.Linear(8, GENRES), NOT_MEANS),
        (lambda: nn.Flatten(), lambda: nn.Linear(3 * 32 * 32, GENRES), NOT_MEANS),
        (Branching, lambda: nn.Linear(3, GENRES), "no feature maps"),
        (Listing, lambda: nn.Linear(8, GENRES), "no feature maps"),
    ],
    ids=["unknown head", "no pooling", "maximum", "dead", "pixels", "cannot be traced", "list"],
)
def test_explain_says_why_another_network_has_no_maps(body, top, reason: str) -> None:
    with pytest.raises(NotExplainable, match=reason):
        explain(network_of(body(), top(), 32), 32)


def test_explain_does_not_change_the_network() -> None:
    network = scratch(64)
    before = copy.deepcopy(network.state_dict())
    found = explain(network, 64)
    found(torch.from_numpy(posters(1, 64)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_explained_graph_of_a_kernel_head_has_the_same_maps_for_any_batch_size() -> None:
    network = squeezenet(64)
    graph = export_onnx(explain(network, 64), 64)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = posters(count, 64)
        probabilities, maps = session.run(["probabilities", "maps"], {"images": images})
        assert np.array_equal(session.run(["probabilities"], {"images": images})[0], probabilities)
        expected = explained(network, images)
        assert np.abs(probabilities - expected[0].numpy()).max() < 1e-5
        assert maps.shape == expected[1].shape
        assert np.abs(maps - expected[1].numpy()).max() < 1e-4 * float(expected[1].max())
