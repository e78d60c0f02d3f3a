"""The registry of candidate networks: `CANDIDATES` has one entry per kind of network.

To add a network, add an entry. The command line, the form and the search read everything about a network from it.
Functions import torch when they are called, so that `--help` does not load it.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ml.configuration import TrainConfig
from ml.errors import SettingError

if TYPE_CHECKING:
    from ml.networks.weights import Weights
    from ml.reporting import Reporter
    from ml.training.bench import Bench
    from ml.training.features import Pretrained
    from ml.training.outcome import NetworkOutcome

logger = logging.getLogger(__name__)

Trained = Literal["whole", "frozen", "lp-ft"]
"""Which weights are trained: all of them, only the head, or the head first and then all of them."""


@dataclass(frozen=True)
class Range:
    """An interval of hyperparameter values, searched on a logarithmic scale unless `log` is false."""

    low: float
    high: float
    log: bool = True


SearchSpace = Mapping[str, Range | tuple[int, ...]]
"""A search space: an interval or a tuple of choices per hyperparameter."""


@dataclass(frozen=True)
class Candidate:
    """A kind of network.

    Attributes:
        name: its name in settings, reports and bundles.
        description: what it is, for `--help` and the form.
        trained: which of its weights are trained.
        space: the search space of its hyperparameters.
        first: its complete hyperparameters in the first trial; later trials replace those in `space`.
        train: trains it. Arguments are this entry, the bench, the pretrained backbone (None if there are no weights)
            and the network's reporter.
        without_weights: the candidate that replaces it if there are no pretrained weights. A candidate that has one
            is therefore always trained with a pretrained backbone.
    """

    name: str
    description: str
    trained: Trained
    space: SearchSpace
    first: Mapping[str, float]
    train: Callable[["Candidate", "Bench", "Pretrained | None", "Reporter"], "NetworkOutcome"]
    without_weights: str | None = None


def _train_scratch(
    candidate: Candidate, bench: "Bench", pretrained: "Pretrained | None", reporter: "Reporter"
) -> "NetworkOutcome":
    from ml.networks.backbones import scratch_body
    from ml.training.gradient import Body, train_by_gradient

    body = Body(lambda: scratch_body(bench.dataset.preprocessing.size))
    return train_by_gradient(candidate, bench, body, reporter)


def _train_frozen(
    candidate: Candidate, bench: "Bench", pretrained: "Pretrained | None", reporter: "Reporter"
) -> "NetworkOutcome":
    from ml.training.frozen import train_frozen

    assert pretrained is not None
    return train_frozen(candidate, bench, pretrained, reporter)


def _train_fine_tuned(
    candidate: Candidate, bench: "Bench", pretrained: "Pretrained | None", reporter: "Reporter"
) -> "NetworkOutcome":
    from ml.training.frozen import KERNEL_FIRST, fit_head
    from ml.training.gradient import Body, train_by_gradient

    assert pretrained is not None
    features = pretrained.features
    body = Body(lambda: copy.deepcopy(pretrained.body), bench.backbone)
    return train_by_gradient(
        candidate, bench, body, reporter, lambda rows: fit_head(bench, features, rows, KERNEL_FIRST)
    )


def _train_whole(
    candidate: Candidate, bench: "Bench", pretrained: "Pretrained | None", reporter: "Reporter"
) -> "NetworkOutcome":
    from ml.training.gradient import Body, train_by_gradient

    backbone = bench.backbone
    return train_by_gradient(candidate, bench, Body(backbone.body, backbone), reporter)


SCRATCH, FROZEN, FINE_TUNED, WHOLE = "scratch", "frozen", "lp-ft", "whole"

CANDIDATES: Mapping[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        Candidate(
            SCRATCH,
            "a small convolutional network, trained from random weights",
            trained="whole",
            space={
                "learning_rate": Range(1e-3, 2e-2),
                "weight_decay": Range(1e-3, 0.3),
                "dropout": Range(0.0, 0.5, log=False),
                "hidden": (64, 128, 256),
            },
            first={"learning_rate": 5e-3, "weight_decay": 0.05, "dropout": 0.2, "hidden": 128},
            train=_train_scratch,
        ),
        Candidate(
            FROZEN,
            "the pretrained backbone with unchanged weights and a new head",
            trained="frozen",
            space={"ridge": Range(0.3, 30.0), "width": Range(0.1, 2.0)},
            first={"ridge": 3.0, "width": 0.5},
            train=_train_frozen,
            without_weights=WHOLE,
        ),
        Candidate(
            FINE_TUNED,
            "the pretrained backbone with a fitted head, then all weights fine-tuned",
            trained="lp-ft",
            space={"learning_rate": Range(1e-5, 1e-3), "weight_decay": Range(1e-3, 0.3)},
            first={"learning_rate": 1e-4, "weight_decay": 0.05, "dropout": 0.0, "hidden": 0},
            train=_train_fine_tuned,
            without_weights=WHOLE,
        ),
        Candidate(
            WHOLE,
            "the backbone with a new head, all weights trained together",
            trained="whole",
            space={
                "learning_rate": Range(3e-4, 1e-2),
                "weight_decay": Range(1e-3, 0.3),
                "dropout": Range(0.0, 0.5, log=False),
                "hidden": (0, 128),
            },
            first={"learning_rate": 2e-3, "weight_decay": 0.05, "dropout": 0.2, "hidden": 0},
            train=_train_whole,
        ),
    )
}
"""All candidate networks by name."""


def chosen_candidates(config: TrainConfig, weights: "Weights | None") -> tuple[str, ...]:
    """The names of the candidate networks to compare, without duplicates.

    Without pretrained weights, networks that need them are replaced (see `Candidate.without_weights`), which is logged.
    Raises SettingError for an unknown name.
    """
    _check_names(config)
    names = []
    for name in dict.fromkeys(config.candidates):
        other = CANDIDATES[name].without_weights
        if weights is None and other is not None:
            logger.warning(
                "The network '%s' needs pretrained weights, and the setting weights is 'none': '%s' is trained from "
                "random weights instead.",
                name,
                other,
            )
            name = other
        names.append(name)
    return tuple(dict.fromkeys(names))


def _check_names(config: TrainConfig) -> None:
    for name in config.candidates:
        if name not in CANDIDATES:
            raise SettingError(f"Unknown candidate network '{name}'; choose from {', '.join(CANDIDATES)}.")


def check_settings(config: TrainConfig, image_size: int, trains_here: bool = True) -> None:
    """Check settings before training starts. The device is not checked if another machine trains.

    What would have to be downloaded is not checked. Raises SettingError for an unknown backbone, candidate or device,
    TrainingError if the backbone does not accept posters of this size, MissingPackageError if it needs a package that
    is missing, and WeightsError if a weights file cannot be read or does not fit the backbone.
    """
    from ml.compute import choose_compute
    from ml.networks.backbones import check_backbone

    if trains_here:
        choose_compute(config.device)
    _check_names(config)
    check_backbone(config.backbone, config.weights, image_size)
