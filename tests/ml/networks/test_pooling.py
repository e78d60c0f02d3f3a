import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ml.export.bundle_writer import TOLERANCE
from ml.export.graph import export_onnx
from ml.networks.backbones import HALF, GenreNetwork, feature_count, read_backbone
from ml.networks.pooling import PooledBody, pooled

pytestmark = pytest.mark.train


class Stages(nn.Module):
    """Four convolutions that each halve the maps, and a linear layer on the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth = (
            nn.Conv2d(wide, wide + 1, 3, stride=2, padding=1) for wide in (3, 4, 5, 6)
        )
        self.last = nn.Linear(7, 9)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        one = self.first(images).relu()
        two = self.second(one).relu()
        three = self.third(two).relu()
        return self.last(self.fourth(three).relu().mean((2, 3)))


def test_pooled_features_are_those_of_the_backbone_then_mean_and_deviation_of_each_stage() -> None:
    torch.manual_seed(0)
    body = Stages().eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        features = pooled(body, 32, "stages")(images)
        one = body.first(images).relu()
        two = body.second(one).relu()
        three = body.third(two).relu()
        expected = [body(images)]
        four = body.fourth(three).relu()
        for maps in (one, two, three, four):
            expected += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
    assert features.shape == (5, 9 + 2 * (4 + 5 + 6 + 7))
    assert torch.allclose(features, torch.cat(expected, 1), atol=2e-3)
    assert torch.equal(features[:, :9], expected[0])


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18"])
def test_pooled_network_begins_with_the_features_of_the_backbone_and_exports_to_onnx(name: str) -> None:
    torch.manual_seed(0)
    plain = read_backbone(name, "none", Path()).body().eval()
    body = pooled(copy.deepcopy(plain), 64, name)
    assert isinstance(body, PooledBody)
    count = feature_count(body, 64, name)
    assert count > 512
    network = GenreNetwork(body, nn.Linear(count, 3), HALF, frozen=True).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8)
    with torch.no_grad():
        features = network.features(torch.from_numpy(images))
        scaled = torch.from_numpy(images).float() * network.scale - network.shift
        assert torch.allclose(features[:, :512], plain(scaled), atol=1e-4)
        expected = network(torch.from_numpy(images)).sigmoid().numpy()
    if name == "resnet18":  # exporting takes seconds; test_bundle_writer exports a pooled SqueezeNet
        assert np.abs(_run(export_onnx(network, 64), images) - expected).max() < TOLERANCE


def test_pooled_body_shares_the_weights_of_the_plain_one_and_adds_none() -> None:
    body = Stages()
    given = {id(parameter) for parameter in body.parameters()}
    assert {id(parameter) for parameter in pooled(body, 32, "stages").parameters()} == given


def test_pooled_body_can_be_copied_and_trained_separately() -> None:
    class Dropping(Stages):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(super().forward(images), 0.5, self.training)

    body = pooled(Dropping(), 32, "dropping")
    other = copy.deepcopy(body)
    images = torch.randn(2, 3, 32, 32)
    other.train()
    assert not torch.equal(other(images), other(images))
    assert torch.equal(body(images), body(images))
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert bool(next(body.parameters()).any())
    assert torch.equal(other.eval()(images), other(images))


def test_pooled_deviations_are_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    body = pooled(Stages(), 32, "stages")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = body(torch.randn(2, 3, 32, 32))
    assert features.dtype == torch.float32


def test_pooled_features_of_constant_maps_have_finite_gradients() -> None:
    body = pooled(Stages(), 32, "stages")
    images = torch.zeros(2, 3, 32, 32, requires_grad=True)
    features = body(images)
    features.sum().backward()
    assert bool(features.isfinite().all())
    assert images.grad is not None and bool(images.grad.isfinite().all())


def test_pooled_returns_a_network_without_stages_unchanged_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    assert pooled(flat, 32, "flat") is flat
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "Only the last features of flat are used: it has no stages of decreasing resolution."


def test_pooled_returns_a_network_that_cannot_be_traced_unchanged_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Untraceable(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))

    network = Untraceable()
    assert pooled(network, 32, "untraceable") is network
    assert "Only the last features of untraceable are used: symbolically traced variables" in caplog.text


def _run(graph: bytes, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: images})
    return output
