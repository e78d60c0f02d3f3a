"""Where on a poster a network saw a genre: class activation maps.

By Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391), which for a network of convolutions, global
average pooling and one linear layer is the map of Zhou et al. 2016 (https://arxiv.org/abs/1512.04150), and which
allows any head.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ml.errors import TrainingError

# From nothing to all: the colours of viridis, which differ in lightness too.
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_OPACITY = 0.6


def last_feature_map(network: nn.Module, images: Tensor) -> nn.Module | None:
    """The module whose output is a network's last one with places, [N, C, h, w] with h and w above 1.

    None where there is none, and where attention follows: it mixes places, and after it a place of the map is no
    longer a place of the poster. The network is in evaluation mode and on the images' device; images are uint8
    [N, 3, S, S], one is enough.
    """
    called: list[tuple[nn.Module, bool]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        called.append((module, isinstance(output, Tensor) and _is_map(output)))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    places = [place for place, (_, is_map) in enumerate(called) if is_map]
    if not places or any(isinstance(module, nn.MultiheadAttention) for module, _ in called[places[-1] :]):
        return None
    return called[places[-1]][0]


def activation_maps(
    network: Callable[[Tensor], Tensor], layer: nn.Module, images: Tensor, genres: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Where each poster speaks for a genre, float32 [N, h, w] from 0 to 1, or 0 all over where no place does.

    Args:
        network: in evaluation mode; posters, uint8 [N, 3, S, S], to logits [N, G].
        layer: the part of it whose output is its last feature map, [N, C, h, w].
        images: posters, on the network's device.
        genres: a column of the logits for each poster, [N].

    Raises TrainingError where the layer's output has no places, or the network does not use the layer.
    """
    seen: list[Tensor] = []

    def watch(_: nn.Module, __: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or not _is_map(output):
            given = f"[{', '.join(map(str, output.shape))}]" if isinstance(output, Tensor) else "no tensor"
            raise TrainingError(f"A class activation map needs a layer's output [N, C, h, w], but there is {given}.")
        # A frozen network has no gradients of its own: they begin here. A copy goes on, for layers that work in place.
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
        raise TrainingError("A class activation map needs a layer that the network uses, but it does not use this one.")
    (gradient,) = torch.autograd.grad(chosen, seen[-1])
    weights = gradient.mean((2, 3), keepdim=True)
    maps = functional.relu((weights * seen[-1].detach()).sum(1)).float()
    highest = maps.amax((1, 2), keepdim=True)
    scaled: NDArray[np.float32] = (maps / highest.clamp_min(torch.finfo(maps.dtype).tiny)).cpu().numpy()
    return scaled


def overlay(images: NDArray[np.uint8], maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Posters, uint8 [N, 3, S, S], in grey below their maps, [N, h, w] from 0 to 1, in colour: uint8 [N, 3, S, S]."""
    size = images.shape[2:]
    wide = functional.interpolate(torch.from_numpy(maps)[:, None], size, mode="bicubic", align_corners=False)
    height = wide.clamp(0, 1).numpy()
    stops = np.linspace(0, 1, len(_RAMP))
    colour = np.concatenate([np.interp(height, stops, channel) for channel in zip(*_RAMP, strict=True)], axis=1)
    grey = images.mean(1, keepdims=True)
    blended: NDArray[np.uint8] = np.round(_OPACITY * colour + (1 - _OPACITY) * grey).astype(np.uint8)
    return blended


def _is_map(output: Tensor) -> bool:
    return output.dim() == 4 and min(output.shape[2:]) > 1
