from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.errors import TrainingError
from ml.networks.backbones import Backbone, scratch_body
from ml.networks.kernel import KernelRidge, KernelSetting, fit_curves, fit_space
from ml.reporting import NullReporter
from ml.scores.thresholds import fit_thresholds
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, FROZEN, Range
from ml.training.features import Pretrained
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads, fit_head, train_frozen
from ml.training.outcome import NetworkOutcome
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def bench(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> Bench:
    return Bench(dataset, quick, squeezenet, choose_compute("cpu"), NoCheckpoints())


@pytest.fixture(scope="module")
def pretrained(dataset: Dataset) -> Pretrained:
    """A backbone with noisy features of the genres, [N, 12]."""
    generator = np.random.default_rng(0)
    shown = dataset.labels @ generator.normal(size=(3, 12)) + generator.normal(size=(len(dataset.labels), 12))
    body = scratch_body(32)
    features = FeatureTable(shown.astype(np.float32))
    return Pretrained(body, body, 12, features, 10.0)


def changed(pretrained: Pretrained, rows: NDArray[np.int64], value: float) -> Pretrained:
    """The same backbone with other features of some rows."""
    values = pretrained.features.columns(12).numpy()
    values[rows] = value
    return replace(pretrained, features=FeatureTable(values))


def train(bench: Bench, pretrained: Pretrained) -> NetworkOutcome:
    return train_frozen(CANDIDATES[FROZEN], bench, pretrained, NullReporter())


def test_out_of_fold_heads_estimates_each_fold_with_a_head_of_the_others(bench: Bench, pretrained: Pretrained) -> None:
    labels, features = bench.dataset.labels, pretrained.features
    heads = OutOfFoldHeads(features, labels, bench.dataset.franchises, 0)
    completed: list[int] = []
    estimates = heads.estimates(KERNEL_FIRST, lambda fold, score: completed.append(fold))
    assert completed == [1, 2, 3, 4]
    assert 0.5 < heads.score(estimates) <= 1
    assert set(heads.fold_of.tolist()) == {0, 1, 2, 3, 4}
    for fold in (0, 3):
        inside, outside = (np.flatnonzero(of) for of in (heads.fold_of == fold, heads.fold_of != fold))
        space = fit_space(features.select(outside), 0)
        ridge = KernelRidge(space, torch.from_numpy(labels).float()[outside], KERNEL_FIRST.width, 0)
        expected = ridge.estimate(space.project(features.select(inside)), KERNEL_FIRST.ridge)
        assert np.allclose(estimates[inside], expected, atol=1e-6)


def test_train_frozen_scores_a_head_of_train_and_serves_one_of_train_and_validation(
    bench: Bench, pretrained: Pretrained
) -> None:
    outcome = train(bench, pretrained)
    assert (outcome.name, outcome.trained, len(outcome.trials)) == ("frozen", "frozen", bench.config.trials)
    assert outcome.trials[0].parameters == vars(KERNEL_FIRST)
    for name, limits in CANDIDATES[FROZEN].space.items():
        assert isinstance(limits, Range)
        assert all(limits.low <= trial.parameters[name] <= limits.high for trial in outcome.trials)
    assert outcome.validation_probabilities.shape == (len(bench.validation), 3)
    assert outcome.validation == bench.score(outcome.validation_probabilities)
    labels, space = bench.dataset.labels, fit_space(pretrained.features.select(bench.training), 0)
    heads = OutOfFoldHeads(
        pretrained.features.select(bench.training),
        labels[bench.training],
        bench.dataset.franchises[bench.training],
        bench.config.seed,
    )
    setting = KernelSetting(**outcome.best.parameters)
    assert outcome.best.validation_weighted_f1 == heads.score(heads.estimates(setting))
    ridge = KernelRidge(space, torch.from_numpy(labels).float()[bench.training], setting.width, 0)
    estimates = ridge.estimate(space.project(pretrained.features.select(bench.validation)), setting.ridge)
    curves = fit_curves(heads.estimates(setting), labels[bench.training])
    assert np.allclose(outcome.validation_probabilities, curves.probabilities(estimates), atol=1e-5)
    both = np.sort(np.concatenate([bench.training, bench.validation]))
    assert np.array_equal(outcome.fitted_rows, both)
    assert np.array_equal(outcome.thresholds, fit_thresholds(outcome.fitted_probabilities, labels[both]))
    # The served head was fitted on the validation part; the scored probabilities were not.
    fitted = outcome.predict(bench.validation)
    assert np.abs(fitted - bench.truth).mean() < np.abs(outcome.validation_probabilities - bench.truth).mean()
    assert np.allclose(fitted, outcome.predict(bench.validation[::-1].copy())[::-1], atol=1e-6)


def test_train_frozen_ignores_labels_and_features_of_the_test_part(bench: Bench, pretrained: Pretrained) -> None:
    test = bench.dataset.rows("test")
    labels = bench.dataset.labels.copy()
    labels[test] = 1 - labels[test]
    other = replace(bench, dataset=replace(bench.dataset, labels=labels))
    one, two = train(bench, pretrained), train(other, changed(pretrained, test, 77.0))
    assert np.array_equal(one.validation_probabilities, two.validation_probabilities)
    assert np.array_equal(one.thresholds, two.thresholds)
    states = one.network.head.state_dict(), two.network.head.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_fit_head_ignores_other_posters(bench: Bench, pretrained: Pretrained) -> None:
    others = np.concatenate([bench.validation, bench.selection])
    one, two = (
        fit_head(bench, given.features, bench.gradient_rows, KERNEL_FIRST).state_dict()
        for given in (pretrained, changed(pretrained, others, 77.0))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("damaged", [float("nan"), float("inf")])
def test_out_of_fold_heads_raises_for_features_that_are_not_finite(
    bench: Bench, pretrained: Pretrained, damaged: float
) -> None:
    with pytest.raises(TrainingError, match="features are not finite: its weights are damaged"):
        train(bench, changed(pretrained, bench.training[3:4], damaged))
