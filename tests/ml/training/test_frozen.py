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
from ml.networks.backbones import scratch_body
from ml.networks.kernel import KernelRidge, fit_curves, space
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.candidates import KERNEL_FIRST, KERNEL_SPACE, Range
from ml.training.checkpoints import NoCheckpoints
from ml.training.features import Features
from ml.training.frozen import FrozenSearch, answers_of, head_of_training_part, train_frozen


@pytest.fixture(scope="module")
def bench(dataset: Dataset, quick: TrainConfig) -> Bench:
    return Bench(dataset, quick, choose_compute("cpu"), NoCheckpoints())


@pytest.fixture(scope="module")
def features(dataset: Dataset) -> Features:
    """Numbers that show the genres through noise."""
    generator = np.random.default_rng(0)
    shown = dataset.labels @ generator.normal(size=(3, 12)) + generator.normal(size=(len(dataset.labels), 12))
    return Features(FeatureTable(shown.astype(np.float32)), 12, 10.0)


def changed(features: Features, rows: NDArray[np.int64], value: float) -> Features:
    """The same features but for those of some rows."""
    values = features.values.columns(12).numpy()
    values[rows] = value
    return replace(features, values=FeatureTable(values))


def test_a_posters_estimate_is_that_of_a_head_that_has_not_seen_its_fold(bench: Bench, features: Features) -> None:
    labels = bench.dataset.labels
    trying = FrozenSearch(features.values, labels, bench.dataset.franchises, 0)
    estimates = trying.estimates(KERNEL_FIRST)
    assert set(trying.fold_of.tolist()) == {0, 1, 2, 3, 4}
    for fold in (0, 3):
        inside, outside = (np.flatnonzero(of) for of in (trying.fold_of == fold, trying.fold_of != fold))
        where = space(features.values.only(outside), 0)
        ridge = KernelRidge(where, torch.from_numpy(labels).float()[outside], KERNEL_FIRST.width, 0)
        expected = ridge.estimate(where.project(features.values.only(inside)), KERNEL_FIRST.ridge)
        assert np.allclose(estimates[inside], expected, atol=1e-6)


def test_the_best_setting_is_fitted_on_train_and_validation_and_judged_on_validation(
    bench: Bench, features: Features
) -> None:
    outcome = train_frozen(bench, scratch_body(32), "resnet18", "sha256", features, NullReporter())
    assert (outcome.name, outcome.trained, len(outcome.trials)) == ("frozen", "frozen", bench.config.trials)
    assert outcome.trials[0].parameters == vars(KERNEL_FIRST)
    for name, where in KERNEL_SPACE.items():
        assert isinstance(where, Range)
        assert all(where.low <= trial.parameters[name] <= where.high for trial in outcome.trials)
    assert outcome.validation_probabilities.shape == (len(bench.validation), 3)
    assert outcome.validation == bench.score(outcome.validation_probabilities)
    # The head has seen the validation part, and what it is judged by has not.
    seen = outcome.predict(bench.validation)
    assert np.abs(seen - bench.truth).mean() < np.abs(outcome.validation_probabilities - bench.truth).mean()
    assert np.allclose(seen, outcome.predict(bench.validation[::-1].copy())[::-1], atol=1e-6)


def test_neither_labels_nor_features_of_the_test_part_matter(bench: Bench, features: Features) -> None:
    test = bench.dataset.rows("test")
    labels = bench.dataset.labels.copy()
    labels[test] = 1 - labels[test]
    other = Bench(replace(bench.dataset, labels=labels), bench.config, bench.compute, bench.checkpoints)
    one, two = (
        train_frozen(own, scratch_body(32), "resnet18", "sha256", given, NullReporter())
        for own, given in ((bench, features), (other, changed(features, test, 77.0)))
    )
    assert np.array_equal(one.validation_probabilities, two.validation_probabilities)
    assert np.array_equal(one.thresholds, two.thresholds)
    states = one.network.head.state_dict(), two.network.head.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_head_that_fine_tuning_starts_with_has_not_seen_the_validation_part(
    bench: Bench, features: Features
) -> None:
    one, two = (
        head_of_training_part(bench, given, KERNEL_FIRST).state_dict()
        for given in (features, changed(features, bench.validation, 77.0))
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_features_that_are_no_numbers_end_with_a_sentence(bench: Bench, features: Features) -> None:
    for damaged in (float("nan"), float("inf")):
        values = changed(features, bench.training[3:4], damaged)
        with pytest.raises(TrainingError, match="features are no numbers any more: its weights are damaged"):
            train_frozen(bench, scratch_body(32), "net", "sha256", values, NullReporter())


def test_folds_that_are_done_are_told_with_their_score(bench: Bench, features: Features) -> None:
    told: list[int] = []
    trying = FrozenSearch(features.values, bench.dataset.labels, bench.dataset.franchises, 0)
    estimates = trying.estimates(KERNEL_FIRST, lambda fold, score: told.append(fold))
    assert told == [1, 2, 3, 4]
    assert 0.5 < trying.score(estimates) <= 1
    head = trying.head(KERNEL_FIRST, fit_curves(estimates, bench.dataset.labels))
    assert answers_of(head, features.values).shape == (120, 3)
