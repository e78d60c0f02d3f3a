import numpy as np
import pytest

from ml.configuration import GateConfig
from ml.scores.certainty import next_level, required_difference

BUDGET = GateConfig().false_promotions
YEARS = 1000


def levels(per_year: int, years: int = 3) -> list[float]:
    """The levels of evenly spaced comparisons."""
    spent: list[float] = []
    for _ in range(per_year * years):
        spent.append(next_level(BUDGET, sum(spent[-per_year:])))
    return spent


@pytest.mark.parametrize("per_year", [12, 52, 365])
def test_comparisons_of_a_year_spend_at_most_the_budget(per_year: int) -> None:
    spent = np.array(levels(per_year))
    of_years = np.convolve(spent, np.ones(per_year), "valid")
    assert spent.min() > 0
    assert of_years.min() > 0 and of_years.max() <= BUDGET + 1e-12
    assert next_level(BUDGET / 2, BUDGET) == 0, "a smaller budget may be spent already"


@pytest.mark.parametrize("per_year", [52, 365])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_equal_challengers_are_promoted_in_few_years(per_year: int, shared: float) -> None:
    """The errors of differences have a part `shared` in common: the champion's, which is the same all year."""
    generator = np.random.default_rng(0)
    champion = np.sqrt(shared) * generator.normal(size=YEARS)
    promoted = np.zeros(YEARS, np.bool_)
    by_a_fixed_level = np.zeros(YEARS, np.bool_)
    for level in levels(per_year, 1):
        difference = np.sqrt(1 - shared) * generator.normal(size=YEARS) + champion
        error = 1 + 0.02 * generator.normal(size=YEARS)  # that of 2,000 resamples
        promoted |= difference > required_difference(error, 300, level)
        by_a_fixed_level |= difference > required_difference(error, 300, BUDGET)
    assert promoted.sum() <= 150
    assert by_a_fixed_level.sum() > 600, "with 90 % certainty of each comparison"


def test_required_difference_grows_with_certainty() -> None:
    assert required_difference(0.01, 100, 0.0) == np.inf
    assert np.isnan(required_difference(0.01, 1, 0.001))
    assert required_difference(0.01, 100, next_level(26, 0)) == 0, "any positive difference counts"
    assert required_difference(0.01, 20, 0.001) > required_difference(0.01, 1000, 0.001) > 0.03
