"""How certain a difference must be, if models are compared on the same posters again and again.

Each comparison may find a better model by chance. The chances of a year add up to a budget at most: the bound of Dunn
1961 (https://doi.org/10.1080/01621459.1961.10482090), which holds for comparisons that depend on each other, with the
budget spent step by step as by Lan and DeMets 1983 (https://doi.org/10.1093/biomet/70.3.659).
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

COMPARISONS_PER_YEAR = 52
Numbers = TypeVar("Numbers", float, NDArray[np.float64])


def next_level(budget: float, spent: float) -> float:
    """The chance that the next comparison may spend: a 52nd part of what the last 365 days have left of the budget.

    So no year spends more than the budget, however often models are compared. Weekly comparisons get the budget divided
    by 52 at first and by 104 after a year, daily ones the budget divided by 417 after a year.
    """
    return max(budget - spent, 0.0) / COMPARISONS_PER_YEAR


def required_difference(error: Numbers, franchises: int, level: float) -> Numbers:
    """The difference that two equal models exceed by chance with probability `level`, from its standard error.

    Student's t with one degree of freedom less than franchises. Percentiles of the bootstrap are not used, because
    such small levels need far more resamples than the standard error. Infinity if `level` is 0, NaN for one franchise.
    """
    required: Numbers = t.isf(level, franchises - 1) * error
    return required
