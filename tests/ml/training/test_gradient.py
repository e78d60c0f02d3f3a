from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.errors import TrainingError
from ml.networks.backbones import Backbone
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, SCRATCH
from ml.training.gradient import Body, train_by_gradient
from ml.training.outcome import NetworkOutcome
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


def small_body() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.fixture(scope="module")
def bench(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> Bench:
    return Bench(dataset, replace(quick, trials=2, epochs=3), squeezenet, choose_compute("cpu"), NoCheckpoints())


def train(bench: Bench, body: nn.Module | None = None) -> NetworkOutcome:
    with torch.random.fork_rng(devices=[]):
        return train_by_gradient(CANDIDATES[SCRATCH], bench, Body(lambda: body or small_body()), NullReporter())


def test_gradient_training_keeps_the_best_trial_and_predicts_what_was_scored(bench: Bench) -> None:
    outcome = train(bench)
    assert len(outcome.trials) == 2
    assert outcome.best.validation_weighted_f1 == max(trial.validation_weighted_f1 for trial in outcome.trials)
    trial = outcome.trials[outcome.best.number - 1]
    trained_epochs = outcome.best.parameters["trained_epochs"]
    assert outcome.best.parameters == {**trial.parameters, "trained_epochs": trained_epochs}
    assert 1 <= trained_epochs <= bench.config.epochs
    with torch.no_grad():
        probabilities = outcome.network.eval()(torch.from_numpy(bench.dataset.images[bench.validation])).sigmoid()
    assert np.allclose(probabilities.numpy(), outcome.validation_probabilities, atol=1e-5)
    assert np.allclose(outcome.predict(bench.validation[:3]), outcome.validation_probabilities[:3], atol=1e-5)
    assert outcome.validation == bench.score(outcome.validation_probabilities)
    assert outcome.images_per_second is not None and outcome.images_per_second > 0


def test_selection_is_a_fifth_of_the_training_part_by_franchise(bench: Bench) -> None:
    dataset = bench.dataset
    franchises = np.array([f"series {row // 3}" for row in range(len(dataset.ids))])
    grouped = replace(bench, dataset=replace(dataset, franchises=franchises))
    assert np.array_equal(np.sort([*grouped.selection, *grouped.gradient_rows]), bench.training)
    assert not set(franchises[grouped.selection]) & set(franchises[grouped.gradient_rows])
    assert len(grouped.selection) / len(bench.training) == pytest.approx(0.2, abs=0.05)
    assert np.array_equal(grouped.selection, replace(grouped).selection)
    single = replace(bench, dataset=replace(dataset, franchises=np.full(len(dataset.ids), "one")))
    with pytest.raises(TrainingError, match="The train part has posters of only one franchise"):
        train(single)


@pytest.mark.parametrize("part", ["gradient_rows", "selection", "validation"])
def test_gradient_training_ends_with_the_whole_training_part_and_nothing_else(bench: Bench, part: str) -> None:
    """Other posters in a part change the weights if the part is trained on. One epoch leaves nothing to choose."""
    short = replace(bench, config=replace(bench.config, trials=1, epochs=1))
    images = np.array(bench.dataset.images[np.arange(len(bench.dataset.ids))])
    images[getattr(bench, part)] = 255 - images[getattr(bench, part)]
    one, other = (
        train(each).network.state_dict()
        for each in (short, replace(short, dataset=replace(short.dataset, images=images)))
    )
    assert all(torch.equal(one[name], other[name]) for name in one) == (part == "validation")


def test_gradient_trial_does_not_depend_on_earlier_trials_or_the_random_state(bench: Bench) -> None:
    torch.manual_seed(1)
    two = train(bench)
    torch.manual_seed(2)
    one = train(replace(bench, config=replace(bench.config, trials=1)))
    assert one.trials[0].validation_weighted_f1 == two.trials[0].validation_weighted_f1


def test_gradient_training_unfreezes_the_body_of_a_frozen_network(bench: Bench) -> None:
    body = small_body().requires_grad_(False)
    before = body[0].weight.clone()
    train(replace(bench, config=replace(bench.config, trials=1, epochs=1)), body)
    assert not torch.equal(body[0].weight, before)


def test_gradient_training_fits_its_first_head_without_the_posters_that_choose(bench: Bench) -> None:
    fitted_on = []

    def fit_head(rows: NDArray[np.int64]) -> nn.Module:
        fitted_on.append(rows)
        return nn.Linear(32, 3)

    with torch.random.fork_rng(devices=[]):
        body = Body(small_body)
        train_by_gradient(CANDIDATES[SCRATCH], bench, body, NullReporter(), fit_head)
    trials, refit = fitted_on
    assert np.array_equal(trials, bench.gradient_rows)
    assert np.array_equal(refit, bench.training)


def test_gradient_training_that_always_diverges_raises_the_reason(bench: Bench) -> None:
    class Diverging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) * self.scale * float("nan")

    with pytest.raises(TrainingError, match="The loss is not finite in epoch 1"):
        train(bench, Diverging())
