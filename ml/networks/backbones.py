"""Networks: a small one that is trained from scratch, and torchvision's backbones with a new head.

Both are a `GenreNetwork`: pixels -> body -> features [N, F] -> head -> logits [N, G].
"""

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.errors import SettingError, TrainingError, WeightsError
from serving.bundle.model import Preprocessing


class GenreNetwork(nn.Module):
    """Maps posters, uint8 [N, 3, S, S], to one logit per genre, float [N, G].

    Normalisation is part of the network: training, scoring and the exported graph share it. A frozen body has no
    gradients and stays in evaluation mode, so training the head changes neither its weights nor its BatchNorm
    statistics.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, head: nn.Module, preprocessing: Preprocessing, frozen: bool) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.frozen = frozen
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        # (pixel / 255 - mean) / std with two operations instead of three over all pixels.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)
        if frozen:
            body.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "GenreNetwork":
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """The body's features of posters, float [N, F]."""
        features = self.body(images.float() * self.scale - self.shift)
        # Inception and GoogLeNet also return auxiliary logits while they are trained.
        return cast(Tensor, features if isinstance(features, Tensor) else features[0])

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))


def scratch_body(size: int) -> nn.Module:
    """The body of the network that is trained from scratch: [N, 3, size, size] to [N, 256], size >= 32.

    The first convolution reduces larger posters to 64 pixels per side, and pooling comes before normalisation and
    ReLU. Otherwise the first layers would take nearly all of the time.
    """
    widths = (32, 64, 128, 256)
    stride = max(2, size // 64)
    stem = nn.Conv2d(3, widths[0], 2 * stride + 1, stride=stride, padding=stride, bias=False)
    layers: list[nn.Module] = [stem]
    for width, wider in pairwise(widths):
        layers += [nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Backbone:
    """A torchvision network without its last layer, [N, 3, S, S] to [N, F], and the name of that layer."""

    name: str
    body: nn.Module
    classifier: str


def backbone(name: str) -> Backbone:
    """A classification network of torchvision by name, with random weights.

    Its last fully connected layer (in SqueezeNet a 1x1 convolution before pooling) is replaced by an identity, so the
    output is that layer's input. Raises SettingError for a name that torchvision does not have.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known) or ["resnet18", "mobilenet_v3_small"])
        raise SettingError(f"torchvision has no backbone named '{name}'; it has {near} and others.")
    with warnings.catch_warnings():
        # Two old networks warn about a change of their random initial weights.
        warnings.simplefilter("ignore", FutureWarning)
        body: nn.Module = torchvision.models.get_model(name, weights=None)
    layers = [path for path, layer in body.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    classifier = layers[-1]
    parent, _, attribute = classifier.rpartition(".")
    setattr(body.get_submodule(parent), attribute, nn.Identity())
    return Backbone(name, body, classifier)


def load_backbone(network: Backbone, state: Mapping[str, Tensor]) -> None:
    """Load pretrained weights, except those of a last layer.

    Raises WeightsError, naming keys, if keys are missing or unexpected or tensors have another shape.
    """
    expected = network.body.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(f"{network.classifier}.")}
    # Files from before PyTorch 0.4.1 lack the number of batches, which is not used here.
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    for what, keys in (
        ("lack", expected.keys() - given.keys() - optional),
        ("hold unexpected", given.keys() - expected.keys()),
        ("have another shape in", {key for key in expected.keys() & given if expected[key].shape != given[key].shape}),
    ):
        if keys:
            named = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            raise WeightsError(f"The weights do not fit {network.name}: they {what} {named}. Choose their backbone.")
    network.body.load_state_dict(given, strict=False)


def pretrained_backbone(name: str, state: Mapping[str, Tensor]) -> Backbone:
    """A backbone with pretrained weights. Raises SettingError for an unknown name, WeightsError as `load_backbone`."""
    network = backbone(name)
    load_backbone(network, state)
    return network


def feature_count(body: nn.Module, size: int, name: str) -> int:
    """F of a body for posters of size x size pixels. Raises TrainingError if the body does not accept them."""
    try:
        with torch.no_grad():
            return int(body.eval()(torch.zeros(1, 3, size, size)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise TrainingError(
            f"{name} does not accept posters of {size} x {size} pixels. Choose another size or backbone.",
            str(error).partition("\n")[0],
        ) from error


def head(features: int, frequencies: NDArray[np.float64], hidden: int, dropout: float) -> nn.Sequential:
    """Fully connected layers from features [N, F] to logits [N, G]; a single layer if `hidden` is 0.

    Features are standardised first, so that one range of learning rates suits every backbone. The last bias starts at
    the log odds of the genres' `frequencies` [G], as in section 3.3 of Lin et al. 2017
    (https://arxiv.org/abs/1708.02002), so that the first steps need not learn them.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(features, affine=False)]
    width = features
    if hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
        width = hidden
    last = nn.Linear(width, len(frequencies))
    odds = np.clip(frequencies, 1e-3, 1 - 1e-3)
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(odds / (1 - odds))))
    return nn.Sequential(*layers, nn.Dropout(dropout), last)
