from dataclasses import replace

import numpy as np
import pytest

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.evaluation.leaks import leak_gauge
from ml.training.bench import Bench
from ml.training.checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


def test_leak_gauge_shows_a_leak_in_random_folds_only(dataset: Dataset, quick: TrainConfig) -> None:
    """Each franchise has four posters with the same genres, whatever the posters show."""
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
    assert {"copying siblings' genres: weighted F1", "colours alone: mAP", "colours alone: weighted F1"} < set(leaks)


def test_leak_gauge_ignores_the_test_part(dataset: Dataset, quick: TrainConfig) -> None:
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    leaks = [
        leak_gauge(Bench(data, quick, choose_compute("cpu"), NoCheckpoints()), None)
        for data in (dataset, replace(dataset, labels=labels))
    ]
    assert leaks[0] == leaks[1]
