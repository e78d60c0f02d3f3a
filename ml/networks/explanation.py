"""Where on a poster a network sees each genre, in the same pass as the probabilities: class activation maps.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the last feature map's channels by the
gradient of a genre's logit. Where features are means over the map's places and the head is one linear layer, that
gradient is the layer's weights (Zhou et al. 2016, https://arxiv.org/abs/1512.04150); that of a kernel head has a closed
form. So the maps of all genres are a few matrix products, which an exported graph holds: nothing runs backwards.
ONNX Runtime calculates them with every pass, asked for or not (https://github.com/microsoft/onnxruntime/issues/16013);
they are less than a tenth of one.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ml.networks.activation import last_feature_map
from ml.networks.backbones import GenreNetwork
from ml.networks.kernel import KernelHead, similarity
from ml.networks.pooling import PooledBody

_AFFINE = (nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Identity)
"""Layers that are affine in evaluation mode, and so are heads of these alone."""
_PROBES = 2
_SAME = 1e-4
"""How far a feature may lie from the mean of its map, in shares of the largest mean, and still be it."""


class ExplainedNetwork(nn.Module):
    """Posters, uint8 [N, 3, S, S], to probabilities, float32 [N, G], and class activation maps, float32 [N, G, h, w].

    A map is 0 where a place does not speak for the genre, and the higher the more it does, in the units of logits:
    under a linear head, the mean over places of what has not yet been cut at 0 is the part of the logit that comes
    from the map. To be drawn, a map is divided by its own maximum.
    """

    back: Tensor

    def __init__(self, network: GenreNetwork, layer: str, back: Tensor) -> None:
        """`layer` is the name of the part of the network whose output is its last feature map, [N, C, h, w].

        `back` brings a slope to the map's channels: float [G, C], of the logits themselves, where the head is affine,
        and [P, C], of the points that the head compares, where it is a kernel head.
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
    """The network, in evaluation mode and on the CPU, with maps beside its probabilities; None where it has none.

    It has them where its head is affine or a kernel head, and the features it sees are means over the places of the
    last feature map, beside them nothing but what a `PooledBody` adds. Whether they are is tried on random posters of
    size x size pixels, not looked up by name.
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
    # A channel's mean may stand in two columns: its weight is the sum of theirs.
    return ExplainedNetwork(network, layer, torch.stack([slopes[:, those] for those in columns]).sum(0)).eval()


def _features_and_map(network: GenreNetwork, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, F], and the map [N, C, h, w] that the named part last gave on the way to them.

    What is done to the map in place comes with it, as the ReLU after DenseNet's last normalisation, so that it is what
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
    """The columns of features [N, F] that are the map's means [N, C], where no others depend on the map but its
    deviations, whose gradient is 0 in the mean over places."""
    count, channels = features.shape[1], means.shape[1]
    columns = [slice(0, channels)]
    if isinstance(body, PooledBody):  # the network's own features, ..., means and deviations of the last stage
        columns.append(slice(count - 2 * channels, count - channels))
    elif count != channels:
        return None
    largest = float(means.abs().max())
    for those in columns:
        if those.start < 0 or those.stop > count:
            return None
        # Also not where all is 0: features that never show anything are no evidence.
        if not largest > 0 or not float((features[:, those] - means).abs().max()) <= _SAME * largest:
            return None
    return columns


def _is_affine(head: nn.Module) -> bool:
    layers = tuple(head) if isinstance(head, nn.Sequential) else (head,)
    return all(isinstance(layer, _AFFINE) for layer in layers)


def _projection(head: nn.Module, features: int) -> Tensor:
    """What is linear in features [N, F]: the slopes of an affine head's logits, [G, F], or of a kernel head's points,
    [P, F]."""
    if isinstance(head, KernelHead):
        return head.projection.T
    slopes: Tensor = torch.func.jacrev(head)(torch.zeros(1, features))
    return slopes[0, :, 0].detach()


def _slopes(head: KernelHead, features: Tensor) -> Tensor:
    """The gradient of each logit by the point that is compared with landmarks, [N, G, P], for features [N, F].

    Of the logit sum_m W_gm exp(-w |p - l_m|^2) it is -2 w sum_m W_gm exp(-w |p - l_m|^2) (p - l_m).
    """
    points = (features.float() - head.mean) @ head.projection
    near = head.last.weight * similarity(points, head.landmarks, head.width)[:, None]
    return 2 * head.width * (near @ head.landmarks - near.sum(2, keepdim=True) * points[:, None])
