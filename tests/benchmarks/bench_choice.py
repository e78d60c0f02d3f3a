"""Simulates the choice between two networks whose true weighted F1 is known, and counts how often the better one wins.

    PYTHONPATH=. python tests/benchmarks/bench_choice.py [--draws 100]

"frozen" is one network. "scratch" is the best of several trials and epochs, which are equally good in truth: only
chance decides between them. The present rule (`ml.scores.choice`) chooses trial and epoch on other posters than the
network.
The earlier rule chose both on the validation posters, and took the highest score.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ml.scores.choice import Contender, choose
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Decisions, Labels, Probabilities, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions, fit_thresholds

FROZEN, SCRATCH = "frozen", "scratch"
TRIALS, EPOCHS = 5, 4
"""Trials of "scratch", and epochs of each that are near the best one."""
LOW_F1, DIFFERENCE = 0.47, 0.05
_FREQUENCIES = np.array([0.45, 0.4, 0.3, 0.25, 0.2, 0.2, 0.15, 0.12, 0.1, 0.1, 0.08, 0.07, 0.06, 0.05, 0.05])
_SHARED, _TRIAL, _EPOCH = 0.5, 0.3, 0.2
"""Shares of the variance of a prediction's error: common to both networks (some posters are hard), of the trial, of the
epoch."""
_POPULATION = 10_000


@dataclass(frozen=True)
class Posters:
    """Posters without pixels: labels [N, G], franchises [N], and how hard each genre of each poster is, [N, G]."""

    labels: Labels
    franchises: NDArray[np.str_]
    hard: NDArray[np.float64]

    @classmethod
    def draw(cls, count: int, generator: np.random.Generator) -> "Posters":
        """Draw posters in franchises of one to five, which share most of their genres."""
        franchise = np.repeat(np.arange(count), generator.choice(5, count, p=(0.6, 0.2, 0.1, 0.05, 0.05)) + 1)[:count]
        of_franchise = generator.random((count, len(_FREQUENCIES)))[franchise]
        own = generator.random((count, len(_FREQUENCIES)))
        is_shared = generator.random((count, len(_FREQUENCIES))) < 0.7
        labels = (np.where(is_shared, of_franchise, own) < _FREQUENCIES).astype(np.uint8)
        franchises = franchise.astype(np.str_)
        hard = generator.normal(size=labels.shape)
        return cls(labels, franchises, hard)

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """The fold of each poster, [N]."""
        return stratified_folds(self.franchises, self.labels)

    def predict(self, signal: float, own_error: NDArray[np.float64]) -> Probabilities:
        """Probabilities of a network that separates posters with and without a genre by `signal`."""
        error = np.sqrt(_SHARED) * self.hard + np.sqrt(1 - _SHARED) * own_error
        odds = _FREQUENCIES / (1 - _FREQUENCIES)
        logits = signal * (signal * (self.labels - 0.5) + error) + np.log(odds)
        probabilities: Probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return probabilities

    def decide(self, probabilities: Probabilities) -> Decisions:
        """Decisions with cross-fitted thresholds, as when networks are compared."""
        return cross_fitted_decisions(probabilities, self.labels, self.folds)


@cache
def signal_for(target: float) -> float:
    """The signal that gives a network this weighted F1 on a large population."""
    generator = np.random.default_rng(0)
    population = Posters.draw(_POPULATION, generator)
    error = generator.normal(size=population.labels.shape)
    low, high = 0.05, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        probabilities = population.predict(middle, error)
        decisions = probabilities >= fit_thresholds(probabilities, population.labels)
        low, high = (middle, high) if weighted_f1(decisions, population.labels) < target else (low, middle)
    return (low + high) / 2


def trial_predictions(
    posters: Posters, signal: float, trials: int, epochs: int, generator: np.random.Generator
) -> list[Decisions]:
    """Decisions of each epoch of each trial of a network."""
    own = 1 - _SHARED
    decisions = []
    for _ in range(trials):
        of_trial = generator.normal(size=posters.labels.shape)
        for _ in range(epochs):
            of_epoch = generator.normal(size=posters.labels.shape)
            error = np.sqrt(_TRIAL / own) * of_trial + np.sqrt(_EPOCH / own) * of_epoch
            decisions.append(posters.decide(posters.predict(signal, error)))
    return decisions


def choices(
    true_f1: Mapping[str, float], count: int, seed: int, trials: int = TRIALS, epochs: int = EPOCHS
) -> tuple[str, str]:
    """The networks that the present and the earlier rule choose on one draw of `count` validation posters.

    As many posters of the training part choose trial and epoch.
    """
    generator = np.random.default_rng(seed)
    validation, selection = Posters.draw(count, generator), Posters.draw(count, generator)
    error = generator.normal(size=validation.labels.shape)
    frozen = validation.decide(validation.predict(signal_for(true_f1[FROZEN]), error))
    signal = signal_for(true_f1[SCRATCH])
    on_validation = trial_predictions(validation, signal, trials, epochs, generator)
    on_selection = trial_predictions(selection, signal, trials, epochs, generator)
    place = int(np.argmax([weighted_f1(each, selection.labels) for each in on_selection]))
    contenders = [Contender(FROZEN, 0, frozen), Contender(SCRATCH, 1, on_validation[place])]
    now = choose(contenders, validation.labels, validation.franchises).name
    highest = max(weighted_f1(each, validation.labels) for each in on_validation)
    before = SCRATCH if highest > weighted_f1(frozen, validation.labels) else FROZEN
    return now, before


def main() -> None:
    """Print a table: how often each rule chooses the better network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    print(f"The worse network has weighted F1 {LOW_F1}. The better one is chosen in so many of {draws} draws:")
    print(f"validation posters  difference  better network  {'present rule':>12}  {'earlier rule':>12}")
    for count, difference in ((1000, DIFFERENCE), (150, DIFFERENCE), (150, 0.02)):
        for better, worse in ((FROZEN, SCRATCH), (SCRATCH, FROZEN)):
            true_f1 = {better: LOW_F1 + difference, worse: LOW_F1}
            chosen = np.array([choices(true_f1, count, seed) for seed in range(draws)])
            right = (chosen == better).sum(0)
            print(f"{count:18}  {difference:10}  {better:14}  {right[0]:12}  {right[1]:12}", flush=True)


if __name__ == "__main__":
    main()
