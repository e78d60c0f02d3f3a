"""What came of training: each network at its best setting, and the one that was chosen."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.metrics import Probabilities, Scores
from ml.networks import GenreNetwork

Trained = Literal["whole", "frozen", "lp-ft"]
"""All of a network from its first weights on, its head alone, or all of it after its head."""


@dataclass(frozen=True)
class Trial:
    """One setting of a network's hyperparameters, numbered from 1, and its weighted F1 on the validation part, the last
    one where the trial was given up early."""

    number: int
    parameters: Mapping[str, float]
    validation_weighted_f1: float
    seconds: float
    pruned: bool = False


@dataclass(frozen=True)
class NetworkOutcome:
    """A network at its best hyperparameters; on the CPU until it is asked to `predict`.

    `validation` are scores of `validation_probabilities`, float32 [V, G], on the validation part with cross-fitted
    thresholds. `thresholds`, float [G], are a genre's own, `common_threshold` is the best one for all. `predict` gives
    probabilities float32 [n, G] for rows of the dataset. `images_per_second` are posters in training, and for a
    frozen backbone posters through it (None where its features were known).
    """

    name: str
    backbone: str | None
    weights_sha256: str | None
    trained: Trained
    best: Trial
    trials: tuple[Trial, ...]
    validation: Scores
    validation_probabilities: Probabilities
    thresholds: NDArray[np.float64]
    common_threshold: float
    network: GenreNetwork
    predict: Callable[[NDArray[np.int64]], Probabilities]
    device: str
    precision: str
    seconds: float
    images_per_second: float | None

    def as_dict(self) -> dict[str, object]:
        """What is known about the network, ready for JSON."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "weights_sha256": self.weights_sha256,
            "trained": self.trained,
            "best": asdict(self.best),
            "trials": [asdict(trial) for trial in self.trials],
            "validation": self.validation.as_dict(),
            "device": self.device,
            "precision": self.precision,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


@dataclass(frozen=True)
class Leak:
    """One figure of one method as a random split would have it, and as folds of whole franchises have it."""

    name: str
    random_split: float
    franchise_folds: float


@dataclass(frozen=True)
class TrainingOutcome:
    """The networks that were compared, the chosen one of them, the recipe's that it is measured against, and how
    much a random split of the same posters would flatter."""

    networks: tuple[NetworkOutcome, ...]
    chosen: NetworkOutcome
    recipes: tuple[NetworkOutcome, ...]
    leaks: tuple[Leak, ...]
