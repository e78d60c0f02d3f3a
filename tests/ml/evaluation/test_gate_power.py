"""How often the gate promotes a simulated challenger that is better in truth, with all rules on."""

import pytest

from tests.benchmarks.bench_gate import DIFFERENCE, promotions

pytestmark = pytest.mark.train


def test_challenger_better_by_five_points_is_promoted_within_four_weeks() -> None:
    weeks = promotions(DIFFERENCE, posters=2000, draws=100, weeks=4, resamples=100)
    assert sum(week is not None for week in weeks) >= 90
