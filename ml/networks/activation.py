"""Class activation maps by Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

Exported graphs return their own maps (see `ml.networks.explanation`). Grad-CAM is for networks whose graph has none,
because it works with any head. For global average pooling and one linear layer it equals the map of Zhou et al. 2016
(https://arxiv.org/abs/1512.04150).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.errors import TrainingError


def last_feature_map(network: nn.Module, images: Tensor) -> nn.Module | None:
    """The last module of a network whose output is a feature map, [N, C, s, s] with s above 1.

    None if there is no such module, or if a later module attends to positions or returns them in another form, such as
    a transformer's tokens [N, s * s, C] or [N, s, s, C]: then the map is not the one whose positions become the
    features, or attention has mixed them.

    Args:
        network: in evaluation mode.
        images: at least one poster, uint8 [N, 3, S, S], on the network's device.
    """
    last: nn.Module | None = None

    def record(module: nn.Module, _: object, output: object) -> None:
        nonlocal last
        if isinstance(output, Tensor) and _is_map(output):
            last = module
        elif isinstance(module, nn.MultiheadAttention) or (isinstance(output, Tensor) and _has_positions(output)):
            last = None

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return last


def activation_maps(
    network: Callable[[Tensor], Tensor], layer: nn.Module, images: Tensor, genres: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Grad-CAM maps of one genre per poster, float32 [N, h, w] from 0 to 1; 0 everywhere if nothing supports the genre.

    Args:
        network: maps posters, uint8 [N, 3, S, S], to logits [N, G]; in evaluation mode.
        layer: the module of the network whose output is its last feature map, [N, C, h, w].
        images: posters on the network's device.
        genres: a column of the logits for each poster, [N].

    Raises TrainingError if the layer's output is not a feature map or the network does not use the layer.
    """
    seen: list[Tensor] = []

    def watch(_: nn.Module, __: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or not _is_map(output):
            given = f"[{', '.join(map(str, output.shape))}]" if isinstance(output, Tensor) else "not a tensor"
            raise TrainingError(f"A class activation map needs a layer with output [N, C, h, w]; this one is {given}.")
        # Gradients start here, because a frozen network has none. Later layers get a copy, as they may work in place.
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    hook = layer.register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logits = network(images)
            columns = torch.from_numpy(genres).to(logits.device).unsqueeze(1)
            chosen = logits.gather(1, columns).sum()
    finally:
        hook.remove()
    if not seen:
        raise TrainingError("A class activation map needs a layer that the network uses.")
    (gradient,) = torch.autograd.grad(chosen, seen[-1])
    weights = gradient.mean((2, 3), keepdim=True)
    maps = functional.relu((weights * seen[-1].detach()).sum(1)).float()
    highest = maps.amax((1, 2), keepdim=True)
    scaled: NDArray[np.float32] = (maps / highest.clamp_min(torch.finfo(maps.dtype).tiny)).cpu().numpy()
    return scaled


def _is_map(output: Tensor) -> bool:
    return output.dim() == 4 and output.shape[2] == output.shape[3] > 1  # posters are square


def _has_positions(output: Tensor) -> bool:
    """Whether an output is more than one value per poster and channel, [N, C] or [N, C, 1, 1]."""
    return output.dim() > 2 and max(output.shape[2:]) > 1
