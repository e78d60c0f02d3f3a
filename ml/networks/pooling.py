"""Features of several stages of a backbone: mean and standard deviation of their maps.

A poster's style (lines, grain, colours) shows in statistics of early maps (Gatys et al. 2016,
https://arxiv.org/abs/1508.06576; Huang and Belongie 2017, https://arxiv.org/abs/1703.06868). The last maps lose it.
"""

import logging

import torch
from torch import Tensor, nn

from ml.networks.maps import TimmMaps, TracedMaps, with_maps

logger = logging.getLogger(__name__)

STAGES = 4
_TINY = 1e-6


class PooledBody(nn.Module):
    """Maps posters [N, 3, S, S] to [N, F]: the backbone's features, then mean and deviation of each stage's maps."""

    def __init__(self, maps: TracedMaps | TimmMaps) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        return join(*self.maps(images))


def join(features: Tensor, maps: list[Tensor]) -> Tensor:
    """Features [N, F0], then mean and deviation of each map [N, C, h, w]."""
    # In float32 even under autocast: a deviation is a small difference of large sums.
    parts = [features.float()]
    for each in maps:
        pixels = each.float().flatten(2)
        mean = pixels.mean(2)
        parts += [mean, ((pixels - mean[:, :, None]).square().mean(2) + _TINY).sqrt()]
    return torch.cat(parts, 1)


def pooled(body: nn.Module, size: int, name: str) -> nn.Module:
    """A body with additional features of its last `STAGES` stages, for posters of size x size pixels.

    A stage ends with the last map of its resolution. The new body shares the weights. A network without stages (such as
    a transformer), or one that cannot be traced, is returned unchanged and a warning is logged.
    """
    try:
        maps = with_maps(body, size, STAGES)
        with torch.no_grad():
            if len(maps(torch.zeros(1, 3, size, size))[1]) < 2:
                raise ValueError("it has no stages of decreasing resolution")
        return PooledBody(maps).eval()
    except Exception as error:  # finding maps runs the network's code, which may raise anything
        reason = str(error).partition("\n")[0].rstrip(".")
        logger.warning("Only the last features of %s are used: %s.", name, reason)
        return body
