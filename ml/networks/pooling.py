"""More of a backbone than its last layer sees: mean and deviation of the maps of several stages.

What a poster's style is (its line, grain, colours) shows in statistics of early maps (Gatys et al. 2016,
https://arxiv.org/abs/1508.06576; Huang and Belongie 2017, https://arxiv.org/abs/1703.06868) and is gone from the last.
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
_OWN = "own"


class PooledBody(nn.Module):
    """Posters [N, 3, S, S] to [N, F]: the network's own features, then mean and deviation of each stage's maps."""

    def __init__(self, extractor: nn.Module) -> None:
        """`extractor` gives a dict of own features [N, F0] and of maps [N, C, H, W]."""
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        outputs = cast(Mapping[str, Tensor], self.extractor(images))
        # In float32 also under autocast: a deviation is the small difference of large sums.
        parts = [outputs[_OWN].float()]
        for name, maps in outputs.items():
            if name != _OWN:
                pixels = maps.float().flatten(2)
                mean = pixels.mean(2)
                parts += [mean, ((pixels - mean[:, :, None]).square().mean(2) + _TINY).sqrt()]
        return torch.cat(parts, 1)


def pooled(body: nn.Module, size: int, name: str) -> nn.Module:
    """A body whose features are joined by those of its last `STAGES` stages, for posters of size x size pixels.

    A stage ends with the last map of its resolution. A network that has no such stages (a transformer), or whose
    graph cannot be traced, is given as it is, which is said. The new body shares the old one's weights.
    """
    try:
        body.eval()
        _, nodes = get_graph_node_names(body, suppress_diff_warning=True)
        maps = {}
        with torch.no_grad():
            probe = create_feature_extractor(body, nodes, suppress_diff_warning=True).eval()
            # Windows of a transformer's attention are no maps: their first dimension is not the batch's.
            for node, output in probe(torch.zeros(_PROBES, 3, size, size)).items():
                if isinstance(output, Tensor) and output.dim() == 4 and len(output) == _PROBES:
                    height, width = output.shape[2:]
                    if height == width > 1:
                        maps[height] = node
        stages = {node: node for node in list(maps.values())[-STAGES:]}
        if len(stages) < 2:
            raise ValueError("it has no stages of falling resolution")
        extractor = create_feature_extractor(body, {**stages, nodes[-1]: _OWN}, suppress_diff_warning=True)
        return PooledBody(extractor).eval()
    except Exception as error:  # tracing runs the network's own code with stand-ins, which may raise anything
        reason = str(error).partition("\n")[0].rstrip(".")
        logger.warning("Of %s only its last features are used: %s.", name, reason)
        return body
