"""What all trials of all networks share: the dataset's rows and labels on the device, and where checkpoints go."""

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.compute import Compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.shards import Rows
from ml.data.splits import TRAIN, VALIDATION
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, Scores, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.checkpoints import Checkpoints, NoCheckpoints
from ml.training.fit import Inputs

logger = logging.getLogger(__name__)

_BLOCK = 512
_SHARE_OF_MEMORY = 0.6


@dataclass(frozen=True)
class Bench:
    """The dataset as networks are trained on it; its test part is never among the rows here."""

    dataset: Dataset
    config: TrainConfig
    compute: Compute
    checkpoints: Checkpoints | NoCheckpoints

    @cached_property
    def training(self) -> NDArray[np.int64]:
        return self.dataset.rows(TRAIN)

    @cached_property
    def validation(self) -> NDArray[np.int64]:
        return self.dataset.rows(VALIDATION)

    @cached_property
    def labels(self) -> Tensor:
        """Of all posters, float [N, G], on the device."""
        return torch.from_numpy(self.dataset.labels).float().to(self.compute.device)

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """How often each genre is in the training part, [G]."""
        frequencies: NDArray[np.float64] = self.dataset.labels[self.training].mean(0)
        return frequencies

    @cached_property
    def truth(self) -> Labels:
        """Labels of the validation part, [V, G]."""
        truth: Labels = self.dataset.labels[self.validation]
        return truth

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """A fold a validation poster, in which thresholds of the other folds are tried."""
        return stratified_folds(self.dataset.franchises[self.validation], self.truth)

    @cached_property
    def posters(self) -> Inputs:
        """All posters, ready for the device."""
        return posters_for(self.compute.device, self.dataset.images)

    def score(self, probabilities: Probabilities) -> Scores:
        """Scores of probabilities [V, G] of the validation part, thresholds cross-fitted."""
        decisions = cross_fitted_decisions(probabilities, self.truth, self.folds)
        return score(probabilities, decisions, self.truth, self.dataset.genre_names)


class HostPosters:
    """Posters that stay in the dataset's memory maps; a batch is read and sent to the device when it is due."""

    def __init__(self, images: Rows, device: torch.device) -> None:
        self._images, self._device = images, device

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._images[rows.cpu().numpy()]).to(self._device)


def posters_for(device: torch.device, images: Rows) -> Inputs:
    """Posters as inputs: a GPU gets the whole set as uint8 [N, 3, S, S], once, where it has the room."""
    if device.type != "cuda":
        return HostPosters(images, device)
    needed, (free, _) = int(np.prod(images.shape)), torch.cuda.mem_get_info(device)
    if needed > _SHARE_OF_MEMORY * free:
        logger.warning(
            "THE POSTERS (%.1f GB) DO NOT FIT BESIDE THE NETWORK ON THE GPU (%.1f GB free): they are read from the "
            "disk in each epoch, which is slower.",
            needed / 1e9,
            free / 1e9,
        )
        return HostPosters(images, device)
    posters = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), _BLOCK):
        posters[start : start + _BLOCK] = torch.from_numpy(images[start : start + _BLOCK])
    return posters
