"""Results of training: each network with its best hyperparameters, and the chosen network."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ml.data.feature_table import FeatureTable
from ml.networks.backbones import GenreNetwork
from ml.networks.weights import WeightsFile
from ml.scores.metrics import Probabilities, Scores
from ml.training.bench import Bench
from ml.training.candidates import Trained
from serving.bundle.model import Served


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    `number` counts from 1. `validation_weighted_f1` is the trial's score on posters of the training part that it was
    not trained on; for a pruned trial, the last one it reported. The name is a stored format.
    """

    number: int
    parameters: Mapping[str, float]
    validation_weighted_f1: float
    seconds: float
    pruned: bool = False


@dataclass(frozen=True)
class Exported:
    """A network as ONNX graphs by file name in the bundle.

    `explains` is whether the graphs return class activation maps besides probabilities, `not_explained` is why they do
    not, and `served` is which graph is served and why.
    """

    graphs: Mapping[str, bytes]
    explains: bool
    served: Served
    not_explained: str = ""


@dataclass(frozen=True)
class NetworkOutcome:
    """A network with its best hyperparameters.

    Attributes:
        backbone: the backbone's name, None for a network without one.
        weights: the file of the backbone's pretrained weights, None for random ones.
        validation: scores on the validation part with cross-fitted thresholds, of `validation_probabilities`
            (float32 [V, G]), from a network that was trained and tuned on the training part alone.
        fitted_rows: the dataset's rows that thresholds are fitted on, sorted, [F]. They include the validation part.
        fitted_probabilities: float32 [F, G], from networks that were not trained on these posters.
        thresholds: one per genre, float [G]; `common_threshold` is the best single threshold for all genres.
        network: on the CPU, in evaluation mode.
        predict: returns the network's probabilities, float32 [n, G], for rows of the dataset. For rows it was trained
            on, they are overconfident.
        images_per_second: posters per second in training. For a frozen backbone, posters per second through the
            backbone, or None if all features were cached.
        exported: None until the served graph is chosen (see `ml.export.quantisation`).
    """

    name: str
    backbone: str | None
    weights: WeightsFile | None
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

    @property
    def gradient_weights(self) -> int:
        """How many weights gradient steps train: 0 for a head that is fitted on a frozen backbone."""
        if self.trained == "frozen":
            return 0
        return sum(weight.numel() for weight in self.network.parameters() if weight.requires_grad)

    def as_dict(self) -> dict[str, object]:
        """The network's figures as JSON values."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            **weights_record(self.weights),
            "trained": self.trained,
            "best": asdict(self.best),
            "trials": [asdict(trial) for trial in self.trials],
            "validation": asdict(self.validation),
            "device": self.device,
            "precision": self.precision,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "served": asdict(self.exported.served) if self.exported else None,
        }


@dataclass(frozen=True)
class TrainingOutcome:
    """All compared networks, the chosen one and the reason, and the recipe's networks as a baseline.

    `bench` and `features` (of the pretrained backbone, None if there is none) are what the networks were trained on.
    """

    networks: tuple[NetworkOutcome, ...]
    chosen: NetworkOutcome
    reason: str
    recipes: tuple[NetworkOutcome, ...]
    bench: Bench
    features: FeatureTable | None


def weights_record(file: WeightsFile | None) -> dict[str, str | None]:
    """Hash, source and licence of pretrained weights as JSON values, None without them."""
    return {
        "weights_sha256": file.sha256 if file else None,
        "weights_source": file.source if file else None,
        "weights_license": file.license if file else None,
    }
