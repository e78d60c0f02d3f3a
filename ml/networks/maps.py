"""Intermediate feature maps of a backbone, [N, C, h, w], through one interface: `with_maps`.

The last map is the one whose positions become the features, usually as their mean. A transformer's tokens are a map,
too.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

_PROBES = 2
_FEATURES = "own"


def with_maps(body: nn.Module, size: int, stages: int) -> "TracedMaps | TimmMaps":
    """A module that maps posters [N, 3, size, size] to the body's features [N, F] and a list of maps [N, C, h, w].

    The maps are the last ones of each of the last `stages` resolutions. The module shares the body's weights. Its
    `after_last_map` returns the modules that turn the last map into the features, in their order.

    Raises an exception of any type if the body has no maps: finding them runs its code.
    """
    body.eval()
    probes = torch.zeros(_PROBES, 3, size, size)
    with torch.no_grad():
        return (TimmMaps if hasattr(body, "forward_intermediates") else TracedMaps)(body, probes, stages)


class TracedMaps(nn.Module):
    """Maps of a network that `torch.fx` can trace, such as torchvision's convolutional networks."""

    def __init__(self, body: nn.Module, probes: Tensor, stages: int) -> None:
        super().__init__()
        _, nodes = get_graph_node_names(body, suppress_diff_warning=True)
        maps = {}
        probe = create_feature_extractor(body, nodes, suppress_diff_warning=True).eval()
        # Attention windows of a transformer are not maps: their first dimension is not the batch.
        for node, output in probe(probes).items():
            if isinstance(output, Tensor) and output.dim() == 4 and len(output) == _PROBES:
                height, width = output.shape[2:]
                if height == width > 1:
                    maps[height] = node
        kept = {node: node for node in list(maps.values())[-stages:]}
        if not kept:
            raise ValueError("it has no feature maps")
        self._last = nodes.index(list(kept)[-1])
        self._nodes = nodes
        self.extractor = create_feature_extractor(body, {**kept, nodes[-1]: _FEATURES}, suppress_diff_warning=True)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = dict(cast(Mapping[str, Tensor], self.extractor(images)))
        features = outputs.pop(_FEATURES)
        return features, list(outputs.values())

    def after_last_map(self, images: Tensor) -> list[nn.Module]:
        modules = dict(self.extractor.named_modules())
        return [modules[node] for node in self._nodes[self._last + 1 :] if node in modules]


class TimmMaps(nn.Module):
    """Maps of a network of timm, by its method `forward_intermediates`."""

    def __init__(self, body: nn.Module, probes: Tensor, stages: int) -> None:
        super().__init__()
        self.body: Any = body
        self._indices: list[int] | None = None
        _, maps = self._intermediates(probes)
        last_of = {found.shape[-1]: index for index, found in enumerate(maps) if found.shape[-1] > 1}
        if not last_of:
            raise ValueError("it has no feature maps")
        self._indices = list(last_of.values())[-stages:]

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        final, maps = self._intermediates(images)
        features: Tensor = self.body.forward_head(final, pre_logits=True)
        if final.dim() == 4:  # what pooling sees, which may have passed another layer than the last stage's map
            final = final.permute(0, 3, 1, 2) if getattr(self.body, "output_fmt", "") == "NHWC" else final
            if final.shape[2:] == maps[-1].shape[2:]:
                maps[-1] = final
        return features, maps

    def after_last_map(self, images: Tensor) -> list[nn.Module]:
        called: list[nn.Module] = []
        hooks = [
            module.register_forward_hook(lambda module, _, __: called.append(module))
            for module in self.body.modules()
            if not list(module.children())
        ]
        try:
            final, _ = self._intermediates(images)
            called.clear()
            self.body.forward_head(final, pre_logits=True)
        finally:
            for hook in hooks:
                hook.remove()
        return called

    def _intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the network gives to its head, and maps; the last map is normalised as those are."""
        final, maps = self.body.forward_intermediates(images, self._indices, norm=True, intermediates_only=False)
        return final, maps
