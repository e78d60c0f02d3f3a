"""The choice among models: the cheapest one whose weighted F1 is within one standard error of the best.

The one-standard-error rule of Breiman et al. 1984 (Classification and Regression Trees, section 3.4.3): a difference
that is smaller than its standard error does not justify a more expensive model. The standard error is that of the
paired difference, by the bootstrap over franchises (`ml.scores.intervals`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.scores.intervals import Bootstrap
from ml.scores.metrics import Decisions, Labels, weighted_f1


@dataclass(frozen=True)
class Contender:
    """A model that may be chosen: its cost, in any unit, and its decisions [N, G] on the posters of the choice."""

    name: str
    cost: float
    decisions: Decisions


@dataclass(frozen=True)
class Choice:
    """The name of the chosen model, and the reason as one sentence."""

    name: str
    reason: str


def choose(contenders: Sequence[Contender], labels: Labels, franchises: NDArray[np.str_]) -> Choice:
    """Choose among models by their decisions, from labels [N, G] and franchises [N] of validation posters.

    The choice is unbiased only if no model was trained or tuned on these posters.
    """
    score_of = {each.name: weighted_f1(each.decisions, labels) for each in contenders}
    best = max(contenders, key=lambda each: score_of[each.name])
    bootstrap = Bootstrap(labels, franchises)
    resampled = bootstrap.weighted_f1(best.decisions)
    for each in sorted(contenders, key=lambda each: (each.cost, -score_of[each.name])):
        error = float((resampled - bootstrap.weighted_f1(each.decisions)).std())
        if each is best or score_of[best.name] - score_of[each.name] <= error:
            break
    figure = f"'{each.name}' is chosen: its weighted F1 on the validation part, {score_of[each.name]:.3f},"
    if each is best:
        return Choice(each.name, f"{figure} is the highest.")
    return Choice(
        each.name,
        f"{figure} is within one standard error ({error:.3f}) of the highest, {score_of[best.name]:.3f} of "
        f"'{best.name}', which trains more weights.",
    )
