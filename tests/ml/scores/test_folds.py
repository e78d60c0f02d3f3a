import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from ml.scores.folds import FOLDS, stratified_folds


@pytest.fixture
def franchises() -> NDArray[np.str_]:
    """Franchises of 400 posters: a few large ones, and many with one poster."""
    generator = np.random.default_rng(0)
    return np.array([f"series {number}" for number in np.minimum(generator.geometric(0.02, 400), 150)])


@pytest.fixture
def labels(franchises: NDArray[np.str_]) -> NDArray[np.uint8]:
    """A common genre, and two that are frequent in some franchises."""
    generator = np.random.default_rng(1)
    family = np.unique(franchises, return_inverse=True)[1]
    shares = generator.random((family.max() + 1, 2))[family]
    return np.column_stack([generator.random(400) < 0.5, shares[:, 0] < 0.2, shares[:, 1] < 0.06]).astype(np.uint8)


def test_folds_keep_franchises_together(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    folds = stratified_folds(franchises, labels)
    assert set(folds.tolist()) == set(range(FOLDS))
    for name in set(franchises.tolist()):
        assert len(set(folds[franchises == name].tolist())) == 1


def test_folds_balance_genres_better_than_group_k_fold(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    grouped = np.empty(400, np.int64)
    for fold, (_, inside) in enumerate(GroupKFold(FOLDS).split(labels, groups=franchises)):
        grouped[inside] = fold
    ours, theirs = _imbalance(stratified_folds(franchises, labels), labels), _imbalance(grouped, labels)
    assert (ours < theirs).all()
    assert ours[:2].max() < 0.2
    assert np.abs(np.bincount(stratified_folds(franchises, labels)) - 80).max() <= 8


def _imbalance(folds: NDArray[np.int64], labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The largest relative difference between a fold's count of a genre and the mean count, [G]."""
    counts = np.array([labels[folds == fold].sum(0) for fold in range(FOLDS)])
    return np.abs(counts / counts.mean(0) - 1).max(0)


def test_folds_do_not_depend_on_the_order_of_posters(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    order = np.random.default_rng(3).permutation(400)
    assert np.array_equal(
        stratified_folds(franchises[order], labels[order]), stratified_folds(franchises, labels)[order]
    )


def test_folds_are_fewer_than_five_with_few_franchises() -> None:
    labels = np.ones((6, 2), np.uint8)
    assert sorted(stratified_folds(np.array(["a", "b", "c"] * 2), labels).tolist()) == [0, 0, 1, 1, 2, 2]
    assert stratified_folds(np.array(["one"] * 6), labels).tolist() == [0] * 6


def test_folds_ignore_a_genre_without_posters(franchises: NDArray[np.str_], labels: NDArray[np.uint8]) -> None:
    more = np.column_stack([labels, np.zeros(400, np.uint8)])
    assert np.array_equal(stratified_folds(franchises, more), stratified_folds(franchises, labels))
