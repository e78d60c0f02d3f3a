"""Networks that return class activation maps together with their probabilities, so that graphs can export them.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the last feature map's channels by the
gradient of a genre's logit. If features depend on that map only through its means over positions, the gradient has a
closed form: that of the layers after the means, by the chain rule. For one linear layer it is the layer's weights (Zhou
et al. 2016, https://arxiv.org/abs/1512.04150). The maps of all genres are therefore a few matrix products without a
backward pass. ONNX Runtime computes them in every pass, requested or not
(https://github.com/microsoft/onnxruntime/issues/16013); they take less than a tenth of it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml.networks.backbones import GenreNetwork
from ml.networks.kernel import KernelHead, similarity
from ml.networks.maps import TimmMaps, TracedMaps, with_maps
from ml.networks.pooling import PooledBody, join

_WITHOUT_EFFECT = (nn.Identity, nn.Dropout, nn.Flatten)
_LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.Hardswish, KernelHead)
"""Layers whose gradient `_pulled_back` knows. A convolution is one of 1 x 1."""
_PROBES = 2
_TOLERANCE = 1e-4
"""Largest difference between a feature and its value from the means of the map, relative to the largest feature."""


class NotExplainable(Exception):
    """The network has no maps in closed form. The message says why; it completes "because ..."."""


class ExplainedNetwork(nn.Module):
    """Maps posters, uint8 [N, 3, S, S], to probabilities, float32 [N, G], and maps, float32 [N, G, h, w].

    Values are in the units of logits. Higher values support the genre more; values that do not support it are 0. With
    a linear head, the mean of a map before negative values are set to 0 is its contribution to the logit. Divide a map
    by its maximum to draw it.
    """

    def __init__(
        self, network: GenreNetwork, maps: TracedMaps | TimmMaps, tail: Sequence[nn.Module], head: Sequence[nn.Module]
    ) -> None:
        """Wrap a network, in evaluation mode and on the CPU.

        Args:
            network: the network.
            maps: its body with maps.
            tail: the layers from the means of the last map to the body's features.
            head: the layers from the features to the logits.
        """
        super().__init__()
        self.network = network
        self.maps = maps
        self._tail, self._head = list(tail), list(head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, maps = self.maps(self.network.normalised(images))
        last = maps[-1].float()
        pooled = isinstance(self.network.body, PooledBody)
        count = features.shape[1]
        features = join(features, maps) if pooled else features
        logits = self.network.head(features)
        slopes = _slopes(self._head, features, torch.eye(logits.shape[1])[None])
        weights = _slopes(self._tail, last.mean((2, 3)), slopes[:, :, :count])
        if pooled:  # the map's means are features as well; the gradient of their deviations has a mean of 0
            channels = last.shape[1]
            weights = weights + slopes[:, :, -2 * channels : -channels]
        found = torch.relu(weights @ last.flatten(2))
        return torch.sigmoid(logits), found.reshape(*found.shape[:2], *last.shape[2:])


def explain(network: GenreNetwork, size: int) -> ExplainedNetwork:
    """The network with maps besides its probabilities.

    The body's features must depend on its last feature map only through the map's means over positions. Random posters
    of size x size pixels test this, so no list of networks is needed.

    Args:
        network: in evaluation mode and on the CPU.
        size: width and height of posters, in pixels.

    Raises NotExplainable for other networks.
    """
    head = _layers(network.head)
    if head is None:
        raise NotExplainable("its head has a layer of another kind than these maps can follow")
    body = network.body
    drawn = np.random.default_rng(0).integers(0, 256, (_PROBES, 3, size, size), np.uint8)
    try:
        maps = body.maps if isinstance(body, PooledBody) else with_maps(body, size, 1)
        with torch.no_grad():
            images = network.normalised(torch.from_numpy(drawn))
            features, found = maps.eval()(images)
            tail = [layer for layer in maps.after_last_map(images) if isinstance(layer, _LAYERS)]
            is_explained = min(found[-1].shape[2:]) > 1 and _are_means(features, found[-1], tail)
    except Exception as error:  # finding maps runs the network's code, which may raise anything
        raise NotExplainable("its body has no feature maps") from error
    if not is_explained:
        raise NotExplainable("its features are not means over the places of a feature map")
    return ExplainedNetwork(network, maps, tail, head).eval()


def _layers(head: nn.Module) -> list[nn.Module] | None:
    """The layers of a head that have an effect, None if `_pulled_back` does not know one."""
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    layers = [layer for layer in layers if not isinstance(layer, _WITHOUT_EFFECT)]
    return layers if all(isinstance(layer, _LAYERS) for layer in layers) else None


def _are_means(features: Tensor, last: Tensor, tail: Sequence[nn.Module]) -> bool:
    """Whether the layers of the tail map the means of the last map to the features."""
    values = last.mean((2, 3))
    try:
        for layer in tail:
            values = _applied(layer, values)
    except RuntimeError:  # a layer of another width
        return False
    largest = float(features.abs().max())
    # Features that are always 0 prove nothing.
    return (
        values.shape == features.shape
        and largest > 0
        and float((features - values).abs().max()) <= _TOLERANCE * largest
    )


def _slopes(layers: Sequence[nn.Module], values: Tensor, slopes: Tensor) -> Tensor:
    """Gradients [N or 1, G, F] by the layers' input `values` [N, F], from gradients `slopes` by their output."""
    inputs = []
    for layer in layers:
        inputs.append(values)
        values = _applied(layer, values)
    for layer, given in zip(reversed(layers), reversed(inputs), strict=True):
        slopes = _pulled_back(layer, given, slopes)
    return slopes


def _applied(layer: nn.Module, values: Tensor) -> Tensor:
    """A layer's output for values without positions, [N, F]."""
    if isinstance(layer, nn.Conv2d):
        return functional.linear(values, layer.weight.flatten(1), layer.bias)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        return functional.batch_norm(
            values, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )
    if isinstance(layer, nn.LayerNorm):  # also those that expect channels before positions
        return functional.layer_norm(values, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    if isinstance(layer, nn.ReLU):
        return functional.relu(values)
    if isinstance(layer, nn.Hardswish):
        return functional.hardswish(values)
    output: Tensor = layer(values)
    return output


def _pulled_back(layer: nn.Module, values: Tensor, slopes: Tensor) -> Tensor:
    """Gradients by a layer's input `values` [N, F], from gradients `slopes` [N or 1, G, F'] by its output."""
    if isinstance(layer, nn.Linear):
        return slopes @ layer.weight
    if isinstance(layer, nn.Conv2d):
        return slopes @ layer.weight.flatten(1)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        assert layer.running_var is not None
        scale = torch.rsqrt(layer.running_var + layer.eps)
        return slopes * (scale if layer.weight is None else scale * layer.weight)
    if isinstance(layer, nn.LayerNorm):
        # Ba et al. 2016, https://arxiv.org/abs/1607.06450, section 3.1, differentiated.
        moved = values - values.mean(1, keepdim=True)
        scale = torch.rsqrt(moved.square().mean(1, keepdim=True) + layer.eps)
        normal = (moved * scale)[:, None]
        weighted = slopes if layer.weight is None else slopes * layer.weight
        removed = weighted.mean(2, keepdim=True) + normal * (weighted * normal).mean(2, keepdim=True)
        return (weighted - removed) * scale[:, None]
    if isinstance(layer, nn.ReLU):
        return slopes * (values > 0)[:, None]
    if isinstance(layer, nn.Hardswish):
        inner = torch.where(values < 3, (2 * values + 3) / 6, 1.0)
        return slopes * torch.where(values > -3, inner, 0.0)[:, None]
    assert isinstance(layer, KernelHead)
    return slopes @ _kernel_slopes(layer, values)


def _kernel_slopes(head: KernelHead, features: Tensor) -> Tensor:
    """The gradient of each logit by the features [N, F], [N, G, F].

    For a projected point p, the gradient of the logit sum_m W_gm exp(-w |p - l_m|^2) is
    -2 w sum_m W_gm exp(-w |p - l_m|^2) (p - l_m).
    """
    points = (features.float() - head.mean) @ head.projection
    near = head.last.weight * similarity(points, head.landmarks, head.width)[:, None]
    by_point = 2 * head.width * (near @ head.landmarks - near.sum(2, keepdim=True) * points[:, None])
    return by_point @ head.projection.T
