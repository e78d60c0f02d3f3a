import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from ml.scores.metrics import (
    average_precision,
    errors_together,
    poster_f1,
    score,
    weighted_f1,
    weighted_f1_by_threshold,
)
from ml.scores.thresholds import common_threshold, fit_thresholds

GENRES = ("Action", "Comedy", "Drama", "Horror")


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (with ties) and labels of 200 posters; no poster has the last genre."""
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.uint8)
    probabilities = np.round(0.5 * generator.random((200, 4)) + 0.3 * labels, 2).astype(np.float32)
    return probabilities, labels


def test_scores_are_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    decisions = probabilities >= 0.4
    scores = score(probabilities, decisions, labels, GENRES)
    for average in ("weighted", "macro", "micro"):
        expected = f1_score(labels, decisions, average=average, zero_division=0)
        assert getattr(scores, f"{average}_f1") == pytest.approx(expected)
    precisions = [average_precision_score(labels[:, g], probabilities[:, g]) for g in range(3)]
    assert scores.mean_average_precision == pytest.approx(np.mean(precisions))
    for g, genre in enumerate(scores.genres):
        assert genre.precision == pytest.approx(precision_score(labels[:, g], decisions[:, g], zero_division=0))
        assert genre.recall == pytest.approx(recall_score(labels[:, g], decisions[:, g], zero_division=0))
        assert genre.support == labels[:, g].sum()
    assert scores.genres[3].average_precision == 0.0


def test_average_precision_of_tied_probabilities_is_their_frequency() -> None:
    assert average_precision(np.full(8, 0.3), np.array([1, 0, 0, 0, 1, 0, 0, 0], np.uint8)) == 0.25


def test_predicting_nothing_scores_nothing_without_a_warning() -> None:
    labels = np.array([[1, 0], [0, 0]], np.uint8)
    assert weighted_f1(np.zeros((2, 2), bool), labels) == 0.0
    assert weighted_f1(np.zeros((2, 2), bool), np.zeros((2, 2), np.uint8)) == 0.0


def test_weighted_f1_stands_beside_itself_at_three_kinds_of_thresholds(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    common, own = common_threshold(probabilities, labels), fit_thresholds(probabilities, labels)
    found = weighted_f1_by_threshold(probabilities, labels, common, own)
    assert found.at_half == weighted_f1(probabilities >= 0.5, labels)
    assert found.at_common == weighted_f1(probabilities >= common, labels) > found.at_half
    assert found.at_own == weighted_f1(probabilities >= own, labels)
    cross_fitted = np.broadcast_to(own, labels.shape)
    assert weighted_f1_by_threshold(probabilities, labels, common, cross_fitted) == found


def test_f1_of_a_poster_is_that_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = answers
    decisions = probabilities >= 0.4
    expected = f1_score(labels, decisions, average="samples", zero_division=0)
    assert poster_f1(decisions, labels).mean() == pytest.approx(expected)


def test_a_genre_that_stands_in_for_a_missed_one_is_seen() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0]], np.uint8)
    decisions = np.array([[0, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, 0]], bool)
    misses, shares = errors_together(decisions, labels)
    assert misses.tolist() == [2, 0, 0]
    assert shares.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
