import numpy as np
import pytest

from ml.scores.metrics import weighted_f1
from ml.scores.thresholds import (
    PRIOR_POSTERS,
    best_threshold,
    common_threshold,
    cross_fitted_decisions,
    fit_thresholds,
)


def test_the_best_threshold_lies_between_posters_with_and_without() -> None:
    labels = np.array([0, 0, 1, 1], np.uint8)
    assert best_threshold(np.array([0.1, 0.2, 0.6, 0.9], np.float32), labels) == pytest.approx(0.4)
    assert best_threshold(np.array([0.5, 0.5, 0.5, 0.5], np.float32), labels) == pytest.approx(0.25)


def test_the_best_threshold_is_as_good_as_any_other() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random((60, 1)) < 0.3).astype(np.uint8)
    probabilities = (0.7 * generator.random((60, 1)) + 0.2 * labels).astype(np.float32)
    found = weighted_f1(probabilities >= best_threshold(probabilities[:, 0], labels[:, 0]), labels)
    assert found >= max(weighted_f1(probabilities >= t, labels) for t in np.linspace(0, 1, 301))


def test_a_rare_genre_is_drawn_towards_the_common_threshold() -> None:
    generator = np.random.default_rng(2)
    labels = np.zeros((400, 2), np.uint8)
    labels[:200, 0] = 1
    labels[:4, 1] = 1
    probabilities = (0.4 * generator.random((400, 2)) + 0.5 * labels).astype(np.float32)
    probabilities[:, 1] *= 0.2
    common = common_threshold(probabilities, labels)
    own = [best_threshold(probabilities[:, g], labels[:, g]) for g in range(2)]
    shrunk = fit_thresholds(probabilities, labels)
    for g, support in enumerate((200, 4)):
        share = support / (support + PRIOR_POSTERS)
        assert shrunk[g] == pytest.approx(share * own[g] + (1 - share) * common)
    assert abs(shrunk[1] - common) < abs(shrunk[1] - own[1])


def test_a_posters_decision_does_not_depend_on_its_own_labels() -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((50, 3)) < 0.4).astype(np.uint8)
    probabilities = generator.random((50, 3)).astype(np.float32)
    folds = np.arange(50) % 5
    before = cross_fitted_decisions(probabilities, labels, folds)
    changed = labels.copy()
    changed[folds == 2] = 1 - changed[folds == 2]
    assert np.array_equal(cross_fitted_decisions(probabilities, changed, folds)[folds == 2], before[folds == 2])


def test_cross_fitting_does_not_flatter_noise() -> None:
    """Thresholds fitted and scored on the same noise look better than they are."""
    flattered, honest = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        labels = (generator.random((60, 8)) < 0.15).astype(np.uint8)
        probabilities = generator.random((60, 8)).astype(np.float32)
        same = probabilities >= fit_thresholds(probabilities, labels)
        crossed = cross_fitted_decisions(probabilities, labels, np.arange(60) % 5)
        flattered.append(weighted_f1(same, labels))
        honest.append(weighted_f1(crossed, labels))
    assert np.mean(flattered) > np.mean(honest) + 0.01
