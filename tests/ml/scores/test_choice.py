import numpy as np
import pytest

from ml.scores.choice import Contender, choose
from ml.scores.intervals import Bootstrap
from ml.scores.metrics import Decisions, weighted_f1
from tests.benchmarks.bench_choice import DIFFERENCE, FROZEN, LOW_F1, SCRATCH, choices

LABELS = np.random.default_rng(0).integers(0, 2, (400, 4), np.uint8)
FRANCHISES = np.array([f"series {row // 2}" for row in range(400)])


def decisions(errors: float, seed: int) -> Decisions:
    """The truth with this share of errors."""
    wrong = np.random.default_rng(seed).random(LABELS.shape) < errors
    return (LABELS == 1) ^ wrong


@pytest.mark.parametrize("errors", [0.3, 0.302, 0.31, 0.33, 0.4])
def test_choice_is_the_cheapest_within_one_standard_error_of_the_best(errors: float) -> None:
    cheap, dear, better = decisions(errors, 1), decisions(0.45, 2), decisions(0.3, 3)
    choice = choose(
        [Contender("better", 9, better), Contender("cheap", 0, cheap), Contender("bad", 5, dear)], LABELS, FRANCHISES
    )
    bootstrap = Bootstrap(LABELS, FRANCHISES)
    error = (bootstrap.weighted_f1(better) - bootstrap.weighted_f1(cheap)).std()
    gap = weighted_f1(better, LABELS) - weighted_f1(cheap, LABELS)
    assert choice.name == ("cheap" if gap <= error else "better")
    assert (f"one standard error ({error:.3f})" in choice.reason) == (0 < gap <= error)
    assert ("is the highest." in choice.reason) == (gap <= 0 or gap > error)


def test_choice_between_equal_networks_is_the_cheaper_one_in_any_order() -> None:
    same = decisions(0.3, 1)
    one, other = Contender("one", 1, same), Contender("other", 2, same)
    assert choose([one, other], LABELS, FRANCHISES).name == choose([other, one], LABELS, FRANCHISES).name == "one"


@pytest.mark.parametrize(("better", "worse"), [(FROZEN, SCRATCH), (SCRATCH, FROZEN)])
def test_choice_finds_the_better_network(better: str, worse: str) -> None:
    """`bench_choice.py` has the figures of a hundred draws."""
    true_f1 = {better: LOW_F1 + DIFFERENCE, worse: LOW_F1}
    chosen = [choices(true_f1, 1000, seed, trials=2, epochs=1)[0] for seed in range(10)]
    assert chosen.count(better) >= 9
