from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.networks.backbones import Backbone
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.features import Pretrained
from ml.training.outcome import TrainingOutcome
from ml.training.recipe import EPOCHS, RECIPE, TUNED, train_recipe
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def bench(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> Bench:
    return Bench(dataset, replace(quick, trials=1, epochs=1), squeezenet, choose_compute("cpu"), NoCheckpoints())


def test_recipe_is_a_frozen_backbone_with_one_new_layer_from_the_best_trial(outcome: TrainingOutcome) -> None:
    recipe, tuned = outcome.recipes
    assert (recipe.name, tuned.name) == (RECIPE, TUNED)
    for each in outcome.recipes:
        assert each.trained == "frozen"
        assert isinstance(each.network.head, torch.nn.Linear)
        assert (each.network.head.in_features, each.network.head.out_features) == (512, 3)
        assert not any(parameter.requires_grad for parameter in each.network.body.parameters())
    assert recipe.best.parameters == {"weight_decay": 0.0, "epochs": EPOCHS}
    assert len(recipe.trials) == 1 < len(tuned.trials)
    assert 1 <= tuned.best.parameters["epochs"] <= 20
    finished = [trial.validation_weighted_f1 for trial in tuned.trials if not trial.pruned]
    assert tuned.best.validation_weighted_f1 == max(finished)


def test_recipe_network_predicts_from_posters_what_its_head_predicts_from_features(
    outcome: TrainingOutcome, dataset: Dataset
) -> None:
    rows = dataset.rows("validation")
    for each in outcome.recipes:
        with torch.no_grad():
            probabilities = each.network(torch.from_numpy(dataset.images[rows])).sigmoid().numpy()
        assert np.allclose(probabilities, each.validation_probabilities, atol=0.03), (
            "features were in the device's precision"
        )
        assert np.allclose(each.predict(rows), each.validation_probabilities, atol=1e-6)


def test_recipe_uses_only_the_features_of_the_plain_backbone(bench: Bench) -> None:
    body = bench.backbone.body()
    values = torch.randn(len(bench.dataset.labels), 20, generator=torch.Generator().manual_seed(0))
    other = values.clone()
    other[:, 6:] = 1e6
    with torch.random.fork_rng(devices=[]):
        one, two = (
            [
                train_recipe(name, bench, Pretrained(body, body, 6, FeatureTable(given.numpy()), None), NullReporter())
                for name in (RECIPE, TUNED)
            ]
            for given in (values, other)
        )
    for before, after in zip(one, two, strict=True):
        assert np.array_equal(before.validation_probabilities, after.validation_probabilities)


def test_recipe_without_a_backbone_is_a_small_network(bench: Bench) -> None:
    with torch.random.fork_rng(devices=[]):
        recipe, tuned = (train_recipe(name, bench, None, NullReporter()) for name in (RECIPE, TUNED))
    for each in (recipe, tuned):
        assert (each.trained, each.backbone, each.weights) == ("whole", None, None)
        with torch.no_grad():
            probabilities = each.network.eval()(torch.from_numpy(bench.dataset.images[bench.validation])).sigmoid()
        assert np.allclose(probabilities.numpy(), each.validation_probabilities, atol=1e-5)
    assert recipe.best.parameters["epochs"] == EPOCHS
    assert tuned.best.parameters["epochs"] == bench.config.epochs
