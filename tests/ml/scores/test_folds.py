import numpy as np
import pytest
from numpy.typing import NDArray

from ml.scores.folds import FOLDS, stratified_folds


@pytest.fixture
def franchises() -> NDArray[np.str_]:
    """Of 400 posters: a few large franchises, many of one poster."""
    generator = np.random.default_rng(0)
    return np.array([f"series {number}" for number in np.minimum(generator.geometric(0.02, 400), 150)])


@pytest.fixture
def labels(franchises: NDArray[np.str_]) -> NDArray[np.uint8]:
    """A common genre, and two that run in families."""
    generator = np.random.default_rng(1)
    family = np.unique(franchises, return_inverse=True)[1]
    shares = generator.random((family.max() + 1, 2))[family]
    return np.column_stack([generator.random(400) < 0.5, shares[:, 0] < 0.2, shares[:, 1] < 0.06]).astype(np.uint8)


def test_no_franchise_is_in_two_folds(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    folds = stratified_folds(franchises, labels)
    assert set(folds.tolist()) == set(range(FOLDS))
    for name in set(franchises.tolist()):
        assert len(set(folds[franchises == name].tolist())) == 1


def test_genres_and_posters_are_about_equally_often_in_all_folds(
    franchises: NDArray[np.str_], labels: NDArray[np.uint8]
) -> None:
    folds = stratified_folds(franchises, labels)
    assert np.abs(np.bincount(folds) - 80).max() <= 8
    counts = np.array([labels[folds == fold].sum(0) for fold in range(FOLDS)])
    assert np.abs(counts / counts.mean(0) - 1)[:, :2].max() < 0.2
    by_chance = np.unique(franchises, return_inverse=True)[1] % FOLDS
    drawn = np.array([labels[by_chance == fold].sum(0) for fold in range(FOLDS)])
    assert (counts.std(0) < drawn.std(0)).all()


def test_posters_that_are_franchises_of_their_own_give_even_folds() -> None:
    labels = (np.random.default_rng(2).random((500, 4)) < [0.5, 0.2, 0.1, 0.02]).astype(np.uint8)
    folds = stratified_folds(np.arange(500).astype(np.str_), labels)
    counts = np.array([labels[folds == fold].sum(0) for fold in range(FOLDS)])
    assert (counts.max(0) - counts.min(0) <= 2).all()


def test_folds_do_not_depend_on_the_order_of_rows(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    order = np.random.default_rng(3).permutation(400)
    assert np.array_equal(
        stratified_folds(franchises[order], labels[order]), stratified_folds(franchises, labels)[order]
    )


def test_folds_are_fewer_where_franchises_are_few() -> None:
    labels = np.ones((6, 2), np.uint8)
    assert sorted(stratified_folds(np.array(["a", "b", "c"] * 2), labels).tolist()) == [0, 0, 1, 1, 2, 2]
    assert stratified_folds(np.array(["one"] * 6), labels).tolist() == [0] * 6


def test_a_genre_that_no_poster_has_does_not_matter(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    more = np.column_stack([labels, np.zeros(400, np.uint8)])
    assert np.array_equal(stratified_folds(franchises, more), stratified_folds(franchises, labels))
