"""One training run: a network over whole posters, or a head over features that were computed once.

Posters stay uint8 where they are (on a GPU all of them, on a CPU the dataset's memory map) and are normalised
and flipped in batches on the device, so that there is nothing for loader workers to do.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import Compute
from ml.errors import TrainingError
from ml.metrics import Probabilities, weighted_f1
from ml.reporting import Reporter
from ml.thresholds import cross_fitted_decisions

EVALUATION_BATCH_SIZE = 128


@dataclass(frozen=True)
class Hyperparameters:
    """What the search chooses. `hidden` is the width of the head's first layer, 0 for a single layer."""

    learning_rate: float
    weight_decay: float
    dropout: float
    hidden: int


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained on and compared on.

    `inputs` are posters, uint8 [N, 3, S, S], or features, float [N, F]; `labels` float [N, G], on the same
    device. `training` and `validation` are rows of both; `folds`, [V], is the fold of each validation row.
    """

    inputs: Tensor
    labels: Tensor
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    folds: NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps a network is trained."""

    epochs: int
    batch_size: int
    seed: int
    flip: bool
    """Whether half of the posters, drawn anew each epoch, are mirrored."""


@dataclass(frozen=True)
class Fit:
    """A trained network at its best epoch: `state` on the CPU, and the weighted F1 on the validation part.

    `images_per_second` counts training alone, from the second epoch where there is one: the first warms up.
    """

    state: dict[str, Tensor]
    best_epoch: int
    validation_weighted_f1: float
    images_per_second: float


def fit(
    model: nn.Module,
    data: TrainingData,
    hyperparameters: Hyperparameters,
    schedule: Schedule,
    compute: Compute,
    reporter: Reporter,
    on_epoch: Callable[[int], None],
) -> Fit:
    """Train a model that is on the device already, and keep its epoch with the best validation weighted F1.

    Validation decisions are cross-fitted (thresholds from other folds). Draws from PyTorch's global random
    state; `on_epoch` is told how many epochs are done. Raises TrainingError where the loss is no number.
    """
    loss_function = nn.MultiLabelSoftMarginLoss()
    steps = math.ceil(len(data.training) / schedule.batch_size)
    optimizer = _optimizer(model, hyperparameters)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, hyperparameters.learning_rate, total_steps=schedule.epochs * steps
    )
    order = np.random.default_rng(schedule.seed)
    labels = data.labels[_rows(data.validation, data.labels)]
    truth = labels.cpu().numpy().astype(np.uint8)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    rates: list[float] = []
    for epoch in range(schedule.epochs):
        model.train()
        start = time.perf_counter()
        total = torch.zeros((), device=compute.device)
        # Batches of about equal size: a last one of a single poster would have no batch statistics.
        for rows in np.array_split(order.permutation(data.training), steps):
            index = _rows(rows, data.inputs)
            batch = _batch(data.inputs, index, schedule.flip)
            with compute.autocast():
                logits = model(batch)
            loss = loss_function(logits.float(), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach()
        training_loss = total.item() / steps
        if not math.isfinite(training_loss):
            raise TrainingError(
                f"The loss is no number any more in epoch {epoch + 1}: "
                f"a learning rate below {hyperparameters.learning_rate:.2g} may help."
            )
        rates.append(len(data.training) / (time.perf_counter() - start))
        logits = predict_logits(model, data.inputs, data.validation, compute)
        probabilities = logits.sigmoid().cpu().numpy()
        score = weighted_f1(cross_fitted_decisions(probabilities, truth, data.folds), truth)
        if best is None or score > best[0]:
            best = score, epoch, {name: value.cpu().clone() for name, value in model.state_dict().items()}
        reporter.scalars(
            {
                "loss/training": training_loss,
                "loss/validation": loss_function(logits, labels).item(),
                "weighted_f1/validation": score,
                "learning_rate": float(scheduler.get_last_lr()[0]),
            },
            epoch + 1,
        )
        on_epoch(epoch + 1)
    assert best is not None
    return Fit(best[2], best[1] + 1, best[0], float(np.median(rates[1:] or rates)))


@torch.no_grad()
def predict_logits(model: nn.Module, inputs: Tensor, rows: NDArray[np.int64], compute: Compute) -> Tensor:
    """Logits of these rows of the inputs, float [len(rows), G], on the device."""
    model.eval()
    batches = []
    for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
        batch = _batch(inputs, _rows(rows[start : start + EVALUATION_BATCH_SIZE], inputs), flip=False)
        with compute.autocast():
            batches.append(model(batch).float())
    return torch.cat(batches)


def predict_probabilities(model: nn.Module, inputs: Tensor, rows: NDArray[np.int64], compute: Compute) -> Probabilities:
    """Probabilities of these rows of the inputs, float32 [len(rows), G]."""
    probabilities: Probabilities = predict_logits(model, inputs, rows, compute).sigmoid().cpu().numpy()
    return probabilities


def _batch(inputs: Tensor, index: Tensor, flip: bool) -> Tensor:
    """Rows of the inputs on their device; posters with channels last, which convolutions are faster on."""
    batch = inputs[index]
    if batch.dim() < 4:
        return batch
    if flip:
        mirrored = torch.rand(len(batch), device=batch.device) < 0.5
        batch = torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)
    return batch.contiguous(memory_format=torch.channels_last)


def _rows(rows: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(rows).to(like.device)


def _optimizer(model: nn.Module, hyperparameters: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW; weights decay, biases and normalisation do not (a decaying last bias would unlearn how rare
    genres are)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": hyperparameters.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=hyperparameters.learning_rate, fused=True)
