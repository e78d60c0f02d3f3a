"""The networks that are compared: how each is made, what is trained of it, and where its search looks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.networks import backbone, load_backbone, scratch_body
from ml.training import Hyperparameters
from ml.weights import Weights, is_file, load_state

SCRATCH, TRANSFER = "scratch", "transfer"


@dataclass(frozen=True)
class Space:
    """Where a network's hyperparameters are searched; learning rate and decay on a logarithmic scale.

    `first` is tried first: values that are known to work.
    """

    learning_rate: tuple[float, float]
    weight_decay: tuple[float, float]
    dropout: tuple[float, float]
    hidden: tuple[int, ...]
    first: Hyperparameters


SCRATCH_SPACE = Space(
    learning_rate=(1e-3, 2e-2),
    weight_decay=(1e-3, 0.3),
    dropout=(0.0, 0.5),
    hidden=(64, 128, 256),
    first=Hyperparameters(learning_rate=5e-3, weight_decay=0.05, dropout=0.2, hidden=128),
)
WHOLE_SPACE = Space(
    learning_rate=(3e-4, 1e-2),
    weight_decay=(1e-3, 0.3),
    dropout=(0.0, 0.5),
    hidden=(0, 128),
    first=Hyperparameters(learning_rate=2e-3, weight_decay=0.05, dropout=0.2, hidden=0),
)
HEAD_SPACE = Space(
    learning_rate=(3e-4, 3e-2),
    weight_decay=(1e-2, 10.0),
    dropout=(0.0, 0.7),
    hidden=(0, 64, 128),
    first=Hyperparameters(learning_rate=3e-3, weight_decay=1.0, dropout=0.5, hidden=0),
)


@dataclass(frozen=True)
class Candidate:
    """A network to search.

    `body` makes one: with random weights anew each time where the network is trained whole, the same
    pretrained one each time where its head alone is trained.
    """

    name: str
    backbone: str | None
    weights_sha256: str | None
    trained: Literal["whole", "head"]
    space: Space
    body: Callable[[], nn.Module]


def scratch(size: int) -> Candidate:
    """The network written from scratch, for posters of size x size pixels."""
    return Candidate(SCRATCH, None, None, "whole", SCRATCH_SPACE, lambda: scratch_body(size))


def transfer(name: str, weights: Weights | None) -> Candidate:
    """The pretrained backbone with a new head; trained whole where there are no weights for it.

    Raises SettingError for an unknown backbone, and WeightsError for weights that do not fit.
    """
    pretrained = backbone(name)
    if weights is None:
        return Candidate(TRANSFER, name, None, "whole", WHOLE_SPACE, lambda: backbone(name).body)
    load_backbone(pretrained, weights.state)
    return Candidate(TRANSFER, name, weights.sha256, "head", HEAD_SPACE, lambda: pretrained.body)


def check_settings(config: TrainConfig) -> None:
    """Find what is wrong with the settings before anything is started.

    Raises SettingError for an unknown backbone or device, and WeightsError for a file that cannot be read or
    does not fit. What would have to be downloaded is not checked.
    """
    choose_compute(config.device)
    network = backbone(config.backbone)
    if is_file(config.weights):
        load_backbone(network, load_state(Path(config.weights)).state)
