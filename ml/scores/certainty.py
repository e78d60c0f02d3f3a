"""How certain a difference must be, if models are compared on the same posters again and again.

Each comparison may find a better model by chance. The chances of a year add up to a budget at most, the expected number
of such findings: the bound of Dunn 1961 (https://doi.org/10.1080/01621459.1961.10482090), which holds for comparisons
that depend on each other. The budget is spent step by step, as by Lan and DeMets 1983
(https://doi.org/10.1093/biomet/70.3.659).
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

COMPARISONS_PER_YEAR = 52
Numbers = TypeVar("Numbers", float, NDArray[np.float64])


def next_level(budget: float, spent: float) -> float:
    """The chance that the next comparison may spend: a 52nd part of what the last 365 days have left of the budget.

    So no year spends more than the budget, however often models are compared. After a year, weekly comparisons get a
    104th part of the budget each, and daily ones a 417th part.
    """
    return max(budget - spent, 0.0) / COMPARISONS_PER_YEAR


def required_difference(error: Numbers, franchises: int, level: float) -> Numbers:
    """The difference that two equal models exceed by chance with probability `level`, from its standard error.

    Student's t with one degree of freedom less than franchises, times the bootstrap's standard error. At such small
    levels it is better than the bootstrap's own percentiles: with 107 test posters, it finds one of two equal models
    better 33 times where 38 are expected, the percentiles of 2,000 resamples 52 times, and the normal distribution 48
    times; with 300 test posters 19, 33 and 22 times where 19 are expected (`tests/benchmarks/bench_gate.py`).

    Infinity if `level` is 0, NaN for one franchise.
    """
    required: Numbers = t.isf(level, franchises - 1) * error
    return required
