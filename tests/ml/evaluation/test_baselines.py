import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from ml.data.dataset import Dataset
from ml.evaluation.baselines import baselines, every_genre, genre_frequencies, sibling_copy
from ml.scores.metrics import score

pytestmark = pytest.mark.train

GENRES = ("Action", "Comedy")


def test_every_genre_has_full_recall_and_the_precision_of_the_genre_frequency() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0]], np.uint8)
    scores = every_genre(labels, GENRES)
    assert [genre.recall for genre in scores.genres] == [1.0, 1.0]
    assert [genre.precision for genre in scores.genres] == [0.75, 0.25]
    assert scores.mean_average_precision == pytest.approx(0.5)
    assert scores.weighted_f1 == pytest.approx((3 * 6 / 7 + 1 * 2 / 5) / 4)


def test_genre_frequencies_draws_with_the_frequencies_of_the_training_labels() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((2000, 2)) < [0.5, 0.2]).astype(np.uint8)
    scores = genre_frequencies(labels, labels, GENRES, seed=0)
    assert [genre.precision for genre in scores.genres] == pytest.approx([0.5, 0.2], abs=0.02)
    assert [genre.recall for genre in scores.genres] == pytest.approx([0.5, 0.2], abs=0.02)
    assert scores == genre_frequencies(labels, labels, GENRES, seed=0)
    assert scores != genre_frequencies(labels, labels, GENRES, seed=1)


def test_genre_frequencies_are_the_mean_scores_of_100_random_predictions() -> None:
    labels = (np.random.default_rng(1).random((50, 3)) < [0.5, 0.2, 0]).astype(np.uint8)
    random = DummyClassifier(strategy="stratified", random_state=np.random.RandomState(2))
    random.fit(np.zeros((30, 1)), labels[:30])
    constant = np.tile(labels[:30].mean(0), (50, 1))
    draws = [score(constant, random.predict(np.zeros((50, 1))) == 1, labels, (*GENRES, "None")) for _ in range(100)]
    found = genre_frequencies(labels, labels[:30], (*GENRES, "None"), seed=2)
    assert (found.posters, [genre.support for genre in found.genres]) == (50, labels.sum(0).tolist())
    for name, value in found.scalars().items():
        assert value == pytest.approx(np.mean([draw.scalars()[name] for draw in draws]), abs=1e-12)
    for g, genre in enumerate(found.genres):
        for name in ("precision", "recall", "f1", "average_precision"):
            mean = np.mean([getattr(draw.genres[g], name) for draw in draws])
            assert getattr(genre, name) == pytest.approx(mean, abs=1e-12)


def test_colour_histogram_recognises_posters_whose_colours_show_the_genre(dataset: Dataset) -> None:
    scores = baselines(dataset).scores
    assert all(each.posters == len(dataset.rows("test")) for each in scores.values())
    assert scores["colour histogram"].mean_average_precision > scores["every genre"].mean_average_precision + 0.2


def test_sibling_copy_uses_other_folds_and_falls_back_to_frequencies() -> None:
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.uint8)
    copied = sibling_copy(labels, np.array(["a", "a", "b", "c"]), np.array([0, 1, 0, 1]))
    assert copied[0] == pytest.approx([1.1 / 1.2, 0.1 / 1.2])
    assert copied[3] == pytest.approx([0.5, 0.5])
