"""Posters that look alike: the same picture in another size, compression or with another logo.

Two titles with one picture on two sides of a split would be answered by heart, whatever their names are. A picture
is known by a perceptual hash (pHash; Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions"), and two are alike where few of its 64 bits differ.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.errors import needs_package

MAX_DISTANCE = 6
"""Bits in which posters that are alike may differ.

Looked at by eye: of 1,045 anime posters 7 pairs are as near as that, each of them one picture twice (with another
logo, season or size), and the next differ in 12 bits and are strangers; of 5,769 film posters no pair is, and the
nearest strangers differ in 8.
"""
_SIDE = 32  # of the picture that is hashed
_FLAT = 16  # grey levels: below, a picture shows nothing but compression, and its hash is chance
_BITS = 64


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """What a picture, uint8 [3, size, size], is compared by: its green channel, with 32 to 63 pixels a side.

    Green is most of what the eye takes for brightness, and needs no conversion.
    """
    return Image.fromarray(pixels[1]).reduce(max(1, pixels.shape[-1] // _SIDE))


def perceptual_hash(small: Image.Image) -> str:
    """The perceptual hash of a thumbnail: 16 hexadecimal digits, none for a flat picture."""
    with needs_package("Finding posters that look alike"):
        import imagehash
    darkest, brightest = small.getextrema()
    if brightest - darkest < _FLAT:  # type: ignore[operator]  # two numbers, for a picture of one band
        return ""
    return np.packbits(imagehash.phash(small).hash).tobytes().hex()


def look_alikes(hash_of: Mapping[str, str], distance: int = MAX_DISTANCE) -> list[tuple[str, str]]:
    """Pairs that join all ids whose posters look alike, of perceptual hashes by id; "" is like no other.

    Pairs of ids with the same hash are given as a chain, not each with each.
    """
    with_hash: dict[str, list[str]] = {}
    for id, own in hash_of.items():
        if own:
            with_hash.setdefault(own, []).append(id)
    pairs = [pair for ids in with_hash.values() for pair in pairwise(ids)]
    first = [ids[0] for ids in with_hash.values()]
    hashes = np.array([int(own, 16) for own in with_hash], np.uint64)
    return pairs + [(first[one], first[other]) for one, other in sorted(_near(hashes, distance))]


def _near(hashes: NDArray[np.uint64], distance: int) -> set[tuple[int, int]]:
    """Pairs of places whose hashes, uint64 [N], differ in at most so many bits.

    Of `distance` + 1 stretches of bits such a pair has at least one in common (Manku, Jain and Das Sarma 2007,
    "Detecting Near-Duplicates for Web Crawling"), so only hashes that share one are compared.
    """
    pairs: set[tuple[int, int]] = set()
    bounds = np.linspace(0, _BITS, distance + 2).astype(int)
    for low, high in pairwise(bounds.tolist()):
        stretch = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(stretch, kind="stable")
        own, stretch = hashes[order], stretch[order]
        # Equal stretches stand together: each hash is compared with the next, then the one after it, and so on.
        left, step = np.arange(len(hashes)), 1
        while len(left := left[: np.searchsorted(left, len(hashes) - step)]):
            left = left[stretch[left] == stretch[left + step]]
            near = left[np.bitwise_count(own[left] ^ own[left + step]) <= distance]
            pairs.update(zip(order[near].tolist(), order[near + step].tolist(), strict=True))
            step += 1
    return {(min(pair), max(pair)) for pair in pairs}
