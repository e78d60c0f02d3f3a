"""The standard recipe of transfer learning, which bench_training.py compares with a frozen backbone.

For each batch, posters are decoded, resized and normalised one by one. The pretrained backbone is frozen but runs in
each epoch. A new last layer is trained with Adam and MultiLabelSoftMarginLoss: ten epochs, batches of 64, the
validation part evaluated after each epoch.

Unlike the usual code it computes in reduced precision and channels last, which makes it about twice as fast.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ml.compute import Compute
from ml.networks.backbones import Backbone, feature_count
from ml.scores.metrics import Labels, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from serving.bundle.model import Preprocessing

EPOCHS, BATCH_SIZE, LEARNING_RATE = 10, 64, 1e-3


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch: seconds since the training began, and weighted F1 on the validation part."""

    seconds: float
    weighted_f1: float


class PosterFiles(Dataset[tuple[Tensor, Tensor]]):
    """Posters as files, and their labels [N, G]."""

    def __init__(self, files: Sequence[Path], labels: Labels, how: Preprocessing) -> None:
        self._files, self._labels = files, torch.from_numpy(labels).float()
        self._transform = transforms.Compose(
            [transforms.Resize((how.size, how.size)), transforms.ToTensor(), transforms.Normalize(how.mean, how.std)]
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._files[row]) as image:
            return self._transform(image.convert("RGB")), self._labels[row]


def train_recipe(
    training: PosterFiles,
    validation: PosterFiles,
    folds: NDArray[np.int64],
    backbone: Backbone,
    how: Preprocessing,
    genres: int,
    compute: Compute,
    seed: int,
    enough: float | None,
) -> list[Epoch]:
    """Train until the weighted F1 is `enough`, at most all epochs, and return the epochs.

    Thresholds are cross-fitted over the `folds` of the validation part.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    body = backbone.body().requires_grad_(False).eval()
    last = nn.Linear(feature_count(body, how.size, backbone.name), genres)
    model = nn.Sequential(body, last).to(compute.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(last.parameters(), lr=LEARNING_RATE)
    loss_function = nn.MultiLabelSoftMarginLoss()
    epochs: list[Epoch] = []
    for _ in range(EPOCHS):
        for images, labels in DataLoader(training, BATCH_SIZE, shuffle=True):
            with compute.autocast():
                logits = model(images.to(compute.device, memory_format=torch.channels_last))
            loss = loss_function(logits.float(), labels.to(compute.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = evaluate(model, validation, folds, compute)
        epochs.append(Epoch(time.perf_counter() - start, score))
        if enough is not None and score >= enough:
            break
    return epochs


@torch.no_grad()
def evaluate(model: nn.Module, validation: PosterFiles, folds: NDArray[np.int64], compute: Compute) -> float:
    """Weighted F1 on the validation part. Its posters are decoded again in each epoch."""
    probabilities, truth = [], []
    for images, labels in DataLoader(validation, BATCH_SIZE):
        with compute.autocast():
            logits = model(images.to(compute.device, memory_format=torch.channels_last))
        probabilities.append(logits.float().sigmoid().cpu().numpy())
        truth.append(labels.numpy().astype(np.uint8))
    known = np.concatenate(truth)
    return weighted_f1(cross_fitted_decisions(np.concatenate(probabilities), known, folds), known)
