from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from ml.compute import choose_compute
from ml.errors import TrainingError
from ml.metrics import average_precision
from ml.networks import head
from ml.reporting import NullReporter
from ml.training import Hyperparameters, Schedule, TrainingData, fit, predict_probabilities

SETTING = Hyperparameters(learning_rate=0.1, weight_decay=0.01, dropout=0.0, hidden=0)
SCHEDULE = Schedule(epochs=6, batch_size=32, seed=0, flip=False)


@pytest.fixture
def data() -> TrainingData:
    """Features in which two genres show linearly, a third not at all."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 8)).astype(np.float32)
    noise = generator.normal(size=200)
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 0.5, noise > 1], 1).astype(np.float32)
    rows = np.arange(200)
    return TrainingData(torch.from_numpy(features), torch.from_numpy(labels), rows[:150], rows[150:], rows[150:] % 5)


def new_head() -> nn.Sequential:
    torch.manual_seed(0)
    return head(8, np.array([0.5, 0.3, 0.15]), 0, 0.0)


class Curves(NullReporter):
    def __init__(self) -> None:
        self.points: list[Mapping[str, float]] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.points.append(values)


def test_training_learns_and_keeps_its_best_epoch(data: TrainingData) -> None:
    curves, model, compute = Curves(), new_head(), choose_compute("cpu")
    result = fit(model, data, SETTING, SCHEDULE, compute, curves, lambda epoch: None)
    scores = [point["weighted_f1/validation"] for point in curves.points]
    assert len(scores) == 6
    assert result.validation_weighted_f1 == max(scores)
    assert result.best_epoch == scores.index(max(scores)) + 1
    assert curves.points[-1]["loss/training"] < curves.points[0]["loss/training"]
    model.load_state_dict(result.state)
    probabilities = predict_probabilities(model, data.inputs, data.validation, compute)
    truth = data.labels[150:].numpy().astype(np.uint8)
    assert all(average_precision(probabilities[:, g], truth[:, g]) > 0.8 for g in (0, 1))


def test_the_same_seed_gives_the_same_weights(data: TrainingData) -> None:
    compute = choose_compute("cpu")
    states = [
        fit(new_head(), data, SETTING, SCHEDULE, compute, NullReporter(), lambda epoch: None).state for _ in range(2)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_loss_that_is_no_number_ends_training_with_a_sentence(data: TrainingData) -> None:
    data.inputs[3] = float("nan")
    with pytest.raises(TrainingError, match="no number any more in epoch 1: a learning rate below"):
        fit(new_head(), data, SETTING, SCHEDULE, choose_compute("cpu"), NullReporter(), lambda epoch: None)


def test_flipping_mirrors_about_half_of_the_posters() -> None:
    seen: list[torch.Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(1, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(images)
            return self.last(images.float().mean((1, 2, 3))[:, None])

    images = torch.zeros(256, 3, 4, 4, dtype=torch.uint8)
    images[..., 0] = 9
    rows = np.arange(256)
    data = TrainingData(images, torch.ones(256, 2), rows[:200], rows[200:], rows[200:] % 5)
    fit(Watching(), data, SETTING, Schedule(1, 50, 0, flip=True), choose_compute("cpu"), NullReporter(), lambda e: None)
    batch = torch.cat(seen)
    mirrored = batch[:, 0, 0, 3] == 9
    assert 0.35 < mirrored.float().mean().item() < 0.65
    assert torch.equal(batch[~mirrored][:, 0, 0, 0], torch.full_like(batch[~mirrored][:, 0, 0, 0], 9))
