from dataclasses import replace

import numpy as np
import pytest

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.evaluation.leaks import leak_gauge
from ml.networks.backbones import Backbone
from ml.training.bench import Bench
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


def test_leak_gauge_shows_a_leak_in_random_folds_only(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone
) -> None:
    """Each franchise has four posters with the same genres, whatever the posters show."""
    names = [f"{chr(97 + row // 4 % 26) * 5}{chr(97 + row // 4 // 26) * 5}" for row in range(len(dataset.ids))]
    labels = dataset.labels[np.arange(len(dataset.ids)) // 4 * 4]
    titles = tuple(f"{name} {row % 4}nd Season" for row, name in enumerate(names))
    related = replace(dataset, franchises=np.array(names), labels=labels, titles=titles)
    bench = Bench(related, quick, squeezenet, choose_compute("cpu"), NoCheckpoints())
    leaks = {leak.name: leak for leak in leak_gauge(bench, None)}
    similar = leaks["posters with a similar title in training"]
    assert similar.random_split > 0.7
    assert similar.franchise_folds == 0
    copied = leaks["copying siblings' genres: mAP"]
    assert copied.random_split > 0.75
    assert copied.random_split > copied.franchise_folds + 0.2
    assert {"copying siblings' genres: weighted F1", "colours alone: mAP", "colours alone: weighted F1"} < set(leaks)


def test_leak_gauge_finds_siblings_that_the_franchises_missed(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone
) -> None:
    """Franchises are single posters, although half of the titles are similar and two posters are the same."""
    rows = np.sort(np.concatenate([dataset.rows("train"), dataset.rows("validation")]))
    sibling = set(rows[: len(rows) // 2].tolist())
    titles = tuple(
        f"Rorona no Boken {chr(97 + row % 26)}" if row in sibling else f"{row * 7919}"
        for row in range(len(dataset.ids))
    )
    images = dataset.images[:]
    images[rows[1]] = images[rows[0]]
    missed = replace(dataset, franchises=np.array(dataset.ids), titles=titles, images=images)
    bench = Bench(missed, quick, squeezenet, choose_compute("cpu"), NoCheckpoints())
    leaks = {leak.name: leak for leak in leak_gauge(bench, None)}
    assert leaks["posters with a similar title in training"].franchise_folds > 0.4
    assert leaks["posters with a near poster in training"].random_split >= 0


def test_leak_gauge_ignores_the_test_part(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> None:
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    leaks = [
        leak_gauge(Bench(data, quick, squeezenet, choose_compute("cpu"), NoCheckpoints()), None)
        for data in (dataset, replace(dataset, labels=labels))
    ]
    assert leaks[0] == leaks[1]
