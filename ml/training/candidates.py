"""The networks that are compared: how each is made, what is trained of it, and where its search looks."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.errors import SettingError
from ml.networks.backbones import Backbone, backbone, load_backbone
from ml.networks.kernel import KernelSetting
from ml.networks.weights import Weights, is_file, load_state
from ml.training.fit import Hyperparameters
from ml.training.outcome import Trained

SCRATCH, FROZEN, FINE_TUNED, WHOLE = "scratch", "frozen", "lp-ft", "whole"
NAMES = (SCRATCH, FROZEN, FINE_TUNED, WHOLE)


@dataclass(frozen=True)
class Range:
    """A hyperparameter between two values, searched on a logarithmic scale or not."""

    low: float
    high: float
    log: bool = True


Space = dict[str, Range | tuple[int, ...]]
"""Where a network's hyperparameters are searched, by name: ranges and choices."""

SCRATCH_SPACE: Space = {
    "learning_rate": Range(1e-3, 2e-2),
    "weight_decay": Range(1e-3, 0.3),
    "dropout": Range(0.0, 0.5, log=False),
    "hidden": (64, 128, 256),
}
SCRATCH_FIRST = Hyperparameters(learning_rate=5e-3, weight_decay=0.05, dropout=0.2, hidden=128)
WHOLE_SPACE: Space = {
    "learning_rate": Range(3e-4, 1e-2),
    "weight_decay": Range(1e-3, 0.3),
    "dropout": Range(0.0, 0.5, log=False),
    "hidden": (0, 128),
}
WHOLE_FIRST = Hyperparameters(learning_rate=2e-3, weight_decay=0.05, dropout=0.2, hidden=0)
FINE_TUNED_SPACE: Space = {"learning_rate": Range(1e-5, 1e-3), "weight_decay": Range(1e-3, 0.3)}
FINE_TUNED_FIRST = Hyperparameters(learning_rate=1e-4, weight_decay=0.05, dropout=0.0, hidden=0)
KERNEL_SPACE: Space = {"ridge": Range(0.3, 30.0), "width": Range(0.1, 2.0)}
KERNEL_FIRST = KernelSetting(ridge=3.0, width=0.5)
RECIPE_SPACE: Space = {"weight_decay": Range(1e-2, 100.0)}


@dataclass(frozen=True)
class Candidate:
    """A network whose layers are trained by gradient steps.

    `body` makes one on each call: with random weights drawn anew, or a copy of pretrained ones.
    """

    name: str
    backbone: str | None
    weights_sha256: str | None
    trained: Trained
    space: Space
    first: Hyperparameters
    body: Callable[[], nn.Module]


def pretrained(name: str, weights: Weights) -> Backbone:
    """A backbone with its weights; SettingError for an unknown one, WeightsError for weights that do not fit."""
    network = backbone(name)
    load_backbone(network, weights.state)
    return network


def chosen_candidates(config: TrainConfig, weights: Weights | None) -> tuple[str, ...]:
    """The names of the networks to compare, each once.

    What needs a pretrained backbone is trained whole where there are no weights for it. Raises SettingError for a
    name that is none.
    """
    asked = [name.strip() for name in config.candidates.split(",") if name.strip()]
    for name in asked:
        if name not in NAMES:
            raise SettingError(f"There is no candidate '{name}': name some of {', '.join(NAMES)}, separated by commas.")
    if not asked:
        raise SettingError(f"No candidate is named: name some of {', '.join(NAMES)}, separated by commas.")
    given = [WHOLE if weights is None and name in (FROZEN, FINE_TUNED) else name for name in asked]
    return tuple(dict.fromkeys(given))


def hyperparameters(parameters: dict[str, float], first: Hyperparameters) -> Hyperparameters:
    """Hyperparameters with what a trial chose, the rest as in the first setting."""
    known = {entry.name: getattr(first, entry.name) for entry in fields(Hyperparameters)}
    return Hyperparameters(**{**known, **parameters})


def check_settings(config: TrainConfig) -> None:
    """Find what is wrong with the settings before anything is started.

    Raises SettingError for an unknown backbone, candidate or device, and WeightsError for a file that cannot be read
    or does not fit. What would have to be downloaded is not checked.
    """
    choose_compute(config.device)
    chosen_candidates(config, None)
    network = backbone(config.backbone)
    if is_file(config.weights):
        load_backbone(network, load_state(Path(config.weights)).state)
