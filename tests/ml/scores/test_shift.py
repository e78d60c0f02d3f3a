"""The shift of predictions: what it finds, and that chance is not found."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.scores.shift import LEVEL, MOST, shift

GENRES = 14


def predictions(rng: np.random.Generator, posters: int, added: float = 0) -> NDArray[np.float32]:
    """Probabilities [N, 14] as a model gives them: most are small, and genres depend on each other.

    `added` is added to the logits of the first two genres.
    """
    kind = rng.normal(size=(posters, 1))
    logits = np.linspace(-3.5, 0, GENRES)[::-1] + 0.7 * kind + 0.9 * rng.normal(size=(posters, GENRES))
    logits[:, :2] += added
    return (1 / (1 + np.exp(-logits))).round(2).astype(np.float32)


def test_no_genre_is_shifted_in_ten_quiet_weeks() -> None:
    rng = np.random.default_rng(1)
    reference = predictions(rng, 800)
    weeks = [
        shift(predictions(rng, posters), reference) for posters in (40, 150, 200, 250, 300, 300, 350, 400, 450, 500)
    ]
    assert not any(week.shifted.any() for week in weeks)
    # PSI itself is not quiet: by the usual limit, small samples would be shifted.
    assert weeks[0].index.max() > 0.25


def test_test_finds_chance_in_as_many_comparisons_as_its_level_says() -> None:
    rng = np.random.default_rng(2)
    smallest = [shift(predictions(rng, 60), predictions(rng, 60)).p_values.min() for _ in range(100)]
    for level in (0.1, 0.3):
        assert abs(np.mean(np.array(smallest) <= level) - level) < 3 * np.sqrt(level * (1 - level) / 100)


@pytest.mark.parametrize("posters", [200, 500])
def test_planted_shift_is_found_in_its_genres_only(posters: int) -> None:
    rng = np.random.default_rng(3)
    found = shift(predictions(rng, posters, added=1), predictions(rng, 800))
    assert found.shifted.tolist() == [True] * 2 + [False] * (GENRES - 2)


def test_large_logs_are_drawn_from_and_tiny_shifts_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    found = shift(predictions(rng, 4 * MOST, added=0.3), predictions(rng, 4 * MOST))
    assert (found.p_values[:2] <= LEVEL).all()
    assert not found.shifted.any()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_probabilities_and_single_posters_give_no_shift(value: float) -> None:
    same = np.full((1, 3), value, np.float32)
    found = shift(same, np.repeat(same, 5, axis=0))
    assert (found.index.tolist(), found.p_values.tolist(), found.shifted.any()) == ([0] * 3, [1] * 3, False)
