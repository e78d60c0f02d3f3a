import time

import numpy as np
import pytest

from ml.scores.intervals import Bootstrap, Predictions, differences, interval, intervals
from ml.scores.metrics import average_precision, f1, score, weighted_f1

FRANCHISES = np.array([f"series {number // 3}" for number in range(240)])
GENRES = ("Action", "Comedy", "Drama", "Horror", "Sports")


@pytest.fixture
def labels() -> np.ndarray:
    """Of 240 posters; two have the fourth genre, in one franchise, and none has the last."""
    labels = (np.random.default_rng(0).random((240, 5)) < [0.5, 0.2, 0.1, 0, 0]).astype(np.uint8)
    labels[3:5, 3] = 1
    return labels


@pytest.fixture
def better(labels: np.ndarray) -> Predictions:
    return _predictions(labels, 0.3, seed=1)


@pytest.fixture
def worse(labels: np.ndarray) -> Predictions:
    return _predictions(labels, 0.1, seed=2)


def test_figures_of_a_resample_are_those_of_its_posters(labels: np.ndarray, better: Predictions) -> None:
    bootstrap = Bootstrap(labels, FRANCHISES, resamples=50, seed=4)
    weighted = bootstrap.weighted_f1(better.decisions)
    genre = bootstrap.genre_f1(better.decisions)
    mean = bootstrap.mean_average_precision(better.probabilities)
    without_horror = 0
    for resample, rows in enumerate(_drawn(FRANCHISES, resamples=50, seed=4)):
        decisions, truth = better.decisions[rows], labels[rows]
        assert weighted[resample] == pytest.approx(weighted_f1(decisions, truth), abs=1e-12)
        supported = [g for g in range(5) if truth[:, g].any()]
        without_horror += 3 not in supported
        precisions = [average_precision(better.probabilities[rows, g], truth[:, g]) for g in supported]
        assert mean[resample] == pytest.approx(np.mean(precisions), abs=1e-12)
        each = f1((decisions & (truth == 1)).sum(0), decisions.sum(0), truth.sum(0))
        assert genre[resample, supported] == pytest.approx(each[supported])
        assert np.isnan(genre[resample, 4])
    assert 0 < without_horror < 50


def test_ties_of_constant_probabilities_are_one_step(labels: np.ndarray) -> None:
    constant = np.full(labels.shape, 0.3, np.float32)
    mean = Bootstrap(labels, FRANCHISES, resamples=20).mean_average_precision(constant)
    for resample, rows in enumerate(_drawn(FRANCHISES, resamples=20, seed=0)):
        frequencies = labels[rows].mean(0)
        assert mean[resample] == pytest.approx(frequencies[frequencies > 0].mean())


def test_intervals_are_around_the_figures_of_the_scores(labels: np.ndarray, better: Predictions) -> None:
    scores = score(better.probabilities, better.decisions, labels, GENRES)
    found = intervals(better, labels, FRANCHISES)
    assert found.weighted_f1.value == scores.weighted_f1
    assert found.mean_average_precision.value == scores.mean_average_precision
    for it in (found.weighted_f1, *found.genre_f1[:3]):
        assert it.low < it.value < it.high
    assert [it.value for it in found.genre_f1] == [genre.f1 for genre in scores.genres]
    nothing = found.genre_f1[4]
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_the_interval_holds_the_figure_of_other_posters_as_often_as_it_says() -> None:
    """On 200 draws of 150 posters from one world, whose F1 is that of very many posters."""
    world = (np.random.default_rng(0).random((60_000, 2)) < [0.4, 0.2]).astype(np.uint8)
    answers = _predictions(world, 0.3, seed=1)
    truth = weighted_f1(answers.decisions, world)
    held = 0
    for draw in range(200):
        rows = slice(150 * draw, 150 * (draw + 1))
        own = np.arange(150).astype(str)
        it = interval(0, Bootstrap(world[rows], own, resamples=400, seed=draw).weighted_f1(answers.decisions[rows]))
        held += it.low <= truth <= it.high
    assert 0.88 <= held / 200 <= 0.99


def test_paired_differences_are_surer_than_two_models_apart(
    labels: np.ndarray, better: Predictions, worse: Predictions
) -> None:
    found = differences(better, worse, labels, FRANCHISES)
    assert found.weighted_f1.low > 0
    assert found.mean_average_precision.low > 0
    nearly = Predictions(better.probabilities, better.decisions.copy())
    nearly.decisions[:3, 0] ^= True
    apart = intervals(better, labels, FRANCHISES).weighted_f1
    paired = differences(better, nearly, labels, FRANCHISES).weighted_f1
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_a_model_does_not_differ_from_itself(labels: np.ndarray, better: Predictions) -> None:
    found = differences(better, better, labels, FRANCHISES)
    for it in (found.weighted_f1, found.mean_average_precision):
        assert (it.value, it.low, it.high) == (0, 0, 0)


def test_the_same_seed_gives_the_same_interval(labels: np.ndarray, better: Predictions) -> None:
    assert intervals(better, labels, FRANCHISES, seed=3) == intervals(better, labels, FRANCHISES, seed=3)
    assert intervals(better, labels, FRANCHISES, seed=3) != intervals(better, labels, FRANCHISES, seed=4)


def test_the_interval_widens_when_posters_come_in_few_franchises(
    labels: np.ndarray, better: Predictions, worse: Predictions
) -> None:
    own = np.arange(240).astype(str)
    repeated = [np.repeat(array[:24], 10, axis=0) for array in (better.decisions, worse.decisions, labels)]
    widths = []
    for franchises in (np.repeat(own[:24], 10), own):
        bootstrap = Bootstrap(repeated[2], franchises)
        it = interval(0, bootstrap.weighted_f1(repeated[0]) - bootstrap.weighted_f1(repeated[1]))
        widths.append(it.high - it.low)
    assert widths[0] > 2 * widths[1]


def test_a_thousand_resamples_of_three_thousand_posters_take_seconds() -> None:
    labels = (np.random.default_rng(0).random((3000, 20)) < np.linspace(0.02, 0.4, 20)).astype(np.uint8)
    answers = _predictions(labels, 0.3, seed=1)
    franchises = np.array([str(number // 2) for number in range(3000)])
    start = time.process_time()
    Bootstrap(labels, franchises, resamples=1000).mean_average_precision(answers.probabilities)
    assert time.process_time() - start < 5


def _predictions(labels: np.ndarray, signal: float, seed: int) -> Predictions:
    """Probabilities, with ties, that say more of the labels the stronger the signal is."""
    noise = np.random.default_rng(seed).random(labels.shape)
    probabilities = np.round((1 - signal) * noise + signal * labels, 2).astype(np.float32)
    return Predictions(probabilities, probabilities >= 0.5)


def _drawn(franchises: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """Rows of posters of each resample, a row as often as its franchise was drawn."""
    names = np.unique(franchises)
    even = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(seed).multinomial(len(names), even, size=resamples)
    members = [np.flatnonzero(franchises == name) for name in names]
    return [
        np.concatenate([np.tile(rows, count) for rows, count in zip(members, times, strict=True)]).astype(int)
        for times in draws
    ]
