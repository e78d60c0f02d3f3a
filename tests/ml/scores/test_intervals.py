import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from ml.scores.intervals import Bootstrap, Predictions, differences, interval, intervals
from ml.scores.metrics import score, weighted_f1

FRANCHISES = np.array([f"series {number // 3}" for number in range(240)])
GENRES = ("Action", "Comedy", "Drama", "Horror", "Sports")


@pytest.fixture
def labels() -> np.ndarray:
    """Labels of 240 posters. Two posters of one franchise have the fourth genre, and none has the last."""
    labels = (np.random.default_rng(0).random((240, 5)) < [0.5, 0.2, 0.1, 0, 0]).astype(np.uint8)
    labels[3:5, 3] = 1
    return labels


@pytest.fixture
def better(labels: np.ndarray) -> Predictions:
    return _predictions(labels, 0.3, seed=1)


@pytest.fixture
def worse(labels: np.ndarray) -> Predictions:
    return _predictions(labels, 0.1, seed=2)


def test_resamples_have_the_figures_of_scikit_learn(labels: np.ndarray, better: Predictions) -> None:
    bootstrap = Bootstrap(labels, FRANCHISES, resamples=50, seed=4)
    weighted = bootstrap.weighted_f1(better.decisions)
    genre = bootstrap.genre_f1(better.decisions)
    mean = bootstrap.mean_average_precision(better.probabilities)
    without_horror = 0
    for resample, rows in enumerate(_drawn(FRANCHISES, resamples=50, seed=4)):
        decisions, truth = better.decisions[rows], labels[rows]
        supported = truth.any(0)
        without_horror += not supported[3]
        each = f1_score(truth, decisions, average=None, zero_division=0)
        assert weighted[resample] == pytest.approx(f1_score(truth, decisions, average="weighted", zero_division=0))
        assert genre[resample, supported] == pytest.approx(each[supported])
        assert np.isnan(genre[resample, ~supported]).all()
        expected = average_precision_score(truth[:, supported], better.probabilities[rows][:, supported])
        assert mean[resample] == pytest.approx(expected, abs=1e-12)
    assert 0 < without_horror < 50


def test_resamples_treat_equal_probabilities_as_one_step(labels: np.ndarray) -> None:
    constant = np.full(labels.shape, 0.3, np.float32)
    mean = Bootstrap(labels, FRANCHISES, resamples=20).mean_average_precision(constant)
    for resample, rows in enumerate(_drawn(FRANCHISES, resamples=20, seed=0)):
        frequencies = labels[rows].mean(0)
        assert mean[resample] == pytest.approx(frequencies[frequencies > 0].mean())


def test_intervals_contain_the_figures_of_the_scores(labels: np.ndarray, better: Predictions) -> None:
    scores = score(better.probabilities, better.decisions, labels, GENRES)
    found = intervals(better, labels, FRANCHISES)
    assert found.weighted_f1.value == scores.weighted_f1
    assert found.mean_average_precision.value == scores.mean_average_precision
    for each in (found.weighted_f1, *found.genre_f1[:3]):
        assert each.low < each.value < each.high
    assert [each.value for each in found.genre_f1] == [genre.f1 for genre in scores.genres]
    nothing = found.genre_f1[4]
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_interval_contains_the_true_figure_about_95_times_in_100() -> None:
    """200 draws of 150 posters from a population of 60,000, whose F1 is the true figure."""
    population = (np.random.default_rng(0).random((60_000, 2)) < [0.4, 0.2]).astype(np.uint8)
    predictions = _predictions(population, 0.3, seed=1)
    truth = weighted_f1(predictions.decisions, population)
    contained = 0
    for draw in range(200):
        rows = slice(150 * draw, 150 * (draw + 1))
        bootstrap = Bootstrap(population[rows], np.arange(150).astype(str), resamples=400, seed=draw)
        found = interval(0, bootstrap.weighted_f1(predictions.decisions[rows]))
        contained += found.low <= truth <= found.high
    assert 0.88 <= contained / 200 <= 0.99


def test_differences_have_narrower_intervals_than_single_models(
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


def test_differences_of_a_model_to_itself_are_zero(labels: np.ndarray, better: Predictions) -> None:
    found = differences(better, better, labels, FRANCHISES)
    for each in (found.weighted_f1, found.mean_average_precision):
        assert (each.value, each.low, each.high) == (0, 0, 0)


def test_intervals_are_reproducible_by_seed(labels: np.ndarray, better: Predictions) -> None:
    assert intervals(better, labels, FRANCHISES, seed=3) == intervals(better, labels, FRANCHISES, seed=3)
    assert intervals(better, labels, FRANCHISES, seed=3) != intervals(better, labels, FRANCHISES, seed=4)


def test_interval_is_wider_with_few_franchises(labels: np.ndarray, better: Predictions, worse: Predictions) -> None:
    single = np.arange(240).astype(str)
    repeated = [np.repeat(array[:24], 10, axis=0) for array in (better.decisions, worse.decisions, labels)]
    widths = []
    for franchises in (np.repeat(single[:24], 10), single):
        bootstrap = Bootstrap(repeated[2], franchises)
        found = interval(0, bootstrap.weighted_f1(repeated[0]) - bootstrap.weighted_f1(repeated[1]))
        widths.append(found.high - found.low)
    assert widths[0] > 2 * widths[1]


def _predictions(labels: np.ndarray, signal: float, seed: int) -> Predictions:
    """Probabilities with ties, closer to the labels for a stronger signal."""
    noise = np.random.default_rng(seed).random(labels.shape)
    probabilities = np.round((1 - signal) * noise + signal * labels, 2).astype(np.float32)
    return Predictions(probabilities, probabilities >= 0.5)


def _drawn(franchises: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """The posters of each resample, each as often as its franchise was drawn."""
    names = np.unique(franchises)
    even = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(seed).multinomial(len(names), even, size=resamples)
    members = [np.flatnonzero(franchises == name) for name in names]
    return [
        np.concatenate([np.tile(rows, count) for rows, count in zip(members, times, strict=True)]).astype(int)
        for times in draws
    ]
