"""What came of training: each network at its best setting, and the one that was chosen."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ml.networks.backbones import GenreNetwork
from ml.scores.metrics import Probabilities, Scores
from serving.bundle.model import Served

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
class Exported:
    """A network as ONNX graphs, by the name of each one's file in a bundle; whether they give class activation maps
    beside probabilities, and which of them is served."""

    graphs: Mapping[str, bytes]
    explains: bool
    served: Served


@dataclass(frozen=True)
class NetworkOutcome:
    """A network at its best hyperparameters; on the CPU until it is asked to `predict`.

    `validation` are scores of `validation_probabilities`, float32 [V, G], on the validation part with cross-fitted
    thresholds. `thresholds`, float [G], are a genre's own, `common_threshold` is the best one for all; both are fitted
    to `fitted_probabilities`, float32 [F, G], about `fitted_rows`, [F], sorted rows of the dataset, those of the
    validation part among them, and by networks that have not learned from these posters. `predict` gives probabilities
    float32 [n, G] of the network itself for rows of the dataset, also for those that it has learned from.
    `images_per_second` are posters in training, and for a frozen backbone posters through it (None where its features
    were known). `exported` is None until it was chosen how the network is served (see `ml.export.quantisation`).
    """

    name: str
    backbone: str | None
    weights_sha256: str | None
    trained: Trained
    best: Trial
    trials: tuple[Trial, ...]
    validation: Scores
    validation_probabilities: Probabilities
    fitted_rows: NDArray[np.int64]
    fitted_probabilities: Probabilities
    thresholds: NDArray[np.float64]
    common_threshold: float
    network: GenreNetwork
    predict: Callable[[NDArray[np.int64]], Probabilities]
    device: str
    precision: str
    seconds: float
    images_per_second: float | None
    exported: Exported | None = None

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
            "served": asdict(self.exported.served) if self.exported else None,
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
