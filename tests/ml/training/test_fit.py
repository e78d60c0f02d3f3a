from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from ml.compute import choose_compute
from ml.networks.backbones import head
from ml.reporting import NullReporter
from ml.scores.metrics import weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.fit import FitTask, Hyperparameters, Schedule, TrainingData, fit, predict_probabilities
from tests.no_checkpoints import NoCheckpoint

pytestmark = pytest.mark.train

SETTING = Hyperparameters(learning_rate=0.1, weight_decay=0.01, dropout=0.0, hidden=0)
SCHEDULE = Schedule(epochs=6, batch_size=32, seed=0, flip=False)


@pytest.fixture
def data() -> TrainingData:
    """Features that predict two genres linearly, and a third one not at all."""
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


def task_of(data: TrainingData, schedule: Schedule = SCHEDULE) -> FitTask:
    return FitTask(data, schedule, choose_compute("cpu"))


def test_fit_learns_and_reports_each_epoch(data: TrainingData) -> None:
    curves, model, task = Curves(), new_head(), task_of(data)
    epochs: list[tuple[int, float]] = []
    result = fit(model, SETTING, task, curves, NoCheckpoint(), on_epoch=lambda *epoch: epochs.append(epoch))
    scores = [point["validation/weighted_f1"] for point in curves.points]
    assert epochs == list(enumerate(scores, 1))
    assert len(scores) == 6
    assert list(result.scores) == scores
    assert result.best_epoch == scores.index(max(scores)) + 1
    assert curves.points[-1]["train/loss"] < curves.points[0]["train/loss"]
    probabilities = predict_probabilities(model, data.inputs, data.validation, task.compute)
    assert average_precision_score(data.labels[150:, :2].numpy(), probabilities[:, :2], average=None).min() > 0.8


def test_fit_with_a_constant_rate_keeps_it(data: TrainingData) -> None:
    curves = Curves()
    fit(new_head(), SETTING, task_of(data, replace(SCHEDULE, rate="constant")), curves, NoCheckpoint())
    assert {point["learning_rate"] for point in curves.points} == {SETTING.learning_rate}


def test_fit_stops_after_an_epoch_of_the_same_schedule(data: TrainingData) -> None:
    whole, stopped, model = Curves(), Curves(), new_head()
    fit(new_head(), SETTING, task_of(data), whole, NoCheckpoint())
    fit(model, SETTING, task_of(data, replace(SCHEDULE, stop=4)), stopped, NoCheckpoint())
    assert stopped.points == whole.points[:4]
    probabilities = predict_probabilities(model, data.inputs, data.validation, choose_compute("cpu"))
    truth = data.labels[150:].numpy().astype(np.uint8)
    decisions = cross_fitted_decisions(probabilities, truth, data.folds)
    assert weighted_f1(decisions, truth) == stopped.points[3]["validation/weighted_f1"]


def test_fit_with_one_cycle_raises_and_lowers_the_rate(data: TrainingData) -> None:
    curves = Curves()
    fit(new_head(), SETTING, task_of(data), curves, NoCheckpoint())
    rates = [point["learning_rate"] for point in curves.points]
    peak = rates.index(max(rates))
    assert 0 < peak < 5
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < SETTING.learning_rate / 100


def test_fit_with_flip_mirrors_about_half_of_the_posters() -> None:
    seen: list[torch.Tensor] = []

    class Recording(nn.Module):
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
    fit(Recording(), SETTING, task_of(data, Schedule(1, 50, 0, flip=True)), NullReporter(), NoCheckpoint())
    batch = torch.cat(seen)
    mirrored = batch[:, 0, 0, 3] == 9
    assert 0.35 < mirrored.float().mean().item() < 0.65
    assert torch.equal(batch[~mirrored][:, 0, 0, 0], torch.full_like(batch[~mirrored][:, 0, 0, 0], 9))
