import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from ml.scores.calibration import BINS, brier_skill, calibrate, calibrate_genres


def test_calibration_error_of_calibrated_probabilities_is_small() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.beta(0.5, 3, (4000, 10)).astype(np.float32)
    labels = (generator.random((4000, 10)) < probabilities).astype(np.uint8)
    assert calibrate(probabilities, labels).expected_error < 0.01
    twice = np.minimum(2 * probabilities, 1)
    assert calibrate(twice, labels).expected_error == pytest.approx(twice.mean() - labels.mean(), abs=0.01)


@pytest.mark.parametrize("digits", [2, 7])
def test_calibration_points_equal_those_of_scikit_learn(digits: int) -> None:
    generator = np.random.default_rng(1)
    probabilities = np.round(generator.beta(0.5, 3, (81, 20)), digits).astype(np.float32)
    labels = (generator.random((81, 20)) < 0.3).astype(np.uint8)
    share, mean = calibration_curve(
        labels.ravel(), probabilities.ravel().astype(np.float64), n_bins=BINS, strategy="quantile"
    )
    found = calibrate(probabilities, labels)
    assert found.mean_probability == pytest.approx(mean)
    assert found.observed_share == pytest.approx(share)
    assert found.count.sum() == 81 * 20
    assert found.expected_error == pytest.approx(np.average(np.abs(mean - share), weights=found.count))


def test_bins_keep_equal_probabilities_together() -> None:
    labels = np.repeat([1, 0], [30, 70]).astype(np.uint8)[:, None]
    found = calibrate(np.full((100, 1), 0.3, np.float32), labels)
    assert found.count.tolist() == [100]
    assert found.expected_error == pytest.approx(0, abs=1e-7)
    assert calibrate(np.full((100, 1), 0.5, np.float32), labels).expected_error == pytest.approx(0.2)


def test_bins_of_few_pairs_hold_one_pair_each() -> None:
    found = calibrate(np.array([[0.2, 0.9]], np.float32), np.array([[0, 1]], np.uint8))
    assert found.count.tolist() == [1, 1]
    assert found.expected_error == pytest.approx(0.15)


def test_brier_skill_compares_brier_scores_with_those_of_base_rates() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.random((300, 3)).astype(np.float32)
    labels = (generator.random((300, 3)) < probabilities).astype(np.uint8)
    rates = np.array([0.2, 0.5, 0.4])
    base = np.broadcast_to(rates, labels.shape)
    expected = 1 - brier_score_loss(labels.ravel(), probabilities.ravel()) / brier_score_loss(
        labels.ravel(), base.ravel()
    )
    assert brier_skill(probabilities, labels, rates) == pytest.approx(expected)
    assert brier_skill(base.astype(np.float32), labels, base) == pytest.approx(0, abs=1e-6)
    assert brier_skill(labels.astype(np.float32), labels, rates) == 1
    assert brier_skill(probabilities[:, 0], np.zeros(300, np.uint8), np.zeros(300)) == 0  # no poster has the genre


def test_calibration_per_genre_shows_what_pooling_hides() -> None:
    labels = (np.random.default_rng(0).random((2000, 2)) < (0.3, 0.5)).astype(np.uint8)
    swapped = np.broadcast_to(np.array([0.5, 0.3], np.float32), labels.shape)
    frequencies = labels.mean(0)
    one, other = calibrate_genres(swapped, labels, frequencies, ("Action", "Drama"))
    assert (one.genre, other.genre) == ("Action", "Drama")
    assert (one.base_rate, one.observed_share) == (pytest.approx(frequencies[0]), pytest.approx(frequencies[0]))
    assert one.calibration_error == pytest.approx(0.5 - frequencies[0])
    assert calibrate(swapped, labels).expected_error > 0.15
    for genre, column in ((one, 0), (other, 1)):
        assert genre.brier_skill == brier_skill(swapped[:, column], labels[:, column], frequencies[column]) < 0
    known = calibrate_genres(frequencies.astype(np.float32) + 0 * swapped, labels, frequencies, ("Action", "Drama"))
    assert all(genre.calibration_error < 1e-6 and abs(genre.brier_skill) < 1e-6 for genre in known)
