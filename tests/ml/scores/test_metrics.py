import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from ml.scores.metrics import (
    errors_together,
    f1_of_counts,
    poster_f1,
    score,
    weighted_f1,
    weighted_f1_by_threshold,
)
from ml.scores.thresholds import common_threshold, fit_thresholds

GENRES = ("Action", "Comedy", "Drama", "Horror")


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (with ties) and labels of 200 posters; no poster has the last genre."""
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.uint8)
    probabilities = np.round(0.5 * generator.random((200, 4)) + 0.3 * labels, 2).astype(np.float32)
    return probabilities, labels


def test_scores_equal_those_of_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
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


def test_scores_of_no_predictions_are_zero_without_a_warning() -> None:
    for labels in (np.array([[1, 0], [0, 0]], np.uint8), np.zeros((2, 2), np.uint8)):
        scores = score(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool), labels, ("Action", "Comedy"))
        assert (scores.weighted_f1, scores.macro_f1, scores.micro_f1) == (0, 0, 0)


def test_scores_of_a_single_genre_are_those_of_its_presence() -> None:
    labels, decisions = np.array([[1], [0], [1], [1]], np.uint8), np.array([[1], [1], [0], [1]], bool)
    scores = score(decisions.astype(np.float32), decisions, labels, ("Action",))
    assert scores.weighted_f1 == scores.macro_f1 == scores.micro_f1 == scores.genres[0].f1 == pytest.approx(2 / 3)
    assert (scores.genres[0].precision, scores.genres[0].support) == (pytest.approx(2 / 3), 3)
    assert poster_f1(decisions, labels).tolist() == [1, 0, 0, 1]


def test_f1_of_counts_equals_that_of_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    decisions = probabilities >= 0.4
    counts = (decisions & (labels == 1)).sum(0), decisions.sum(0), labels.sum(0)
    expected = f1_score(labels, decisions, average=None, zero_division=0)
    assert f1_of_counts(*counts).tolist() == expected.tolist()


def test_weighted_f1_by_threshold_uses_three_kinds_of_thresholds(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    common, per_genre = common_threshold(probabilities, labels), fit_thresholds(probabilities, labels)
    found = weighted_f1_by_threshold(probabilities, labels, common, per_genre)
    assert found.at_half == weighted_f1(probabilities >= 0.5, labels)
    assert found.at_common == weighted_f1(probabilities >= common, labels) > found.at_half
    assert found.at_own == weighted_f1(probabilities >= per_genre, labels)
    cross_fitted = np.broadcast_to(per_genre, labels.shape)
    assert weighted_f1_by_threshold(probabilities, labels, common, cross_fitted) == found


def test_poster_f1_averages_to_the_samples_f1_of_scikit_learn(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = predictions
    decisions = probabilities >= 0.4
    expected = f1_score(labels, decisions, average="samples", zero_division=0)
    assert poster_f1(decisions, labels).mean() == pytest.approx(expected)


def test_errors_together_count_genres_predicted_instead_of_others() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 1], [1, 0, 0], [0, 1, 0]], np.uint8)
    decisions = np.array([[0, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, 0]], bool)
    misses, both = errors_together(decisions, labels)
    assert misses.tolist() == [2, 0, 0]
    assert both.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]
