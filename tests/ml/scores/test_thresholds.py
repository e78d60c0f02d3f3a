import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from ml.scores.metrics import weighted_f1
from ml.scores.thresholds import (
    common_threshold,
    cross_fitted_decisions,
    fit_thresholds,
)


def test_thresholds_have_the_highest_f1_for_calibrated_probabilities_of_many_posters() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.beta([1, 2, 4], [8, 4, 2], (20_000, 3))
    labels = (generator.random(probabilities.shape) < probabilities).astype(np.uint8)
    thresholds = fit_thresholds(probabilities.astype(np.float32), labels)
    for g, threshold in enumerate(thresholds):
        precision, recall, _ = precision_recall_curve(labels[:, g], probabilities[:, g])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert f1_score(labels[:, g], probabilities[:, g] >= threshold) == pytest.approx(best, abs=0.004)
        assert threshold == pytest.approx(best / 2, abs=0.02)


def test_thresholds_undo_a_monotonic_error_of_the_probabilities() -> None:
    """Networks that are not calibrated get the same decisions as calibrated ones."""
    generator = np.random.default_rng(1)
    odds = generator.normal(-1, 1.5, (500, 2))
    labels = (generator.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.uint8)
    decisions = []
    for slope, offset in ((1, 0), (0.4, 2), (2.5, -1)):
        probabilities = (1 / (1 + np.exp(-slope * odds - offset))).astype(np.float32)
        decisions.append(probabilities >= fit_thresholds(probabilities, labels))
    assert decisions[0].any(0).all() and not decisions[0].all(0).any()
    assert np.array_equal(decisions[0], decisions[1]) and np.array_equal(decisions[0], decisions[2])


def test_thresholds_vary_less_and_score_higher_than_the_best_ones_of_few_posters() -> None:
    generator = np.random.default_rng(2)
    smooth, followed = [], []
    for _ in range(30):
        odds = generator.normal(-1.5, 0.8, (4100, 1))
        labels = (generator.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.uint8)
        probabilities = (1 / (1 + np.exp(-odds))).astype(np.float32)
        precision, recall, candidates = precision_recall_curve(labels[:100, 0], probabilities[:100, 0])
        best = candidates[int((2 * precision * recall / np.maximum(precision + recall, 1e-9))[:-1].argmax())]
        own = fit_thresholds(probabilities[:100], labels[:100])
        smooth.append(f1_score(labels[100:], probabilities[100:] >= own))
        followed.append(f1_score(labels[100:], probabilities[100:] >= best))
    assert np.mean(smooth) > np.mean(followed) + 0.005
    assert np.std(smooth) < np.std(followed)


def test_threshold_accepts_all_posters_if_the_probabilities_mislead() -> None:
    labels = (np.arange(200) % 4 == 0).astype(np.uint8)[:, None]
    probabilities = (0.6 - 0.3 * labels + 0.1 * np.random.default_rng(3).random((200, 1))).astype(np.float32)
    assert (probabilities >= fit_thresholds(probabilities, labels)).all()


def test_thresholds_are_between_0_and_1_for_absent_universal_and_certain_genres() -> None:
    labels = np.column_stack([np.zeros(50), np.ones(50), np.arange(50) < 20, np.arange(50) < 20]).astype(np.uint8)
    probabilities = labels.astype(np.float32)
    probabilities[:, 3] = 0.5
    thresholds = fit_thresholds(probabilities, labels)
    assert ((thresholds > 0) & (thresholds < 1)).all()
    assert np.array_equal(probabilities >= thresholds, np.column_stack([labels[:, :3], np.ones(50)]) == 1)


def test_common_threshold_has_the_best_weighted_f1_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random((60, 3)) < [0.5, 0.3, 0.1]).astype(np.uint8)
    probabilities = (0.7 * generator.random((60, 3)) + 0.2 * labels).astype(np.float32)
    candidates = np.quantile(probabilities, np.linspace(0, 1, 100))
    best = max(f1_score(labels, probabilities >= each, average="weighted", zero_division=0) for each in candidates)
    found = probabilities >= common_threshold(probabilities, labels)
    assert f1_score(labels, found, average="weighted", zero_division=0) == pytest.approx(best)


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
