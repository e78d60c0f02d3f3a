"""Simulates the gate over years: how often it promotes a challenger that is no better, and one that is.

    PYTHONPATH=. python tests/benchmarks/bench_gate.py [--posters 300]

Posters, champion and challengers are those of bench_choice.py. Each week has a new challenger with errors of its own on
the same test posters.
"""

import argparse
from statistics import NormalDist

import numpy as np

from ml.configuration import GateConfig
from ml.evaluation.gate import check_opponents, compare
from ml.scores.certainty import COMPARISONS_PER_YEAR, next_level, required_difference
from ml.scores.intervals import RESAMPLES, Bootstrap, Predictions
from ml.scores.metrics import Decisions, weighted_f1
from ml.scores.thresholds import fit_thresholds
from tests.benchmarks.bench_choice import LOW_F1, Posters, signal_for

DIFFERENCE = 0.05
_LIMITS = GateConfig()
_GENRES = [f"genre {number}" for number in range(1, 16)]
_POPULATION = 10_000


class Network:
    """A simulated network with this weighted F1. Its thresholds were fitted on other posters.

    `uneven` makes it better at every other genre, and worse at the rest.
    """

    def __init__(self, true_f1: float, uneven: float = 0.0) -> None:
        generator = np.random.default_rng(0)
        population = Posters.draw(_POPULATION, generator)
        shape = population.labels.shape
        self._signal = signal_for(true_f1) * (1 + uneven * (-1.0) ** np.arange(shape[1]))
        probabilities = population.predict(self._signal, generator.normal(size=shape))
        self._thresholds = fit_thresholds(probabilities, population.labels)

    def decide(self, posters: Posters, generator: np.random.Generator) -> Decisions:
        """Decisions [N, G] of the network as it is trained this week."""
        decisions: Decisions = posters.predict(self._signal, generator.normal(size=posters.labels.shape)) >= (
            self._thresholds
        )
        return decisions


def weekly_levels(years: int) -> list[float]:
    """The levels of weekly comparisons, oldest first."""
    levels: list[float] = []
    for _ in range(COMPARISONS_PER_YEAR * years):
        levels.append(next_level(_LIMITS.false_promotions, sum(levels[-COMPARISONS_PER_YEAR:])))
    return levels


def promotions(
    difference: float, posters: int, draws: int, weeks: int, uneven: float = 0.0, resamples: int = RESAMPLES
) -> list[int | None]:
    """The week in which each draw promotes a challenger that is better by `difference`, None if none is.

    The gate has been used weekly for a year before. All rules are on: champion and challenger know the same genres, and
    a recipe of the same run is as good as the champion.
    """
    champion, challenger = Network(LOW_F1), Network(LOW_F1 + difference, uneven)
    level = weekly_levels(2)[-1]
    found: list[int | None] = []
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        test = Posters.draw(posters, generator)
        of_champion = champion.decide(test, generator)
        found.append(None)
        for week in range(1, weeks + 1):
            ours, recipe = challenger.decide(test, generator), champion.decide(test, generator)
            _, rules = compare(
                ours, of_champion, test.labels, test.franchises, _GENRES, _LIMITS, level, draw, resamples
            )
            opponents = {"recipe": Predictions(np.float32(recipe), recipe)}
            rules += check_opponents(ours, opponents, test.labels, test.franchises, draw, resamples)
            if all(rule.passed for rule in rules):
                found[-1] = week
                break
    return found


def years_with_a_promotion(posters: int, years: int) -> tuple[int, int]:
    """In how many years of weekly challengers, each as good as the champion, the gate's first rule promotes any.

    The second number is that of the earlier rule, which promoted every positive difference.
    """
    network, levels = Network(LOW_F1), weekly_levels(1)
    found = np.zeros((years, 2), np.bool_)
    for year in range(years):
        generator = np.random.default_rng(year)
        test = Posters.draw(posters, generator)
        bootstrap = Bootstrap(test.labels, test.franchises, seed=year)
        champion = network.decide(test, generator)
        of_champion, resampled = weighted_f1(champion, test.labels), bootstrap.weighted_f1(champion)
        for level in levels:
            challenger = network.decide(test, generator)
            difference = weighted_f1(challenger, test.labels) - of_champion
            error = (bootstrap.weighted_f1(challenger) - resampled).std()
            required = required_difference(error, len(np.unique(test.franchises)), level)
            found[year] |= difference > required, difference > 0
    certain, positive = found.sum(0)
    return int(certain), int(positive)


def chance_findings(posters: int, draws: int, pairs: int = 20) -> dict[str, float]:
    """How often each kind of interval finds the first of two equal models better, at the level of a first comparison.

    "expected" is how often it should.
    """
    network, level = Network(LOW_F1), weekly_levels(1)[0]
    found = np.zeros(3)
    for draw in range(draws):
        generator = np.random.default_rng(draw)
        test = Posters.draw(posters, generator)
        bootstrap = Bootstrap(test.labels, test.franchises, seed=draw)
        for _ in range(pairs):
            ours, theirs = network.decide(test, generator), network.decide(test, generator)
            resampled = bootstrap.weighted_f1(ours) - bootstrap.weighted_f1(theirs)
            difference = weighted_f1(ours, test.labels) - weighted_f1(theirs, test.labels)
            required = required_difference(resampled.std(), len(np.unique(test.franchises)), level)
            by_normal = NormalDist().inv_cdf(1 - level) * resampled.std()
            found += difference > required, difference > by_normal, np.quantile(resampled, level) > 0
    return {
        "expected": draws * pairs * level,
        **dict(zip(("Student's t", "normal", "percentiles"), found.tolist(), strict=True)),
    }


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posters", type=int, nargs="+", default=[107, 300], help="test posters (default: 107 300)")
    parser.add_argument("--years", type=int, default=1000, help="simulated years (default: 1000)")
    parser.add_argument("--draws", type=int, default=100, help="simulated better challengers (default: 100)")
    args = parser.parse_args()
    print(
        f"Of {args.years} years with {COMPARISONS_PER_YEAR} challengers as good as the champion, so many promote any:"
    )
    print("test posters    rule  any positive difference")
    for posters in args.posters:
        certain, positive = years_with_a_promotion(posters, args.years)
        print(f"{posters:12}  {certain:6}  {positive:23}", flush=True)
    pairs = 20 * args.years
    print(f"\nOf {pairs} comparisons of equal models, so many find the first one better:")
    for posters in args.posters:
        found = ", ".join(f"{name} {count:.0f}" for name, count in chance_findings(posters, args.years).items())
        print(f"{posters:12}  {found}", flush=True)
    print(f"\nOf {args.draws} better challengers, so many are promoted within 1, 2 and 4 weeks, all rules on:")
    print("test posters  better by  genres        1 week  2 weeks  4 weeks")
    for posters, difference, uneven in [
        *((2000, 0.05, 0.0), (2000, 0.05, 0.1), (2000, 0.02, 0.0), (1000, 0.05, 0.0), (300, 0.05, 0.0)),
    ]:
        weeks = promotions(difference, posters, args.draws, 4, uneven)
        within = [sum(week is not None and week <= limit for week in weeks) for limit in (1, 2, 4)]
        kind = "uneven gains" if uneven else "even gains"
        print(f"{posters:12}  {difference:9}  {kind:12}  {within[0]:6}  {within[1]:7}  {within[2]:7}", flush=True)


if __name__ == "__main__":
    main()
