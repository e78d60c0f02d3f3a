import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from ml.scores.metrics import weighted_f1
from ml.scores.thresholds import (
    PRIOR_POSTERS,
    best_threshold,
    common_threshold,
    cross_fitted_decisions,
    fit_thresholds,
)


def test_best_threshold_is_between_posters_with_and_without_the_genre() -> None:
    labels = np.array([0, 0, 1, 1], np.uint8)
    assert best_threshold(np.array([0.1, 0.2, 0.6, 0.9], np.float32), labels) == pytest.approx(0.4)
    assert best_threshold(np.array([0.5, 0.5, 0.5, 0.5], np.float32), labels) == pytest.approx(0.25)


def test_best_threshold_has_the_best_f1_of_scikit_learns_curve() -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        labels = (generator.random(60) < 0.3).astype(np.uint8)
        probabilities = np.round(0.7 * generator.random(60) + 0.2 * labels, 2).astype(np.float32)
        precision, recall, _ = precision_recall_curve(labels, probabilities)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert f1_score(labels, probabilities >= best_threshold(probabilities, labels)) == pytest.approx(best)


def test_common_threshold_has_the_best_weighted_f1_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random((60, 3)) < [0.5, 0.3, 0.1]).astype(np.uint8)
    probabilities = (0.7 * generator.random((60, 3)) + 0.2 * labels).astype(np.float32)
    candidates = np.quantile(probabilities, np.linspace(0, 1, 100))
    best = max(f1_score(labels, probabilities >= each, average="weighted", zero_division=0) for each in candidates)
    found = probabilities >= common_threshold(probabilities, labels)
    assert f1_score(labels, found, average="weighted", zero_division=0) == pytest.approx(best)


def test_threshold_of_a_rare_genre_is_near_the_common_one() -> None:
    generator = np.random.default_rng(2)
    labels = np.zeros((400, 2), np.uint8)
    labels[:200, 0] = 1
    labels[:4, 1] = 1
    probabilities = (0.4 * generator.random((400, 2)) + 0.5 * labels).astype(np.float32)
    probabilities[:, 1] *= 0.2
    common = common_threshold(probabilities, labels)
    best = [best_threshold(probabilities[:, g], labels[:, g]) for g in range(2)]
    shrunk = fit_thresholds(probabilities, labels)
    for g, support in enumerate((200, 4)):
        share = support / (support + PRIOR_POSTERS)
        assert shrunk[g] == pytest.approx(share * best[g] + (1 - share) * common)
    assert abs(shrunk[1] - common) < abs(shrunk[1] - best[1])


def test_cross_fitted_decision_does_not_depend_on_the_labels_of_its_fold() -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((50, 3)) < 0.4).astype(np.uint8)
    probabilities = generator.random((50, 3)).astype(np.float32)
    folds = np.arange(50) % 5
    before = cross_fitted_decisions(probabilities, labels, folds)
    changed = labels.copy()
    changed[folds == 2] = 1 - changed[folds == 2]
    assert np.array_equal(cross_fitted_decisions(probabilities, changed, folds)[folds == 2], before[folds == 2])


def test_cross_fitted_decisions_score_lower_on_noise() -> None:
    """Thresholds that are fitted and scored on the same noise score too high."""
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
