"""The shift of predictions against a reference, per genre, by the population stability index.

The index of two samples is the sum over bins of (p - q) ln(p / q), where p and q are the samples' shares of a bin
(Siddiqi 2006, Credit Risk Scorecards). By its usual reading, less than 0.1 is no shift. The bins are fixed. They are
narrow where the probabilities of most genres are.

Between small samples of the same population, the index is above 0 by chance (Yurdakul and Naranjo 2020, Statistical
properties of the population stability index, Journal of Risk Model Validation 14). So a genre is shifted only if its
index exceeds what chance gives by 0.1, and if a permutation test finds it. The test compares each genre with the
largest of all genres (single-step maxT of Westfall and Young 1993, Resampling-Based Multiple Testing): without a shift,
it finds any genre at all in one of 1,000 comparisons, however many genres there are and however they depend on each
other. It assumes that posters are independent; count a poster that was sent several times once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.001
"""The probability that a comparison of two samples of the same population finds any shifted genre."""
MATERIAL = 0.1
"""The smallest shift that matters: how far the index exceeds its mean by chance."""
MOST = 5_000
"""How many posters of a sample are compared at most. A larger one is drawn from."""

# Between probabilities of two decimals, so that no value lies on an edge.
_EDGES = np.array([0.025, 0.055, 0.105, 0.205, 0.305, 0.405, 0.505, 0.705])
_BINS = len(_EDGES) + 1
_PERMUTATIONS = 2_000
_CHUNK = 100
# Each sample gets this many more posters, distributed as in both samples together. So no share is 0.
_ADDED = 4


@dataclass(frozen=True)
class Shift:
    """The index of each genre, its mean by chance, and its adjusted p-value, all float64 [G]."""

    index: NDArray[np.float64]
    by_chance: NDArray[np.float64]
    p_values: NDArray[np.float64]

    @property
    def shifted(self) -> NDArray[np.bool_]:
        """Whether each genre is shifted, bool [G]."""
        return (self.p_values <= LEVEL) & (self.index - self.by_chance >= MATERIAL)


def shift(sample: NDArray[np.float32], reference: NDArray[np.float32]) -> Shift:
    """Compare two samples of predictions, float32 [N, G] and [M, G], with at least one poster each.

    The same samples give the same result.
    """
    rng = np.random.default_rng(0)
    size = min(len(sample), MOST)
    both = np.concatenate([_drawn(sample, rng), _drawn(reference, rng)])
    posters, genres = both.shape
    bins = np.searchsorted(_EDGES, both) + _BINS * np.arange(genres)
    members = np.zeros((posters, genres * _BINS), np.float32)
    np.put_along_axis(members, bins, 1, axis=1)
    totals = members.sum(0, dtype=np.float64)

    def index(counts: NDArray[np.float32]) -> NDArray[np.float64]:
        """The index of each genre, [K, G], from the counts of K samples, [K, G * bins]. The rest is the reference."""
        p = (counts + _ADDED * totals / posters) / (size + _ADDED)
        q = (totals - counts + _ADDED * totals / posters) / (posters - size + _ADDED)
        terms = (p - q) * np.log(np.divide(p, q, where=totals > 0, out=np.ones_like(p)))
        result: NDArray[np.float64] = terms.reshape(len(counts), genres, _BINS).sum(2)
        return result

    found = index(members[:size].sum(0)[None])[0]
    by_chance = np.concatenate(
        [index(_random_samples(rng, size, posters) @ members) for _ in range(0, _PERMUTATIONS, _CHUNK)]
    )
    mean, deviation = by_chance.mean(0), by_chance.std(0)
    scale = np.where(deviation > 0, deviation, np.inf)  # of a genre whose probabilities are all in one bin
    largest = ((by_chance - mean) / scale).max(1)
    above = (largest[:, None] >= (found - mean) / scale).sum(0)
    return Shift(found, mean, (1 + above) / (1 + len(largest)))


def _drawn(sample: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return sample if len(sample) <= MOST else sample[rng.choice(len(sample), MOST, replace=False)]


def _random_samples(rng: np.random.Generator, size: int, posters: int) -> NDArray[np.float32]:
    """Random samples of `size` posters: 1 for each poster that is in the sample, else 0, [_CHUNK, posters]."""
    order = rng.random((_CHUNK, posters))
    return (order <= np.partition(order, size - 1, axis=1)[:, size - 1 : size]).astype(np.float32)
