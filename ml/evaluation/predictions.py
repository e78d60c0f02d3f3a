"""What networks say about the test part, and where they look: one file from training to evaluation.

The served bundle answers for itself; the recipe and the other candidates are not served, so that their answers about
the test part, which nothing in training reads, go on as numbers.
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
from ml.evaluation.leaks import Leak, leak_gauge
from ml.networks.activation import activation_maps, last_feature_map
from ml.scores.metrics import Decisions, Probabilities
from ml.training.outcome import NetworkOutcome, TrainingOutcome

_EXAMPLES = 12


@dataclass(frozen=True)
class Answer:
    """A network's probabilities, float32 [T, G], of the test part, with its thresholds, [G], and its common one."""

    name: str
    probabilities: Probabilities
    thresholds: NDArray[np.float64]
    common_threshold: float

    @property
    def decisions(self) -> Decisions:
        return self.probabilities >= self.thresholds


@dataclass(frozen=True)
class ActivationMaps:
    """Where the chosen network looks: rows of the dataset [M], a genre's column each [M], its probability [M], and
    maps, float32 [M, h, w] from 0 to 1. All are empty for a network that allows none."""

    rows: NDArray[np.int64]
    genres: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """The answers of all networks, the chosen one's first, its activation maps, and the leak gauge."""

    networks: tuple[Answer, ...]
    activations: ActivationMaps
    leaks: tuple[Leak, ...]

    def to_bytes(self) -> bytes:
        """As an .npz file; nothing in it is a pickle."""
        arrays: dict[str, NDArray[np.generic]] = {
            "names": np.array([answer.name for answer in self.networks]),
            "probabilities": np.stack([answer.probabilities for answer in self.networks]),
            "thresholds": np.stack([answer.thresholds for answer in self.networks]),
            "common_thresholds": np.array([answer.common_threshold for answer in self.networks]),
            "leaks": np.array(json.dumps([asdict(leak) for leak in self.leaks])),
            **{f"activation_{name}": value for name, value in vars(self.activations).items()},
        }
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        return stream.getvalue()

    @classmethod
    def read(cls, file: Path) -> "Answers":
        """Read what `to_bytes` gave; TrainingError where the file holds something else."""
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
                    tuple(Answer(*network) for network in networks),
                    ActivationMaps(
                        *(arrays[f"activation_{name}"] for name in ("rows", "genres", "probabilities", "maps"))
                    ),
                    tuple(Leak(**leak) for leak in json.loads(str(arrays["leaks"]))),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise TrainingError(f"{file} holds no answers of a training: {error}.") from error


def collect_answers(outcome: TrainingOutcome, dataset: Dataset) -> Answers:
    """Ask every network about the test part, once, after all that is to be decided has been decided."""
    rows = dataset.rows(TEST)
    others = [network for network in (*outcome.networks, *outcome.recipes) if network is not outcome.chosen]
    return Answers(
        tuple(
            Answer(network.name, network.predict(rows), network.thresholds, network.common_threshold)
            for network in (outcome.chosen, *others)
        ),
        _activations(outcome.chosen, dataset),
        leak_gauge(outcome.bench, outcome.features),
    )


def _activations(network: NetworkOutcome, dataset: Dataset) -> ActivationMaps:
    """Maps of the surest right answers about validation posters, of as many different genres as there are."""
    rows = dataset.rows(VALIDATION)
    probabilities = network.validation_probabilities
    found = (probabilities >= network.thresholds) & (dataset.labels[rows] == 1)
    # Of each genre the surest first: the rank within its genre, then how sure.
    sure = np.where(found, probabilities, -1)
    rank = (-sure).argsort(0, kind="stable").argsort(0)
    candidates = np.argwhere(found)
    order = np.lexsort((-sure[tuple(candidates.T)], rank[tuple(candidates.T)]))
    places, genres = candidates[order[:_EXAMPLES]].T
    images = torch.from_numpy(dataset.images[rows[places]])
    model = network.network.cpu().eval()
    layer = last_feature_map(model, images[:1]) if len(places) else None
    if layer is None:
        nothing = np.zeros(0, np.int64)
        return ActivationMaps(nothing, nothing, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32))
    maps = activation_maps(model, layer, images, genres)
    return ActivationMaps(rows[places], genres, sure[places, genres].astype(np.float32), maps)
