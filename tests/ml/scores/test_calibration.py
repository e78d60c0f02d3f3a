import numpy as np
import pytest

from ml.scores.calibration import calibrate


def test_probabilities_that_mean_what_they_say_have_next_to_no_error() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.beta(0.5, 3, (4000, 10)).astype(np.float32)
    labels = (generator.random((4000, 10)) < probabilities).astype(np.uint8)
    assert calibrate(probabilities, labels).expected_error < 0.01
    twice = np.minimum(2 * probabilities, 1)
    assert calibrate(twice, labels).expected_error == pytest.approx(twice.mean() - labels.mean(), abs=0.01)


def test_the_error_is_the_mean_distance_of_bins_of_equally_many_pairs() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.random((150, 2)).astype(np.float32)
    labels = (generator.random((150, 2)) < 0.3).astype(np.uint8)
    order = np.argsort(probabilities.ravel())
    bins = [(probabilities.ravel()[rows].mean(), labels.ravel()[rows].mean()) for rows in order.reshape(15, 20)]
    found = calibrate(probabilities, labels)
    assert found.count.tolist() == [20] * 15
    assert found.mean_probability == pytest.approx([probability for probability, _ in bins])
    assert found.observed_share == pytest.approx([share for _, share in bins])
    assert found.expected_error == pytest.approx(np.mean([abs(a - b) for a, b in bins]))


def test_pairs_of_one_probability_are_one_bin_in_whatever_order_they_stand() -> None:
    labels = np.repeat([1, 0], [30, 70]).astype(np.uint8)[:, None]
    found = calibrate(np.full((100, 1), 0.3, np.float32), labels)
    assert found.count.tolist() == [100]
    assert found.expected_error == pytest.approx(0, abs=1e-7)
    assert calibrate(np.full((100, 1), 0.5, np.float32), labels).expected_error == pytest.approx(0.2)


def test_fewer_pairs_than_bins_are_a_bin_each() -> None:
    found = calibrate(np.array([[0.2, 0.9]], np.float32), np.array([[0, 1]], np.uint8))
    assert found.count.tolist() == [1, 1]
    assert found.expected_error == pytest.approx(0.15)
