from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from ml.errors import TrainingError
from ml.networks.activation import activation_maps, last_feature_map
from ml.networks.backbones import HALF, GenreNetwork, head, read_backbone, scratch_body

pytestmark = pytest.mark.train


class Pooled(nn.Module):
    """Convolution, ReLU, global average pooling and a linear layer: the network of Zhou et al."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 5, stride=4)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.convolution(images.float() / 64 - 2))
        return self.linear(maps.mean((2, 3)))


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), dtype=np.uint8))


@pytest.fixture
def pooled() -> Pooled:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pooled().eval()


def test_activation_map_of_pooling_and_a_linear_layer_equals_that_of_its_weights(
    pooled: Pooled, images: Tensor
) -> None:
    genres = np.array([0, 1, 2, 1])
    found = activation_maps(pooled, pooled.relu, images, genres)
    with torch.no_grad():
        features = pooled.relu(pooled.convolution(images.float() / 64 - 2))
        weighted = torch.einsum("nc,nchw->nhw", pooled.linear.weight[torch.from_numpy(genres)], features).relu()
    highest = weighted.amax((1, 2), keepdim=True)
    assert found.shape == (4, 15, 15)
    assert found == pytest.approx((weighted / highest.clamp_min(1e-30)).numpy(), abs=1e-5)
    assert found.min() >= 0
    assert found.max() == 1


def test_activation_map_is_the_same_for_a_frozen_network_and_leaves_no_gradients(
    pooled: Pooled, images: Tensor
) -> None:
    genres = np.zeros(4, np.int64)
    free = activation_maps(pooled, pooled.convolution, images, genres)
    pooled.requires_grad_(False)
    assert (activation_maps(pooled, pooled.convolution, images, genres) == free).all()
    assert all(parameter.grad is None for parameter in pooled.parameters())
    with torch.no_grad():
        assert (activation_maps(pooled, pooled.convolution, images, genres) == free).all()


def test_activation_map_of_a_trained_network_is_highest_where_the_genre_is(pooled: Pooled) -> None:
    """Posters of the genre have a red square in one of four corners. All others are noise."""
    generator = np.random.default_rng(0)
    posters = generator.integers(60, 200, (200, 3, 64, 64), dtype=np.uint8)
    corners = generator.integers(0, 2, (200, 2))
    labels = torch.arange(200) % 2
    for poster, (row, column), label in zip(posters, corners * 44, labels, strict=True):
        if label:
            poster[:, row : row + 20, column : column + 20] = [[[230]], [[20]], [[20]]]
    images = torch.from_numpy(posters)
    optimizer = torch.optim.Adam(pooled.parameters(), 0.03)
    for _ in range(100):
        loss = nn.functional.binary_cross_entropy_with_logits(pooled(images)[:, 0], labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    positive = labels.numpy() == 1
    maps = activation_maps(pooled, pooled.relu, images[positive], np.zeros(100, np.int64))
    highest = np.array([np.unravel_index(each.argmax(), each.shape) for each in maps])
    assert ((highest > 7) == corners[positive]).all(1).mean() > 0.95


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t"])
def test_last_feature_map_of_a_backbone_gives_activation_maps(name: str, images: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = read_backbone(name, "none", Path()).body().eval()
        with torch.no_grad():
            width = body(torch.zeros(1, 3, 64, 64)).shape[1]
        network = _network(body, width)
    layer = last_feature_map(network, images[:1])
    assert layer is not None
    maps = activation_maps(network, layer, images, np.array([0, 1, 2, 0]))
    assert maps.shape[0] == 4
    assert min(maps.shape[1:]) > 1


def test_last_feature_map_of_the_scratch_network_is_its_last_relu(images: Tensor) -> None:
    network = _network(scratch_body(64), 256)
    assert isinstance(last_feature_map(network, images[:1]), nn.ReLU)


def test_last_feature_map_is_none_after_attention_and_without_maps() -> None:
    transformer = torchvision.models.VisionTransformer(64, 16, 1, 2, 32, 64, num_classes=3).eval()
    network = nn.Sequential(_Float(), transformer)
    assert last_feature_map(network, torch.zeros(1, 3, 64, 64, dtype=torch.uint8)) is None
    flat = nn.Sequential(_Float(), nn.Flatten(), nn.Linear(12, 3))
    assert last_feature_map(flat, torch.zeros(1, 3, 2, 2, dtype=torch.uint8)) is not None
    assert last_feature_map(flat[1:], torch.zeros(1, 3, 2, 2)) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"img_size": 64}),
        ("test_vit", {"img_size": 64, "qk_norm": True}),  # its queries are [N, heads, tokens, C]
        ("cait_xxs24_224", {"img_size": 32, "depth": 1, "embed_dim": 16, "num_heads": 2}),
        ("test_mambaout", {}),  # its maps are [N, h, w, C]
    ],
)
def test_last_feature_map_of_timm_is_none_if_features_come_from_another_form(
    name: str, arguments: dict[str, object]
) -> None:
    body = timm.create_model(name, num_classes=0, **arguments).eval()
    size = 32 if name.startswith("cait") else 64
    assert last_feature_map(body, torch.zeros(1, 3, size, size)) is None


@pytest.mark.parametrize(
    ("name", "layer"), [("test_resnet", "layer4"), ("test_convnext", "norm_pre"), ("test_efficientnet", "bn2")]
)
def test_last_feature_map_of_a_convolutional_network_of_timm_is_what_it_pools(name: str, layer: str) -> None:
    body = timm.create_model(name, num_classes=0).eval()
    assert last_feature_map(body, torch.zeros(1, 3, 64, 64)) is body.get_submodule(layer)


def test_activation_maps_refuse_a_layer_without_a_map_or_use(pooled: Pooled, images: Tensor) -> None:
    with pytest.raises(TrainingError, match=r"needs a layer with output \[N, C, h, w\]; this one is \[4, 3\]"):
        activation_maps(pooled, pooled.linear, images, np.zeros(4, np.int64))
    with pytest.raises(TrainingError, match="needs a layer that the network uses"):
        activation_maps(pooled, nn.Conv2d(3, 3, 3), images, np.zeros(4, np.int64))
    assert not pooled.linear._forward_hooks


class _Float(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 255


def _network(body: nn.Module, width: int) -> nn.Module:
    return GenreNetwork(body, head(width, np.array([0.5, 0.2, 0.1]), 8, 0.1), HALF, frozen=True).eval()
