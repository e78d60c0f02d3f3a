"""Predictions of all trained networks on the test part, stored in one file between training and evaluation.

Only the chosen network is served. The predictions of the other networks are stored as numbers, because the networks
themselves are not kept. Training reads nothing of the test part.
"""

import io
import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.splits import TEST, VALIDATION
from ml.errors import TrainingError
from ml.evaluation.leaks import Leak
from ml.networks.activation import activation_maps, last_feature_map
from ml.networks.backbones import GenreNetwork
from ml.scores.metrics import Decisions, Probabilities
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import Model

_EXAMPLES = 12


@dataclass(frozen=True)
class NetworkPredictions:
    """Probabilities of one network, float32 [N, G], its thresholds and its common threshold.

    Thresholds are [G] and a number. Cross-fitted thresholds differ between posters: [N, G] and [N, 1].
    """

    name: str
    probabilities: Probabilities
    thresholds: NDArray[np.float64]
    common_threshold: float | NDArray[np.float64]

    @property
    def decisions(self) -> Decisions:
        """Which genres are predicted, bool [N, G]."""
        return self.probabilities >= self.thresholds


@dataclass(frozen=True)
class ActivationExamples:
    """Class activation maps of the chosen network for correctly predicted validation posters.

    `rows` of the dataset [M], the column of one genre for each [M], its probability [M], and maps float32 [M, h, w]
    from 0 to 1. All are empty if the network has no class activation maps.
    """

    rows: NDArray[np.int64]
    genres: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of all networks on the test part, the chosen network first; its activation maps; the leak gauge."""

    networks: tuple[NetworkPredictions, ...]
    activations: ActivationExamples
    leaks: tuple[Leak, ...]

    def to_bytes(self) -> bytes:
        """The predictions as an .npz file without pickles. The array names are a stored format."""
        arrays: dict[str, NDArray[np.generic]] = {
            "names": np.array([network.name for network in self.networks]),
            "probabilities": np.stack([network.probabilities for network in self.networks]),
            "thresholds": np.stack([network.thresholds for network in self.networks]),
            "common_thresholds": np.array([network.common_threshold for network in self.networks]),
            "leaks": np.array(json.dumps([asdict(leak) for leak in self.leaks])),
            **{f"activation_{name}": value for name, value in vars(self.activations).items()},
        }
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        return stream.getvalue()

    @classmethod
    def read(cls, file: Path) -> "PredictionSet":
        """Read a file that `to_bytes` made. Raises TrainingError if it holds anything else."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                networks = zip(
                    arrays["names"].tolist(),
                    arrays["probabilities"],
                    arrays["thresholds"],
                    arrays["common_thresholds"].tolist(),
                    strict=True,
                )
                return cls(
                    tuple(NetworkPredictions(*network) for network in networks),
                    ActivationExamples(
                        *(arrays[f"activation_{name}"] for name in ("rows", "genres", "probabilities", "maps"))
                    ),
                    tuple(Leak(**leak) for leak in json.loads(str(arrays["leaks"]))),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise TrainingError(
                f"{file} holds no predictions of a training. Delete it and train again.", str(error)
            ) from error


def collect_predictions(
    outcome: TrainingOutcome, leaks: tuple[Leak, ...], model: Model, dataset: Dataset
) -> PredictionSet:
    """Predict the test part with every network, once, after every choice has been made.

    Args:
        outcome: the trained networks.
        leaks: the result of the leak gauge, stored with the predictions.
        model: the chosen network as it is served; class activation maps come from its graph.
        dataset: the one the networks were trained on.
    """
    rows = dataset.rows(TEST)
    others = [network for network in (*outcome.networks, *outcome.recipes) if network is not outcome.chosen]
    return PredictionSet(
        tuple(
            NetworkPredictions(network.name, network.predict(rows), network.thresholds, network.common_threshold)
            for network in (outcome.chosen, *others)
        ),
        _activations(outcome.chosen, model, dataset),
        leaks,
    )


def _activations(network: NetworkOutcome, model: Model, dataset: Dataset) -> ActivationExamples:
    """Maps of the most confident correct predictions on the validation part, for as many genres as possible."""
    rows = dataset.rows(VALIDATION)
    probabilities = network.validation_probabilities
    correct = (probabilities >= network.thresholds) & (dataset.labels[rows] == 1)
    # Sort by the rank within the genre first, so that the best poster of each genre precedes any second-best one.
    confidence = np.where(correct, probabilities, -1)
    rank = (-confidence).argsort(0, kind="stable").argsort(0)
    candidates = np.argwhere(correct)
    order = np.lexsort((-confidence[tuple(candidates.T)], rank[tuple(candidates.T)]))
    places, genres = candidates[order[:_EXAMPLES]].T
    images = dataset.images[rows[places]]
    maps = (
        _served_maps(model, images, genres) if model.manifest.explains else _grad_cam(network.network, images, genres)
    )
    if maps is None:
        empty = np.zeros(0, np.int64)
        return ActivationExamples(empty, empty, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32))
    return ActivationExamples(rows[places], genres, confidence[places, genres].astype(np.float32), maps)


def _served_maps(model: Model, images: NDArray[np.uint8], genres: NDArray[np.int64]) -> NDArray[np.float32] | None:
    if not len(images):
        return None
    _, all_genres = model.explained(images)
    maps = all_genres[np.arange(len(images)), genres]
    scaled: NDArray[np.float32] = maps / np.maximum(maps.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return scaled


def _grad_cam(
    network: GenreNetwork, images: NDArray[np.uint8], genres: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Maps of a network whose graph has none; None if the network has no feature map or there are no posters."""
    batch = torch.from_numpy(images)
    network = network.cpu().eval()
    layer = last_feature_map(network, batch[:1]) if len(batch) else None
    return None if layer is None else activation_maps(network, layer, batch, genres)
