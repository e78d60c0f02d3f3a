"""Realised minus promised figures of simulated models, whose probabilities are right or wrong by construction."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ml.evaluation.scoreboard import ENOUGH_TITLES, Scoreboard, score_later_titles
from ml.scores.intervals import Predictions

FREQUENCIES = np.array([0.4, 0.3, 0.25, 0.2, 0.1, 0.1, 0.05, 0.05])


def simulated(
    titles: int, seed: int, truth: Callable[[np.ndarray], np.ndarray] = lambda p: p, by_title: bool = False
) -> Scoreboard:
    """A scoreboard of franchises of four titles that have the same genres.

    `truth` makes the true probabilities from those of the model. `by_title` gives each title a franchise of its own.
    """
    generator = np.random.default_rng(seed)
    franchise = np.arange(titles) // 4
    shape = (franchise.max() + 1, len(FREQUENCIES))
    odds = FREQUENCIES / (1 - FREQUENCIES) * np.exp(generator.normal(size=shape) - 0.25)
    probabilities = (odds / (1 + odds))[franchise].astype(np.float32)
    labels = (generator.random(shape)[franchise] < truth(probabilities)).astype(np.uint8)
    franchises = (np.arange(titles) if by_title else franchise).astype(np.str_)
    aired = np.full(titles, "2026-01-31")
    return score_later_titles(Predictions(probabilities, probabilities >= 0.25), labels, franchises, aired)


def covered(titles: int, draws: int, by_title: bool = False) -> float:
    """The share of draws of a calibrated model whose interval contains 0."""
    boards = [simulated(titles, seed, by_title=by_title) for seed in range(draws)]
    return float(np.mean([board.overall.difference.low <= 0 <= board.overall.difference.high for board in boards]))


def test_interval_of_a_calibrated_model_contains_zero_in_95_percent_of_draws() -> None:
    assert 0.91 <= covered(160, draws=120) <= 0.99
    assert covered(160, draws=40, by_title=True) < 0.8, "titles of one franchise are not independent"


@pytest.mark.parametrize(("drift", "verdict"), [(0.65, "worse than"), (1.5, "better than")])
def test_drifted_model_is_found(drift: float, verdict: str) -> None:
    boards = [simulated(400, seed, lambda p: np.minimum(drift * p, 1)) for seed in range(25)]
    assert np.mean([f"It does {verdict} it promised" in board.overall.sentence for board in boards]) > 0.9


def test_outcome_has_the_figures_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 3)) < 0.4).astype(np.uint8)
    probabilities = np.where(generator.random((60, 3)) < 0.5, 0.75, 0.25).astype(np.float32)
    decisions = probabilities > 0.5
    board = score_later_titles(
        Predictions(probabilities, decisions), labels, np.arange(60).astype(np.str_), np.full(60, "2026-01-31")
    )
    overall = board.overall
    assert overall.micro_f1 == pytest.approx(f1_score(labels, decisions, average="micro"))
    assert overall.promised_precision == pytest.approx(0.75)
    expected = 2 * 0.75 * decisions.sum() / (decisions.sum() + probabilities.sum())
    assert overall.promised_micro_f1 == pytest.approx(expected)
    assert overall.difference.value == pytest.approx(overall.micro_f1 - expected)
    assert board.metrics()["micro_f1_minus_promised"] == overall.difference.value


def test_periods_are_quarters_with_enough_titles() -> None:
    counts = {"2026-07-01": 7, "2025-01-15": 20, "2025-03-31": 12, "2025-04-01": 29, "2025-12-31": 1, "2026-02-28": 45}
    aired = np.repeat(list(counts), list(counts.values()))
    ones = np.ones((len(aired), 2))
    predictions = Predictions(ones.astype(np.float32), ones == 1)
    board = score_later_titles(predictions, ones.astype(np.uint8), np.arange(len(aired)).astype(np.str_), aired)
    assert [(period.first, period.last, period.titles) for period in board.periods] == [
        ("2025-01-15", "2025-03-31", 32),
        ("2025-04-01", "2025-12-31", 30),
        ("2026-02-28", "2026-07-01", 52),
    ]
    assert board.overall.titles == board.titles == 114


def test_too_few_titles_have_no_figures() -> None:
    board = simulated(ENOUGH_TITLES - 1, 0)
    assert board == Scoreboard(ENOUGH_TITLES - 1, None)
    assert board.metrics() == {"titles": ENOUGH_TITLES - 1}
    assert simulated(ENOUGH_TITLES, 0).overall is not None
