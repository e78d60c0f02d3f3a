"""One training run: a network over whole posters, or a head over features that were computed once.

Posters stay uint8 where they are (on a GPU all of them, on a CPU the dataset's memory maps) and are normalised
and flipped in batches on the device, so that there is nothing for loader workers to do.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import Compute
from ml.errors import TrainingError
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.checkpoints import Checkpoint

EVALUATION_BATCH_SIZE = 128


class Inputs(Protocol):
    """Posters, uint8 [N, 3, S, S], or features, float [N, F]: rows of them become a batch on the device."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...


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

    `labels` are float [N, G] on the device. `training` and `validation` are rows of inputs and labels; `folds`, [V],
    is the fold of each validation row.
    """

    inputs: Inputs
    labels: Tensor
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    folds: NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps a network is trained.

    `flip`: half of the posters, drawn anew each epoch, are mirrored. `rate`: the learning rate rises and falls once
    (Smith and Topin 2017, https://arxiv.org/abs/1708.07120), or stays. `keep`: the epoch that is kept.
    """

    epochs: int
    batch_size: int
    seed: int
    flip: bool
    rate: Literal["one-cycle", "constant"] = "one-cycle"
    keep: Literal["best", "last"] = "best"


@dataclass(frozen=True)
class Fit:
    """A trained network at the epoch that was kept: `state` on the CPU, and weighted F1 on the validation part.

    `images_per_second` counts training alone, from the second epoch where there is one: the first warms up.
    """

    state: dict[str, Tensor]
    kept_epoch: int
    validation_weighted_f1: float
    images_per_second: float


@dataclass
class _Progress:
    """Where a training stands between two steps."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    kept: tuple[float, int, dict[str, Tensor]] | None = None
    points: list[dict[str, float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def fit(
    model: nn.Module,
    data: TrainingData,
    hyperparameters: Hyperparameters,
    schedule: Schedule,
    compute: Compute,
    reporter: Reporter,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, float], None],
) -> Fit:
    """Train a model that is on the device already, from where the checkpoint left it.

    Validation decisions are cross-fitted (thresholds from other folds). Draws from PyTorch's global random state,
    which a checkpoint brings back too: killed and started again, a training ends with the same weights. `on_epoch` is
    told how many epochs are done and the validation weighted F1, earlier epochs included. Raises TrainingError where
    the loss is no number; what was saved before that stays.
    """
    loss_function = nn.MultiLabelSoftMarginLoss()
    steps = math.ceil(len(data.training) / schedule.batch_size)
    optimizer = _optimizer(model, hyperparameters)
    scheduler = _scheduler(optimizer, hyperparameters, schedule, steps)
    labels = data.labels[_rows(data.validation, data.labels)]
    truth = labels.cpu().numpy().astype(np.uint8)
    total = torch.zeros((), device=compute.device)
    saved = checkpoint.load()
    progress = _restore(saved, model, optimizer, scheduler, total) if saved else _Progress()
    for epoch, point in enumerate(progress.points):
        reporter.scalars(point, epoch + 1)
        on_epoch(epoch + 1, point["weighted_f1/validation"])
    while progress.epoch < schedule.epochs:
        model.train()
        start = time.perf_counter() - progress.seconds
        # Batches of about equal size: a last one of a single poster would have no batch statistics.
        order = np.random.default_rng((schedule.seed, progress.epoch)).permutation(data.training)
        for index in torch.tensor_split(_rows(order, data.labels), steps)[progress.step :]:
            if checkpoint.due() and progress.step:
                _check(total, model, progress.epoch, hyperparameters)
                progress.seconds = time.perf_counter() - start
                _save(checkpoint, progress, model, optimizer, scheduler, total)
            batch = _batch(data.inputs, index, schedule.flip)
            with compute.autocast():
                logits = model(batch)
            loss = loss_function(logits.float(), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach()
            progress.step += 1
        _check(total, model, progress.epoch, hyperparameters)
        progress.rates.append(len(data.training) / (time.perf_counter() - start))
        logits = predict_logits(model, data.inputs, data.validation, compute)
        score = weighted_f1(cross_fitted_decisions(logits.sigmoid().cpu().numpy(), truth, data.folds), truth)
        if progress.kept is None or schedule.keep == "last" or score > progress.kept[0]:
            state = {name: value.cpu().clone() for name, value in model.state_dict().items()}
            progress.kept = score, progress.epoch, state
        point = {
            "loss/training": total.item() / steps,
            "loss/validation": loss_function(logits, labels).item(),
            "weighted_f1/validation": score,
            "learning_rate": float(scheduler.get_last_lr()[0]),
        }
        progress.points.append(point)
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        total.zero_()
        if checkpoint.due() or progress.epoch == schedule.epochs:
            _save(checkpoint, progress, model, optimizer, scheduler, total)
        reporter.scalars(point, progress.epoch)
        on_epoch(progress.epoch, score)
    assert progress.kept is not None
    score, epoch, state = progress.kept
    return Fit(state, epoch + 1, score, float(np.median(progress.rates[1:] or progress.rates)))


def _check(total: Tensor, model: nn.Module, epoch: int, hyperparameters: Hyperparameters) -> None:
    """Whether losses and weights are numbers; also before a state is saved, so that a good one is not lost."""
    # A step may spoil weights whose loss was a number still.
    finite = torch.stack([total.isfinite(), *(parameter.isfinite().all() for parameter in model.parameters())])
    if not bool(finite.all()):
        raise TrainingError(
            f"The loss is no number any more in epoch {epoch + 1}: "
            f"a learning rate below {hyperparameters.learning_rate:.2g} may help."
        )


def _save(
    checkpoint: Checkpoint,
    progress: _Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    total: Tensor,
) -> None:
    checkpoint.save(
        {
            "progress": dict(vars(progress)),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "total": total,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(total.device) if total.is_cuda else None,
        }
    )


def _restore(
    saved: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    total: Tensor,
) -> _Progress:
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    total.copy_(saved["total"])
    torch.set_rng_state(saved["random"])
    if total.is_cuda and saved["cuda_random"] is not None:  # None where the checkpoint is of a CPU
        torch.cuda.set_rng_state(saved["cuda_random"], total.device)
    return _Progress(**saved["progress"])


@torch.no_grad()
def predict_logits(model: nn.Module, inputs: Inputs, rows: NDArray[np.int64], compute: Compute) -> Tensor:
    """Logits of these rows of the inputs, float [len(rows), G], on the device."""
    model.eval()
    batches = []
    for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
        index = torch.from_numpy(rows[start : start + EVALUATION_BATCH_SIZE]).to(compute.device)
        with compute.autocast():
            batches.append(model(_batch(inputs, index, flip=False)).float())
    return torch.cat(batches)


def predict_probabilities(model: nn.Module, inputs: Inputs, rows: NDArray[np.int64], compute: Compute) -> Probabilities:
    """Probabilities of these rows of the inputs, float32 [len(rows), G]."""
    probabilities: Probabilities = predict_logits(model, inputs, rows, compute).sigmoid().cpu().numpy()
    return probabilities


def _batch(inputs: Inputs, index: Tensor, flip: bool) -> Tensor:
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


def _scheduler(
    optimizer: torch.optim.Optimizer, hyperparameters: Hyperparameters, schedule: Schedule, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if schedule.rate == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, hyperparameters.learning_rate, total_steps=schedule.epochs * steps
    )


def _optimizer(model: nn.Module, hyperparameters: Hyperparameters) -> torch.optim.Optimizer:
    """AdamW; weights decay, biases and normalisation do not (a decaying last bias would unlearn how rare
    genres are)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": hyperparameters.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=hyperparameters.learning_rate, fused=True)
