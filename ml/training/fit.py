"""One training run: a whole network on posters, or a head on cached features.

Posters stay uint8 in GPU memory or in the dataset's memory maps. Batches are normalised and flipped on the device, so
no loader processes are needed.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import Compute
from ml.data.splits import VALIDATION
from ml.errors import TrainingError
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.checkpoints import Checkpoint

EVALUATION_BATCH_SIZE = 128
_REPORTED = {
    "loss/training": "train/loss",
    "loss/validation": "{part}/loss",
    "weighted_f1/validation": "{part}/weighted_f1",
    "learning_rate": "learning_rate",
}
"""Names of reported curves by the names that checkpoints store."""


class Inputs(Protocol):
    """Posters, uint8 [N, 3, S, S], or features, float [N, F]; indexing with rows gives a batch on the device."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Hyperparameters:
    """What a search chooses. `hidden` is the width of the head's hidden layer, 0 for a head without one."""

    learning_rate: float
    weight_decay: float
    dropout: float
    hidden: int

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Self:
        """From a mapping that has all of them."""
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained and scored on.

    `labels` are float [N, G] on the device. `training` [T] and `validation` [V] are rows of inputs and labels. `folds`
    [V] is the fold of each validation row. `part` begins the names of figures of the validation rows.
    """

    inputs: Inputs
    labels: Tensor
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    folds: NDArray[np.int64]
    part: str = VALIDATION


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps a network is trained.

    Attributes:
        flip: mirror a random half of the posters in each epoch.
        rate: the learning rate rises and falls once (Smith and Topin 2017, https://arxiv.org/abs/1708.07120), or is
            constant.
        stop: the epoch, counted from 1, after which training ends. The learning rate is that of a training of all
            `epochs`. None trains all of them.
    """

    epochs: int
    batch_size: int
    seed: int
    flip: bool
    rate: Literal["one-cycle", "constant"] = "one-cycle"
    stop: int | None = None

    @property
    def last(self) -> int:
        """The epoch, counted from 1, after which training ends."""
        return self.stop or self.epochs


@dataclass(frozen=True)
class FitTask:
    """What all trials of a network share."""

    data: TrainingData
    schedule: Schedule
    compute: Compute


@dataclass(frozen=True)
class Fit:
    """The figures of a training run.

    `scores` has the validation weighted F1 after each epoch. `images_per_second` is the median over epochs, without the
    time of evaluation. The first epoch counts only if it is the only one, because it includes warm-up.
    """

    scores: tuple[float, ...]
    images_per_second: float

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest score, counted from 1; of several, the first."""
        return self.scores.index(max(self.scores)) + 1


@dataclass
class _Progress:
    """The state of a training run between two steps; checkpoints store its fields by name.

    Attributes:
        epoch: number of completed epochs.
        step: number of completed steps in the current epoch, which have taken `seconds`.
        points: reported values of each epoch.
        rates: images per second in each epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    points: list[dict[str, float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def fit(
    model: nn.Module,
    hyperparameters: Hyperparameters,
    task: FitTask,
    reporter: Reporter,
    checkpoint: Checkpoint,
    on_epoch: Callable[[int, float], None] = lambda epoch, score: None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Fit:
    """Train a model in place that is already on the device, starting from the checkpoint if it has a state.

    The model ends with the weights of the schedule's last epoch, whatever its score. Validation decisions use
    cross-fitted thresholds. Random numbers come from PyTorch's global state, which checkpoints restore: a killed and
    restarted training ends with the same weights. `on_epoch` is called after each epoch, including restored ones, with
    the number of completed epochs and the validation weighted F1. `on_batch` is called after each batch of both parts
    with its number of posters.

    Raises TrainingError if the loss or a weight is not finite. The last good checkpoint is kept.
    """
    data, schedule, compute = task.data, task.schedule, task.compute
    run = _Run(model, hyperparameters, task)
    validation_labels = data.labels[_rows(data.validation, data.labels)]
    truth = validation_labels.cpu().numpy().astype(np.uint8)
    run.restore(checkpoint)
    progress = run.progress

    def report(epoch: int, point: dict[str, float]) -> None:
        reporter.scalars({_REPORTED[name].format(part=data.part): value for name, value in point.items()}, epoch)
        on_epoch(epoch, point["weighted_f1/validation"])

    for epoch, point in enumerate(progress.points, 1):
        report(epoch, point)
    while progress.epoch < schedule.last:
        run.finish_epoch(checkpoint, on_batch)
        logits = predict_logits(model, data.inputs, data.validation, compute, on_batch)
        score = weighted_f1(cross_fitted_decisions(logits.sigmoid().cpu().numpy(), truth, data.folds), truth)
        progress.points.append(
            {
                "loss/training": run.total_loss.item() / run.steps,
                "loss/validation": run.loss(logits, validation_labels).item(),
                "weighted_f1/validation": score,
                "learning_rate": float(run.scheduler.get_last_lr()[0]),
            }
        )
        progress.epoch, progress.step, progress.seconds = progress.epoch + 1, 0, 0.0
        run.total_loss.zero_()
        if checkpoint.due() or progress.epoch == schedule.last:
            run.save(checkpoint)
        report(progress.epoch, progress.points[-1])
    scores = tuple(point["weighted_f1/validation"] for point in progress.points)
    return Fit(scores, float(np.median(progress.rates[1:] or progress.rates)))


class _Run:
    """A model with its optimiser, its learning rate schedule and its progress: what a checkpoint stores."""

    def __init__(self, model: nn.Module, hyperparameters: Hyperparameters, task: FitTask) -> None:
        self.model, self._hyperparameters, self._task = model, hyperparameters, task
        self.loss = nn.MultiLabelSoftMarginLoss()
        self.steps = math.ceil(len(task.data.training) / task.schedule.batch_size)
        self._optimizer = _optimizer(model, hyperparameters)
        self.scheduler = _scheduler(self._optimizer, hyperparameters, task.schedule, self.steps)
        self.total_loss = torch.zeros((), device=task.compute.device)
        self.progress = _Progress()

    def finish_epoch(self, checkpoint: Checkpoint, on_batch: Callable[[int], None]) -> None:
        """Take the remaining steps of the current epoch, and save the state in between when it is due."""
        data, progress = self._task.data, self.progress
        self.model.train()
        start = time.perf_counter() - progress.seconds
        order = np.random.default_rng((self._task.schedule.seed, progress.epoch)).permutation(data.training)
        # Batches of about equal size: BatchNorm cannot normalise a last batch of one poster.
        for rows in torch.tensor_split(_rows(order, data.labels), self.steps)[progress.step :]:
            if checkpoint.due() and progress.step:
                progress.seconds = time.perf_counter() - start
                self.save(checkpoint)
            self._step(rows)
            on_batch(len(rows))
        self._check_finite()
        progress.rates.append(len(data.training) / (time.perf_counter() - start))

    def _step(self, rows: Tensor) -> None:
        """Take one gradient step on a batch of rows [n]."""
        data = self._task.data
        batch = _batch(data.inputs, rows, self._task.schedule.flip)
        with self._task.compute.autocast():
            logits = self.model(batch)
        loss = self.loss(logits.float(), data.labels[rows])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.scheduler.step()
        self.total_loss += loss.detach()
        self.progress.step += 1

    def _check_finite(self) -> None:
        """Raise TrainingError if the loss or a weight is not finite."""
        # A step may make weights infinite although its loss was finite.
        weights = (parameter.isfinite().all() for parameter in self.model.parameters())
        if not bool(torch.stack([self.total_loss.isfinite(), *weights]).all()):
            raise TrainingError(
                f"The loss is not finite in epoch {self.progress.epoch + 1}. "
                f"Try a learning rate below {self._hyperparameters.learning_rate:.2g}."
            )

    def save(self, checkpoint: Checkpoint) -> None:
        """Save the state, unless it is not finite: the last good checkpoint is not overwritten."""
        self._check_finite()
        device = self.total_loss.device
        checkpoint.save(
            {
                "progress": dict(vars(self.progress)),
                "model": self.model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "total": self.total_loss,
                "random": torch.get_rng_state(),
                "cuda_random": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            }
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the checkpoint's state, including PyTorch's random state, if it has one."""
        saved: dict[str, Any] | None = checkpoint.load()
        if saved is None:
            return
        self.model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.total_loss.copy_(saved["total"])
        torch.set_rng_state(saved["random"])
        if self.total_loss.is_cuda and saved["cuda_random"] is not None:  # None if the checkpoint was saved on a CPU
            torch.cuda.set_rng_state(saved["cuda_random"], self.total_loss.device)
        self.progress = _Progress(**saved["progress"])


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    inputs: Inputs,
    rows: NDArray[np.int64],
    compute: Compute,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Logits for these rows of the inputs, float [len(rows), G], on the device.

    `on_batch` is called after each batch with its number of rows.
    """
    model.eval()
    batches = []
    for start in range(0, len(rows), EVALUATION_BATCH_SIZE):
        index = torch.from_numpy(rows[start : start + EVALUATION_BATCH_SIZE]).to(compute.device)
        with compute.autocast():
            batches.append(model(_batch(inputs, index, flip=False)).float())
        on_batch(len(index))
    return torch.cat(batches)


def predict_probabilities(model: nn.Module, inputs: Inputs, rows: NDArray[np.int64], compute: Compute) -> Probabilities:
    """Probabilities for these rows of the inputs, float32 [len(rows), G]."""
    probabilities: Probabilities = predict_logits(model, inputs, rows, compute).sigmoid().cpu().numpy()
    return probabilities


def _batch(inputs: Inputs, index: Tensor, flip: bool) -> Tensor:
    """A batch of the inputs; posters in the channels-last memory format, which is faster for convolutions."""
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
    """AdamW with weight decay for weights only: decay of the last bias would unlearn the genres' frequencies."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": hyperparameters.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=hyperparameters.learning_rate, fused=True)
