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
    similarity,
    space,
)
from ml.scores.calibration import calibrate

pytestmark = pytest.mark.train

SETTING = KernelSetting(ridge=3.0, width=0.5)


def table(features: torch.Tensor) -> FeatureTable:
    return FeatureTable(features.numpy())


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Of 240 posters, on very different scales: float32 [240, 20]."""
    generator = np.random.default_rng(0)
    scales = 10 ** generator.uniform(-2, 2, 20)
    return torch.from_numpy((generator.normal(size=(240, 20)) * scales + 5 * scales).astype(np.float32))


@pytest.fixture(scope="module")
def labels(features: torch.Tensor) -> NDArray[np.uint8]:
    """Two genres that the features show, not linearly, and one that they do not."""
    x = StandardScaler().fit_transform(features.numpy())
    chance = np.random.default_rng(1).random(240) < 0.2
    return np.column_stack([x[:, 0] * x[:, 1] > 0, x[:, 2] > 0.5, chance]).astype(np.uint8)


def test_estimates_are_those_of_scikit_learns_kernel_ridge_regression(
    features: torch.Tensor, labels: NDArray[np.uint8]
) -> None:
    """All training posters are landmarks here, and all components are kept, so that nothing is approximated."""
    training, other = slice(0, 180), slice(180, 240)
    where = space(table(features[training]), seed=0)
    ours = KernelRidge(where, torch.from_numpy(labels[training]).float(), SETTING.width, seed=0)

    scaler = StandardScaler().fit(features[training].numpy())
    known, asked = (scaler.transform(features[part].numpy()) for part in (training, other))
    gamma = SETTING.width / features.shape[1] * 179 / 180  # torch's deviation is that of a sample
    kernel, between = rbf_kernel(known, known, gamma), rbf_kernel(asked, known, gamma)
    centerer = KernelCenterer().fit(kernel)
    mean = labels[training].mean(0)
    reference = ReferenceRidge(alpha=SETTING.ridge, kernel="precomputed")
    reference.fit(centerer.transform(kernel), labels[training] - mean)
    expected = reference.predict(centerer.transform(between)) + mean
    assert np.abs(ours.estimate(where.project(table(features[other])), SETTING.ridge) - expected).max() < 2e-3

    assert np.abs(expected - mean).max() > 0.2, "or this test says little"


def test_without_centring_it_would_be_the_plain_regression_with_a_radial_basis_function(
    features: torch.Tensor,
) -> None:
    """A kernel that is narrow makes centring matter little, and then scikit-learn's own kernel is near, too."""
    labels = np.sign(np.random.default_rng(2).normal(size=(180, 1)))
    labels -= labels.mean()
    where = space(table(features[:180]), seed=0)
    ours = KernelRidge(where, torch.from_numpy(labels).float(), 20.0, seed=0)
    reference = ReferenceRidge(alpha=1.0, kernel="rbf", gamma=20.0).fit(where.points.numpy(), labels)
    points = where.points[:50] + 0.02
    expected = reference.predict(points.numpy())
    assert np.abs(expected).max() > 0.3
    assert np.abs(ours.estimate(points, 1.0) - expected).max() < 0.02


def test_squared_distances_are_mean_squared_differences_of_standardised_features(features: torch.Tensor) -> None:
    where = space(table(features), seed=0)
    x = (features - features.mean(0)) / features.std(0)
    expected = torch.exp(-0.7 * (x[:5, None] - x[None, 5:9]).square().mean(2))
    assert torch.allclose(similarity(where.points[:5], where.points[5:9], 0.7), expected, atol=1e-4)
    assert torch.allclose(where.project(table(features)), where.points, atol=1e-4)


def test_the_head_gives_what_estimates_and_curves_give(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    where = space(table(features), seed=0)
    ridge = KernelRidge(where, torch.from_numpy(labels).float(), SETTING.width, seed=0)
    estimates = ridge.estimate(where.points, SETTING.ridge)
    curves = fit_curves(estimates, labels)
    head = fit_kernel_head(where, torch.from_numpy(labels).float(), SETTING, curves, seed=0)
    with torch.no_grad():
        logits = head(features).numpy()
    assert np.abs(logits - curves.logits(estimates)).max() < 1e-2
    assert np.abs(head(features).sigmoid().detach().numpy() - curves.probabilities(estimates)).max() < 1e-3
    assert {name for name, _ in head.named_parameters()} == {"last.weight", "last.bias"}


def test_it_learns_what_no_line_can_part(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    two = features[:, :2]  # the first genre is whether their signs are equal
    where = space(table(two[:180]), seed=0)
    ridge = KernelRidge(where, torch.from_numpy(labels[:180]).float(), 1.0, seed=0)
    estimates = ridge.estimate(where.project(table(two[180:])), 1.0)[:, 0]
    assert ((estimates > 0.5) == (labels[180:, 0] == 1)).mean() > 0.85


def test_landmarks_are_limited_and_drawn_by_the_seed() -> None:
    features = torch.from_numpy(np.random.default_rng(4).normal(size=(LANDMARKS + 50, 6)).astype(np.float32))
    labels = (features[:, :2] > 0).float()
    where = space(table(features), seed=0)
    one, other = (KernelRidge(where, labels, 0.5, seed) for seed in (0, 1))
    assert len(one.landmarks) == LANDMARKS
    assert not torch.equal(one.landmarks, other.landmarks)
    estimates = one.estimate(where.points, 1.0)
    assert ((estimates > 0.5) == labels.numpy()).mean() > 0.95
    assert np.abs(estimates - other.estimate(where.points, 1.0)).max() < 0.1


def test_the_same_seed_gives_the_same_bytes(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    heads = []
    for start in (1, 2):
        torch.manual_seed(start)
        where = space(table(features), seed=5)
        curves = LogisticCurves(np.full(3, 8.0), np.full(3, -4.0))
        heads.append(fit_kernel_head(where, torch.from_numpy(labels).float(), SETTING, curves, seed=5).state_dict())
    assert all(heads[0][name].numpy().tobytes() == heads[1][name].numpy().tobytes() for name in heads[0])


def test_finding_components_leaves_the_random_state_alone(features: torch.Tensor) -> None:
    state = torch.get_rng_state()
    space(table(features), seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_features_that_never_change_say_nothing(features: torch.Tensor, labels: NDArray[np.uint8]) -> None:
    more = torch.cat([features, torch.full((240, 4), 3.0)], 1)
    where = space(table(more), seed=0)
    ridge = KernelRidge(where, torch.from_numpy(labels).float(), SETTING.width, seed=0)
    elsewhere = more.clone()
    elsewhere[:, 20:] = 1e6
    assert torch.equal(where.project(table(elsewhere)), where.project(table(more)))
    assert np.isfinite(ridge.estimate(where.project(table(elsewhere)), SETTING.ridge)).all()


def test_features_that_are_all_alike_give_the_genres_frequencies(labels: NDArray[np.uint8]) -> None:
    where = space(table(torch.ones(240, 5)), seed=0)
    ridge = KernelRidge(where, torch.from_numpy(labels).float(), 0.5, seed=0)
    estimates = ridge.estimate(where.points, 3.0)
    assert estimates == pytest.approx(np.broadcast_to(labels.mean(0), (240, 3)))
    assert fit_curves(estimates, labels).probabilities(estimates).mean(0) == pytest.approx(labels.mean(0), abs=0.02)


@pytest.mark.parametrize("posters", [2, 7, COMPONENTS - 1])
def test_fewer_posters_than_components_are_enough(posters: int) -> None:
    generator = np.random.default_rng(posters)
    features = torch.from_numpy(generator.normal(size=(posters, 300)).astype(np.float32))
    labels = torch.from_numpy((np.arange(posters) % 2)[:, None]).float()
    where = space(table(features), seed=0)
    assert where.points.shape == (posters, posters)
    estimates = KernelRidge(where, labels, 0.5, seed=0).estimate(where.points, 0.01)
    assert ((estimates > 0.5) == labels.numpy()).all()


def test_curves_keep_the_order_and_calibrate() -> None:
    generator = np.random.default_rng(6)
    truth = generator.uniform(0.05, 0.6, (4000, 2))
    labels = (generator.random((4000, 2)) < truth).astype(np.uint8)
    estimates = 0.3 * np.log(truth / (1 - truth)) + 0.4  # in the right order, and no probability
    probabilities = fit_curves(estimates, labels).probabilities(estimates)
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities - truth).mean() < 0.02
    assert calibrate(probabilities, labels).expected_error < 0.02
    for genre in range(2):
        order = np.argsort(estimates[:, genre])
        assert (np.diff(probabilities[order, genre]) >= 0).all()


def test_a_genre_whose_estimates_mislead_keeps_their_order_and_gets_its_frequency() -> None:
    labels = (np.arange(200) % 5 == 0).astype(np.uint8)[:, None]
    estimates = 0.2 - 0.1 * labels + np.random.default_rng(7).normal(size=(200, 1)) * 0.05
    curves = fit_curves(estimates, labels)
    assert curves.slope[0] > 0
    probabilities = curves.probabilities(estimates)
    assert probabilities.max() - probabilities.min() < 0.05
    assert probabilities.mean() == pytest.approx(0.2, abs=0.05)


def test_genres_that_can_be_parted_or_that_nobody_or_everybody_has_stay_finite() -> None:
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
