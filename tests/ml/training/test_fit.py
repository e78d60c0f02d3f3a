from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ml.compute import choose_compute
from ml.errors import TrainingError
from ml.networks.backbones import head
from ml.reporting import NullReporter
from ml.scores.metrics import average_precision
from ml.training.checkpoints import NoCheckpoint
from ml.training.fit import Hyperparameters, Schedule, TrainingData, fit, predict_probabilities

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


def on_epoch(epoch: int, score: float) -> None: ...


class Curves(NullReporter):
    def __init__(self) -> None:
        self.points: list[Mapping[str, float]] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.points.append(values)


def test_training_learns_and_keeps_its_best_epoch(data: TrainingData) -> None:
    curves, model, compute = Curves(), new_head(), choose_compute("cpu")
    result = fit(model, data, SETTING, SCHEDULE, compute, curves, NoCheckpoint(), on_epoch)
    scores = [point["weighted_f1/validation"] for point in curves.points]
    assert len(scores) == 6
    assert result.validation_weighted_f1 == max(scores)
    assert result.kept_epoch == scores.index(max(scores)) + 1
    assert curves.points[-1]["loss/training"] < curves.points[0]["loss/training"]
    model.load_state_dict(result.state)
    probabilities = predict_probabilities(model, data.inputs, data.validation, compute)
    truth = data.labels[150:].numpy().astype(np.uint8)
    assert all(average_precision(probabilities[:, g], truth[:, g]) > 0.8 for g in (0, 1))


def test_every_epoch_is_told_with_its_score(data: TrainingData) -> None:
    told: list[tuple[int, float]] = []
    curves = Curves()
    checkpoint, compute = NoCheckpoint(), choose_compute("cpu")
    fit(new_head(), data, SETTING, SCHEDULE, compute, curves, checkpoint, lambda *each: told.append(each))
    assert told == [(epoch, point["weighted_f1/validation"]) for epoch, point in enumerate(curves.points, 1)]


def test_the_last_epoch_is_kept_where_that_is_asked_for_and_a_rate_may_stay(data: TrainingData) -> None:
    curves, model, compute = Curves(), new_head(), choose_compute("cpu")
    schedule = replace(SCHEDULE, rate="constant", keep="last")
    result = fit(model, data, SETTING, schedule, compute, curves, NoCheckpoint(), on_epoch)
    assert result.kept_epoch == 6
    assert all(torch.equal(value, result.state[name]) for name, value in model.state_dict().items())
    assert {point["learning_rate"] for point in curves.points} == {SETTING.learning_rate}


def test_a_rate_of_one_cycle_rises_and_falls(data: TrainingData) -> None:
    curves = Curves()
    fit(new_head(), data, SETTING, SCHEDULE, choose_compute("cpu"), curves, NoCheckpoint(), on_epoch)
    rates = [point["learning_rate"] for point in curves.points]
    peak = rates.index(max(rates))
    assert 0 < peak < 5
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < SETTING.learning_rate / 100


def test_the_same_seed_gives_the_same_weights(data: TrainingData) -> None:
    compute = choose_compute("cpu")
    states = [
        fit(new_head(), data, SETTING, SCHEDULE, compute, NullReporter(), NoCheckpoint(), on_epoch).state
        for _ in range(2)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_loss_that_is_no_number_ends_training_with_a_sentence(data: TrainingData) -> None:
    data.inputs[3] = float("nan")
    with pytest.raises(TrainingError, match="no number any more in epoch 1: a learning rate below"):
        fit(new_head(), data, SETTING, SCHEDULE, choose_compute("cpu"), NullReporter(), NoCheckpoint(), on_epoch)


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
    fit(
        Watching(),
        data,
        SETTING,
        Schedule(1, 50, 0, flip=True),
        choose_compute("cpu"),
        NullReporter(),
        NoCheckpoint(),
        on_epoch,
    )
    batch = torch.cat(seen)
    mirrored = batch[:, 0, 0, 3] == 9
    assert 0.35 < mirrored.float().mean().item() < 0.65
    assert torch.equal(batch[~mirrored][:, 0, 0, 0], torch.full_like(batch[~mirrored][:, 0, 0, 0], 9))
