import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.kernel_ridge import KernelRidge as ReferenceRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import KernelCenterer, StandardScaler

from ml.data.feature_table import FeatureTable
from ml.networks.kernel import (
    COMPONENTS,
    LANDMARKS,
    KernelRidge,
    KernelSetting,
    LogisticCurves,
    fit_curves,
    fit_kernel_head,
    fit_space,
    similarity,
)
from ml.scores.calibration import calibrate

pytestmark = pytest.mark.train

SETTING = KernelSetting(ridge=3.0, width=0.5)


def table(features: torch.Tensor) -> FeatureTable:
    return FeatureTable(features.numpy())


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Features of 240 posters with very different scales: float32 [240, 20]."""
    generator = np.random.default_rng(0)
    scales = 10 ** generator.uniform(-2, 2, 20)
    return torch.from_numpy((generator.normal(size=(240, 20)) * scales + 5 * scales).astype(np.float32))


@pytest.fixture(scope="module")
def labels(features: torch.Tensor) -> NDArray[np.uint8]:
    """Two genres that depend on the features, the first one nonlinearly, and a random one."""
    x = StandardScaler().fit_transform(features.numpy())
    chance = np.random.default_rng(1).random(240) < 0.2
    return np.column_stack([x[:, 0] * x[:, 1] > 0, x[:, 2] > 0.5, chance]).astype(np.uint8)


def test_kernel_ridge_equals_that_of_scikit_learn(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    """All training posters are landmarks and all components are kept, so nothing is approximated."""
    training, other = slice(0, 180), slice(180, 240)
    space = fit_space(table(features[training]), seed=0)
    ours = KernelRidge(space, torch.from_numpy(labels[training]).float(), SETTING.width, seed=0)

    scaler = StandardScaler().fit(features[training].numpy())
    known, asked = (scaler.transform(features[part].numpy()) for part in (training, other))
    gamma = SETTING.width / features.shape[1] * 179 / 180  # torch's deviation is that of a sample
    kernel, between = rbf_kernel(known, known, gamma), rbf_kernel(asked, known, gamma)
    centerer = KernelCenterer().fit(kernel)
    mean = labels[training].mean(0)
    reference = ReferenceRidge(alpha=SETTING.ridge, kernel="precomputed")
    reference.fit(centerer.transform(kernel), labels[training] - mean)
    expected = reference.predict(centerer.transform(between)) + mean
    assert np.abs(ours.estimate(space.project(table(features[other])), SETTING.ridge) - expected).max() < 2e-3

    assert np.abs(expected - mean).max() > 0.2, "the estimates must differ from the mean"


def test_space_distances_are_mean_squared_differences_of_standardised_features(features: torch.Tensor) -> None:
    space = fit_space(table(features), seed=0)
    x = (features - features.mean(0)) / features.std(0)
    expected = torch.exp(-0.7 * (x[:5, None] - x[None, 5:9]).square().mean(2))
    assert torch.allclose(similarity(space.points[:5], space.points[5:9], 0.7), expected, atol=1e-4)
    assert torch.allclose(space.project(table(features)), space.points, atol=1e-4)


def test_kernel_head_gives_the_logits_of_estimates_and_curves(
    features: torch.Tensor, labels: NDArray[np.uint8]
) -> None:
    space = fit_space(table(features), seed=0)
    ridge = KernelRidge(space, torch.from_numpy(labels).float(), SETTING.width, seed=0)
    estimates = ridge.estimate(space.points, SETTING.ridge)
    curves = fit_curves(estimates, labels)
    head = fit_kernel_head(space, torch.from_numpy(labels).float(), SETTING, curves, seed=0)
    with torch.no_grad():
        logits = head(features).numpy()
    assert np.abs(logits - curves.logits(estimates)).max() < 1e-2
    assert np.abs(head(features).sigmoid().detach().numpy() - curves.probabilities(estimates)).max() < 1e-3
    assert {name for name, _ in head.named_parameters()} == {"last.weight", "last.bias"}


def test_kernel_ridge_draws_a_limited_number_of_landmarks_by_the_seed() -> None:
    features = torch.from_numpy(np.random.default_rng(4).normal(size=(LANDMARKS + 50, 6)).astype(np.float32))
    labels = (features[:, :2] > 0).float()
    space = fit_space(table(features), seed=0)
    one, other = (KernelRidge(space, labels, 0.5, seed) for seed in (0, 1))
    assert len(one.landmarks) == LANDMARKS
    assert not torch.equal(one.landmarks, other.landmarks)
    estimates = one.estimate(space.points, 1.0)
    assert ((estimates > 0.5) == labels.numpy()).mean() > 0.95
    assert np.abs(estimates - other.estimate(space.points, 1.0)).max() < 0.1


def test_kernel_head_depends_on_its_seed_and_not_on_the_random_state(
    features: torch.Tensor, labels: NDArray[np.uint8]
) -> None:
    heads = []
    for start in (1, 2):
        state = torch.manual_seed(start).get_state()
        space = fit_space(table(features), seed=5)
        assert torch.equal(torch.get_rng_state(), state)
        curves = LogisticCurves(np.full(3, 8.0), np.full(3, -4.0))
        heads.append(fit_kernel_head(space, torch.from_numpy(labels).float(), SETTING, curves, seed=5).state_dict())
    assert all(heads[0][name].numpy().tobytes() == heads[1][name].numpy().tobytes() for name in heads[0])


def test_space_ignores_constant_features(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    more = torch.cat([features, torch.full((240, 4), 3.0)], 1)
    space = fit_space(table(more), seed=0)
    ridge = KernelRidge(space, torch.from_numpy(labels).float(), SETTING.width, seed=0)
    elsewhere = more.clone()
    elsewhere[:, 20:] = 1e6
    assert torch.equal(space.project(table(elsewhere)), space.project(table(more)))
    assert np.isfinite(ridge.estimate(space.project(table(elsewhere)), SETTING.ridge)).all()


def test_kernel_ridge_of_constant_features_gives_genre_frequencies(labels: NDArray[np.uint8]) -> None:
    space = fit_space(table(torch.ones(240, 5)), seed=0)
    ridge = KernelRidge(space, torch.from_numpy(labels).float(), 0.5, seed=0)
    estimates = ridge.estimate(space.points, 3.0)
    assert estimates == pytest.approx(np.broadcast_to(labels.mean(0), (240, 3)))
    assert fit_curves(estimates, labels).probabilities(estimates).mean(0) == pytest.approx(labels.mean(0), abs=0.02)


@pytest.mark.parametrize("posters", [2, 7, COMPONENTS - 1])
def test_space_has_fewer_components_for_few_posters(posters: int) -> None:
    generator = np.random.default_rng(posters)
    features = torch.from_numpy(generator.normal(size=(posters, 300)).astype(np.float32))
    labels = torch.from_numpy((np.arange(posters) % 2)[:, None]).float()
    space = fit_space(table(features), seed=0)
    assert space.points.shape == (posters, posters)
    estimates = KernelRidge(space, labels, 0.5, seed=0).estimate(space.points, 0.01)
    assert ((estimates > 0.5) == labels.numpy()).all()


def test_fit_curves_calibrates_and_keeps_the_order() -> None:
    generator = np.random.default_rng(6)
    truth = generator.uniform(0.05, 0.6, (4000, 2))
    labels = (generator.random((4000, 2)) < truth).astype(np.uint8)
    estimates = 0.3 * np.log(truth / (1 - truth)) + 0.4  # in the right order, but no probabilities
    probabilities = fit_curves(estimates, labels).probabilities(estimates)
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - truth).mean() < 0.02
    assert calibrate(probabilities, labels).expected_error < 0.02
    for genre in range(2):
        order = np.argsort(estimates[:, genre])
        assert (np.diff(probabilities[order, genre]) >= 0).all()


def test_fit_curves_gives_the_frequency_for_misleading_estimates() -> None:
    labels = (np.arange(200) % 5 == 0).astype(np.uint8)[:, None]
    estimates = 0.2 - 0.1 * labels + np.random.default_rng(7).normal(size=(200, 1)) * 0.05
    curves = fit_curves(estimates, labels)
    assert curves.slope[0] > 0
    probabilities = curves.probabilities(estimates)
    assert probabilities.max() - probabilities.min() < 0.05
    assert probabilities.mean() == pytest.approx(0.2, abs=0.05)


def test_fit_curves_stays_finite_for_separable_absent_and_universal_genres() -> None:
    generator = np.random.default_rng(8)
    labels = np.column_stack([np.arange(100) < 50, np.zeros(100), np.ones(100), np.arange(100) == 3]).astype(np.uint8)
    estimates = labels + generator.normal(size=(100, 4)) * 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = fit_curves(estimates, labels)
        probabilities = curves.probabilities(estimates)
    assert np.isfinite(curves.slope).all() and np.isfinite(curves.offset).all()
    assert (probabilities[:50, 0] > 0.9).all() and (probabilities[50:, 0] < 0.1).all()
    assert probabilities[:, 1].max() < 0.1 < 0.9 < probabilities[:, 2].min()
