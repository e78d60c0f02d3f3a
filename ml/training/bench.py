"""What all trials of all networks share: the dataset's rows and labels on the device, and the checkpoint folder."""

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.compute import Compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.shards import Rows
from ml.data.splits import TRAIN, VALIDATION
from ml.networks.backbones import Backbone
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Labels, Probabilities, Scores, score
from ml.scores.thresholds import common_threshold, cross_fitted_decisions, fit_thresholds
from ml.training.checkpoints import Checkpoints, NoCheckpoints
from ml.training.fit import Inputs

logger = logging.getLogger(__name__)

_COPY_ROWS = 512
_MAX_GPU_MEMORY_SHARE = 0.6


class Assessment(TypedDict):
    """Scores and thresholds of a network; the fields of a `NetworkOutcome` that follow from its probabilities."""

    validation: Scores
    validation_probabilities: Probabilities
    fitted_rows: NDArray[np.int64]
    fitted_probabilities: Probabilities
    thresholds: NDArray[np.float64]
    common_threshold: float


@dataclass(frozen=True)
class Bench:
    """A dataset as networks are trained on it. No row of the test part is used here."""

    dataset: Dataset
    config: TrainConfig
    backbone: Backbone
    compute: Compute
    checkpoints: Checkpoints | NoCheckpoints

    @cached_property
    def training(self) -> NDArray[np.int64]:
        """Rows of the training part, sorted."""
        return self.dataset.rows(TRAIN)

    @cached_property
    def validation(self) -> NDArray[np.int64]:
        """Rows of the validation part, sorted."""
        return self.dataset.rows(VALIDATION)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of all posters on the device, float [N, G]."""
        return torch.from_numpy(self.dataset.labels).float().to(self.compute.device)

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Share of training posters per genre, [G]."""
        frequencies: NDArray[np.float64] = self.dataset.labels[self.training].mean(0)
        return frequencies

    @cached_property
    def truth(self) -> Labels:
        """Labels of the validation part, [V, G]."""
        truth: Labels = self.dataset.labels[self.validation]
        return truth

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """Fold of each validation poster, [V]; decisions in a fold use thresholds fitted on the other folds."""
        return stratified_folds(self.dataset.franchises[self.validation], self.truth)

    @cached_property
    def posters(self) -> Inputs:
        """All posters as inputs of a network."""
        return posters_for(self.compute.device, self.dataset.images)

    def score(self, probabilities: Probabilities) -> Scores:
        """Scores of the validation part's probabilities [V, G], with cross-fitted thresholds."""
        decisions = cross_fitted_decisions(probabilities, self.truth, self.folds)
        return score(probabilities, decisions, self.truth, self.dataset.genre_names)

    def assess(self, rows: NDArray[np.int64], probabilities: Probabilities) -> Assessment:
        """Fit thresholds to probabilities [F, G] for sorted `rows` [F], and score those of the validation part.

        The rows must include the validation part, and the probabilities must come from networks that were not trained
        on these posters. Scores are of the validation part alone, like those of all networks.
        """
        labels = self.dataset.labels[rows]
        validation = probabilities[np.searchsorted(rows, self.validation)]
        return Assessment(
            validation=self.score(validation),
            validation_probabilities=validation,
            fitted_rows=rows,
            fitted_probabilities=probabilities,
            thresholds=fit_thresholds(probabilities, labels),
            common_threshold=common_threshold(probabilities, labels),
        )


class HostPosters:
    """Posters in the dataset's memory maps; each batch is read and copied to the device when it is needed."""

    def __init__(self, images: Rows, device: torch.device) -> None:
        self._images, self._device = images, device

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self._images[rows.cpu().numpy()]).to(self._device)


def posters_for(device: torch.device, images: Rows) -> Inputs:
    """Posters as inputs; a GPU with enough memory holds all of them as uint8 [N, 3, S, S]."""
    if device.type != "cuda":
        return HostPosters(images, device)
    needed, (free, _) = int(np.prod(images.shape)), torch.cuda.mem_get_info(device)
    if needed > _MAX_GPU_MEMORY_SHARE * free:
        logger.warning(
            "THE POSTERS (%.1f GB) DO NOT FIT INTO GPU MEMORY (%.1f GB free). They are read from disk in each epoch, "
            "which is slower.",
            needed / 1e9,
            free / 1e9,
        )
        return HostPosters(images, device)
    posters = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), _COPY_ROWS):
        posters[start : start + _COPY_ROWS] = torch.from_numpy(images[start : start + _COPY_ROWS])
    return posters
