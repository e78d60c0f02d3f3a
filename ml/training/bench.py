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
from ml.errors import TrainingError
from ml.networks.backbones import Backbone
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Decisions, Labels, Probabilities, Scores, score
from ml.scores.thresholds import common_threshold, cross_fitted_decisions, fit_thresholds
from ml.training.checkpoints import Checkpoints
from ml.training.fit import Inputs, TrainingData

logger = logging.getLogger(__name__)

SELECTION = "selection"  # begins the names of figures that choose epochs and trials
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
    """A dataset as networks are trained on it. No row of the test part is used here.

    The validation part decides only which network is chosen. A network's epoch and trial are chosen on a fifth of the
    training part, `selection`, by franchise. With them it is then trained again on the whole training part.
    """

    dataset: Dataset
    config: TrainConfig
    backbone: Backbone
    compute: Compute
    checkpoints: Checkpoints

    @cached_property
    def training(self) -> NDArray[np.int64]:
        """Rows of the training part, sorted."""
        return self.dataset.rows(TRAIN)

    @cached_property
    def validation(self) -> NDArray[np.int64]:
        """Rows of the validation part, sorted."""
        return self.dataset.rows(VALIDATION)

    @cached_property
    def selection(self) -> NDArray[np.int64]:
        """Rows of the training part on which a network's epoch and trial are chosen, sorted: a fifth, by franchise.

        Raises TrainingError if all training posters are of one franchise.
        """
        fold_of = stratified_folds(self.dataset.franchises[self.training], self.dataset.labels[self.training])
        if not fold_of.max():
            raise TrainingError(
                "The train part has posters of only one franchise, but the choice of epoch and trial needs a second "
                "one. Add posters."
            )
        # The largest franchise is in the first fold. It is for training.
        rows: NDArray[np.int64] = self.training[fold_of == fold_of.max()]
        return rows

    @cached_property
    def gradient_rows(self) -> NDArray[np.int64]:
        """Rows of the training part that gradient steps of trials use, sorted: all but `selection`."""
        return np.setdiff1d(self.training, self.selection)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of all posters on the device, float [N, G]."""
        return torch.from_numpy(self.dataset.labels).float().to(self.compute.device)

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Share of posters of the training part per genre, [G]."""
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

    def selecting(self, inputs: Inputs) -> TrainingData:
        """For trials: the rows for gradient steps, and those on which epoch and trial are chosen."""
        rows = self.selection
        folds = stratified_folds(self.dataset.franchises[rows], self.dataset.labels[rows])
        return TrainingData(inputs, self.labels, self.gradient_rows, rows, folds, SELECTION)

    def whole(self, inputs: Inputs) -> TrainingData:
        """For the training after the trials: the whole training part, and the validation part for curves only."""
        return TrainingData(inputs, self.labels, self.training, self.validation, self.folds)

    def decisions(self, probabilities: Probabilities) -> Decisions:
        """Decisions for the validation part's probabilities [V, G], with cross-fitted thresholds."""
        return cross_fitted_decisions(probabilities, self.truth, self.folds)

    def score(self, probabilities: Probabilities) -> Scores:
        """Scores of the validation part's probabilities [V, G], with cross-fitted thresholds."""
        return score(probabilities, self.decisions(probabilities), self.truth, self.dataset.genre_names)

    def assess(
        self, validation: Probabilities, rows: NDArray[np.int64] | None = None, fitted: Probabilities | None = None
    ) -> Assessment:
        """Score the validation part's probabilities [V, G], and fit thresholds to probabilities `fitted` [F, G].

        `fitted` are for the sorted `rows` [F], which include the validation part; by default they are `validation`. All
        probabilities must come from networks that were not trained on their posters.
        """
        if rows is None or fitted is None:
            rows, fitted = self.validation, validation
        labels = self.dataset.labels[rows]
        return Assessment(
            validation=self.score(validation),
            validation_probabilities=validation,
            fitted_rows=rows,
            fitted_probabilities=fitted,
            thresholds=fit_thresholds(fitted, labels),
            common_threshold=common_threshold(fitted, labels),
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
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # what PyTorch keeps for reuse
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
