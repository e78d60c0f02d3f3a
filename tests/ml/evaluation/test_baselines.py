import numpy as np
import pytest

from ml.evaluation.baselines import every_genre, genre_frequencies

GENRES = ("Action", "Comedy")


def test_every_genre_finds_all_and_is_as_precise_as_the_genre_is_frequent() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.uint8)
    scores = every_genre(labels, GENRES)
    assert [genre.recall for genre in scores.genres] == [1.0, 1.0]
    assert [genre.precision for genre in scores.genres] == [0.75, 0.25]
    assert scores.mean_average_precision == pytest.approx(0.5)
    assert scores.weighted_f1 == pytest.approx((3 * 6 / 7 + 1 * 2 / 5) / 4)


def test_genre_frequencies_draw_what_training_has_seen() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((2000, 2)) < [0.5, 0.2]).astype(np.uint8)
    scores = genre_frequencies(labels, labels, GENRES, seed=0)
    assert [genre.precision for genre in scores.genres] == pytest.approx([0.5, 0.2], abs=0.02)
    assert [genre.recall for genre in scores.genres] == pytest.approx([0.5, 0.2], abs=0.02)
    assert scores == genre_frequencies(labels, labels, GENRES, seed=0)
    assert scores != genre_frequencies(labels, labels, GENRES, seed=1)
