"""Features of several stages of a backbone: mean and standard deviation of their maps.

A poster's style (lines, grain, colours) shows in statistics of early maps (Gatys et al. 2016,
https://arxiv.org/abs/1508.06576; Huang and Belongie 2017, https://arxiv.org/abs/1703.06868). The last maps lose it.
"""

import logging
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

logger = logging.getLogger(__name__)

STAGES = 4
_TINY = 1e-6
_PROBES = 2
_PLAIN = "own"


class PooledBody(nn.Module):
    """Maps posters [N, 3, S, S] to [N, F]: the backbone's features, then mean and deviation of each stage's maps."""

    def __init__(self, extractor: nn.Module) -> None:
        """`extractor` returns a dict of the backbone's features [N, F0] and of maps [N, C, H, W]."""
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        outputs = cast(Mapping[str, Tensor], self.extractor(images))
        # In float32 even under autocast: a deviation is a small difference of large sums.
        parts = [outputs[_PLAIN].float()]
        for name, maps in outputs.items():
            if name != _PLAIN:
                pixels = maps.float().flatten(2)
                mean = pixels.mean(2)
                parts += [mean, ((pixels - mean[:, :, None]).square().mean(2) + _TINY).sqrt()]
        return torch.cat(parts, 1)


def pooled(body: nn.Module, size: int, name: str) -> nn.Module:
    """A body with additional features of its last `STAGES` stages, for posters of size x size pixels.

    A stage ends with the last map of its resolution. The new body shares the weights. A network without stages (such as
    a transformer), or one that cannot be traced, is returned unchanged and a warning is logged.
    """
    try:
        body.eval()
        _, nodes = get_graph_node_names(body, suppress_diff_warning=True)
        maps = {}
        with torch.no_grad():
            probe = create_feature_extractor(body, nodes, suppress_diff_warning=True).eval()
            # Attention windows of a transformer are not maps: their first dimension is not the batch.
            for node, output in probe(torch.zeros(_PROBES, 3, size, size)).items():
                if isinstance(output, Tensor) and output.dim() == 4 and len(output) == _PROBES:
                    height, width = output.shape[2:]
                    if height == width > 1:
                        maps[height] = node
        stages = {node: node for node in list(maps.values())[-STAGES:]}
        if len(stages) < 2:
            raise ValueError("it has no stages of decreasing resolution")
        extractor = create_feature_extractor(body, {**stages, nodes[-1]: _PLAIN}, suppress_diff_warning=True)
        return PooledBody(extractor).eval()
    except Exception as error:  # tracing runs the network's code, which may raise anything
        reason = str(error).partition("\n")[0].rstrip(".")
        logger.warning("Only the last features of %s are used: %s.", name, reason)
        return body
