from dataclasses import replace

import numpy as np
import pytest

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.evaluation.baselines import sibling_copy
from ml.evaluation.leaks import leak_gauge
from ml.training.bench import Bench
from ml.training.checkpoints import NoCheckpoints


def test_copying_siblings_gains_in_a_random_split_and_nothing_in_franchise_folds(
    dataset: Dataset, quick: TrainConfig
) -> None:
    """Franchises of four posters with the same genres, whatever the posters show."""
    groups = np.array([f"series {row // 4}" for row in range(len(dataset.ids))])
    labels = dataset.labels[np.arange(len(dataset.ids)) // 4 * 4]
    related = replace(dataset, franchises=groups, labels=labels)
    bench = Bench(related, quick, choose_compute("cpu"), NoCheckpoints())
    leaks = {leak.name: leak for leak in leak_gauge(bench, None)}
    siblings = leaks["posters with a sibling in training"]
    assert siblings.random_split > 0.7
    assert siblings.franchise_folds == 0
    copied = leaks["copying siblings' genres: mAP"]
    assert copied.random_split > 0.75
    assert copied.random_split > copied.franchise_folds + 0.2
    assert set(leaks) == {
        "posters with a sibling in training",
        *(
            f"{name}: {figure}"
            for name in ("copying siblings' genres", "colours alone")
            for figure in ("weighted F1", "mAP")
        ),
    }


def test_the_gauge_does_not_look_at_the_test_part(dataset: Dataset, quick: TrainConfig) -> None:
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    both = [
        leak_gauge(Bench(data, quick, choose_compute("cpu"), NoCheckpoints()), None)
        for data in (dataset, replace(dataset, labels=labels))
    ]
    assert both[0] == both[1]


def test_siblings_are_copied_from_other_folds_and_frequencies_fill_in() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.uint8)
    copied = sibling_copy(labels, np.array(["a", "a", "b", "c"]), np.array([0, 1, 0, 1]))
    assert copied[0] == pytest.approx([1.1 / 1.2, 0.1 / 1.2])
    assert copied[3] == pytest.approx([0.5, 0.5])
