"""Networks that return class activation maps together with their probabilities, so that graphs can export them.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the last feature map's channels by the
gradient of a genre's logit. If features are means over the map's positions and the head is one linear layer, that
gradient is the layer's weights (Zhou et al. 2016, https://arxiv.org/abs/1512.04150). The gradient of a kernel head has
a closed form. The maps of all genres are therefore a few matrix products without a backward pass. ONNX Runtime computes
them in every pass, requested or not (https://github.com/microsoft/onnxruntime/issues/16013); they take less than a
tenth of it.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ml.networks.activation import last_feature_map
from ml.networks.backbones import GenreNetwork
from ml.networks.kernel import KernelHead, similarity
from ml.networks.pooling import PooledBody

_AFFINE = (nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity)
"""Layers that are affine in evaluation mode. A head of only these layers is affine, too."""
_PROBES = 2
_TOLERANCE = 1e-4
"""Largest difference between a feature and the mean of its map, relative to the largest mean."""


class ExplainedNetwork(nn.Module):
    """Maps posters, uint8 [N, 3, S, S], to probabilities, float32 [N, G], and maps, float32 [N, G, h, w].

    Values are in the units of logits. Higher values support the genre more; values that do not support it are 0. With
    a linear head, the mean of a map before negative values are set to 0 is its contribution to the logit. Divide a map
    by its maximum to draw it.
    """

    back: Tensor

    def __init__(self, network: GenreNetwork, layer: str, back: Tensor) -> None:
        """Wrap a network.

        Args:
            network: in evaluation mode and on the CPU.
            layer: name of the module whose output is the last feature map, [N, C, h, w].
            back: maps gradients to the map's channels. For an affine head, gradients of the logits, float [G, C]; for a
                kernel head, gradients of its projected points, float [P, C].
        """
        super().__init__()
        self.network = network
        self._layer = layer
        self.register_buffer("back", back)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, maps = _features_and_map(self.network, self._layer, images)
        head = self.network.head
        weights = _slopes(head, features) @ self.back if isinstance(head, KernelHead) else self.back
        found = torch.relu(weights @ maps.float().flatten(2))
        return torch.sigmoid(head(features)), found.reshape(*found.shape[:2], *maps.shape[2:])


def explain(network: GenreNetwork, size: int) -> ExplainedNetwork | None:
    """The network with maps besides its probabilities, or None if its maps have no closed form.

    The head must be affine or a kernel head. The features must be means over the positions of the last feature map;
    other features may only be those that a `PooledBody` adds. Random posters of size x size pixels test this, so no
    list of networks is needed.

    Args:
        network: in evaluation mode and on the CPU.
        size: width and height of posters, in pixels.
    """
    if not isinstance(network.head, KernelHead) and not _is_affine(network.head):
        return None
    drawn = np.random.default_rng(0).integers(0, 256, (_PROBES, 3, size, size), np.uint8)
    posters = torch.from_numpy(drawn)
    found = last_feature_map(network, posters[:1])
    if found is None:
        return None
    layer = next(name for name, module in network.named_modules() if module is found)
    with torch.no_grad():
        features, maps = _features_and_map(network, layer, posters)
    columns = _columns_of_means(network.body, features, maps.mean((2, 3)))
    if columns is None:
        return None
    slopes = _projection(network.head, features.shape[1])
    # A channel's mean may be in two columns. Its weight is the sum of their weights.
    return ExplainedNetwork(network, layer, torch.stack([slopes[:, column] for column in columns]).sum(0)).eval()


def _features_and_map(network: GenreNetwork, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, F], and the last output [N, C, h, w] of the named module.

    In-place operations on the map, such as the ReLU after DenseNet's last normalisation, are included: the map is what
    pooling sees.
    """
    seen: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        features = network.features(images)
    finally:
        hook.remove()
    return features, seen[-1]


def _columns_of_means(body: nn.Module, features: Tensor, means: Tensor) -> list[slice] | None:
    """The columns of features [N, F] that are the map's means [N, C], or None if others depend on the map, too.

    Deviations may depend on it: the mean of their gradient over positions is 0.
    """
    count, channels = features.shape[1], means.shape[1]
    columns = [slice(0, channels)]
    if isinstance(body, PooledBody):  # the backbone's features, ..., means and deviations of the last stage
        columns.append(slice(count - 2 * channels, count - channels))
    elif count != channels:
        return None
    largest = float(means.abs().max())
    for column in columns:
        if column.start < 0 or column.stop > count:
            return None
        # Features that are always 0 prove nothing.
        if not largest > 0 or not float((features[:, column] - means).abs().max()) <= _TOLERANCE * largest:
            return None
    return columns


def _is_affine(head: nn.Module) -> bool:
    layers = tuple(head) if isinstance(head, nn.Sequential) else (head,)
    return all(isinstance(layer, _AFFINE) for layer in layers)


def _projection(head: nn.Module, features: int) -> Tensor:
    """Gradients by features [N, F]: those of an affine head's logits, [G, F], or of a kernel head's points, [P, F]."""
    if isinstance(head, KernelHead):
        return head.projection.T
    slopes: Tensor = torch.func.jacrev(head)(torch.zeros(1, features))
    return slopes[0, :, 0].detach()


def _slopes(head: KernelHead, features: Tensor) -> Tensor:
    """The gradient of each logit by the projected point p, [N, G, P], for features [N, F].

    The gradient of the logit sum_m W_gm exp(-w |p - l_m|^2) is -2 w sum_m W_gm exp(-w |p - l_m|^2) (p - l_m).
    """
    points = (features.float() - head.mean) @ head.projection
    near = head.last.weight * similarity(points, head.landmarks, head.width)[:, None]
    return 2 * head.width * (near @ head.landmarks - near.sum(2, keepdim=True) * points[:, None])
