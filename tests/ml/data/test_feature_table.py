import numpy as np
import pytest
import torch

from ml.data.feature_table import BLOCK, FeatureTable
from ml.networks.kernel import fit_space

pytestmark = pytest.mark.train


@pytest.fixture
def values() -> np.ndarray:
    """Features, float32 [2 * BLOCK + 7, 5], whose columns have very different deviations."""
    generator = np.random.default_rng(0)
    return (generator.normal(size=(2 * BLOCK + 7, 5)) * [9, 5, 2, 1, 0.1] + 3).astype(np.float32)


def test_feature_table_gives_all_or_selected_rows_in_order(values: np.ndarray) -> None:
    table = FeatureTable(values)
    blocks = list(table.blocks())
    assert [len(block) for block in blocks] == [BLOCK, BLOCK, 7]
    assert np.array_equal(torch.cat(blocks).numpy(), values)
    rows = np.arange(len(values))[::-2]
    selected = table.select(rows)
    assert (len(selected), selected.shape) == (len(rows), (len(rows), 5))
    assert np.array_equal(selected.columns(2).numpy(), values[rows, :2])
    assert np.array_equal(selected.select(np.array([3])).columns(5).numpy(), values[rows[3:4]])


def test_feature_table_is_not_changed_by_modified_blocks(values: np.ndarray) -> None:
    table, before = FeatureTable(values), values.copy()
    for block in table.blocks():
        block.zero_()
    assert np.array_equal(values, before)


def test_feature_table_of_many_blocks_gives_the_space_of_all_features(values: np.ndarray) -> None:
    mixed = (values @ np.random.default_rng(1).normal(size=(5, 30))).astype(np.float32)
    space = fit_space(FeatureTable(mixed), seed=0)
    standard = (mixed - mixed.mean(0)) / mixed.std(0, ddof=1) / 30**0.5
    _, scales, _ = np.linalg.svd(standard.astype(np.float64), full_matrices=False)
    assert np.linalg.norm(space.points.numpy(), axis=0)[:5] == pytest.approx(scales[:5], rel=1e-3)
    assert np.abs(np.linalg.norm(space.points, axis=0)[5:]).max() < 1e-3 * scales[0], "the features have rank 5"
