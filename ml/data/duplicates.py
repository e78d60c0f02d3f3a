"""Finds posters that look alike: the same picture in another size or compression, or with another logo.

If one picture were in the training and the test part, the network could memorise its genres. Pictures are compared by
a perceptual hash of 64 bits (pHash; Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions"). Two pictures look alike if few bits differ.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE = 6
"""The largest number of differing bits of posters that look alike.

Checked by eye: among 1,045 anime posters, 7 pairs differ in at most 6 bits, and each shows one picture twice (with
another logo, season or size). The next pairs differ in 12 bits and show different pictures. Among 5,769 film posters,
the nearest pairs differ in 8 bits and show different pictures.
"""
_SIDE = 32
_MIN_CONTRAST = 16
"""In grey levels. With less contrast, a picture only shows compression noise, and its hash is random."""
_BITS = 64


def thumbnail(pixels: NDArray[np.uint8]) -> Image.Image:
    """The green channel of a picture, uint8 [3, size, size], reduced to 32 to 63 pixels per side.

    Green contributes most to perceived brightness, and it needs no conversion.
    """
    return Image.fromarray(pixels[1]).reduce(max(1, pixels.shape[-1] // _SIDE))


def perceptual_hash(small: Image.Image) -> str:
    """The perceptual hash of a thumbnail as 16 hexadecimal digits, or "" for a picture with almost no contrast."""
    import imagehash

    darkest, brightest = small.getextrema()
    if brightest - darkest < _MIN_CONTRAST:  # type: ignore[operator]  # a single band gives two numbers
        return ""
    return np.packbits(imagehash.phash(small).hash).tobytes().hex()


def look_alikes(hash_of: Mapping[str, str], distance: int = MAX_DISTANCE) -> list[tuple[str, str]]:
    """Pairs of ids whose posters look alike, from perceptual hashes by id. An empty hash matches no other.

    Ids with equal hashes are joined as a chain, not as all possible pairs. Each further pair joins the first ids of two
    hashes that differ in at most `distance` bits.
    """
    ids_by_hash: dict[str, list[str]] = {}
    for id, hash in hash_of.items():
        if hash:
            ids_by_hash.setdefault(hash, []).append(id)
    pairs = [pair for ids in ids_by_hash.values() for pair in pairwise(ids)]
    first = [ids[0] for ids in ids_by_hash.values()]
    hashes = np.array([int(hash, 16) for hash in ids_by_hash], np.uint64)
    return pairs + [(first[one], first[other]) for one, other in sorted(_near(hashes, distance))]


def _near(hashes: NDArray[np.uint64], distance: int) -> set[tuple[int, int]]:
    """Index pairs of hashes, uint64 [N], that differ in at most `distance` bits.

    If the bits are divided into `distance` + 1 blocks, such a pair has at least one equal block (Manku, Jain and Das
    Sarma 2007, "Detecting Near-Duplicates for Web Crawling"). So only hashes with an equal block are compared.
    """
    pairs: set[tuple[int, int]] = set()
    bounds = np.linspace(0, _BITS, distance + 2).astype(int)
    for low, high in pairwise(bounds.tolist()):
        block = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(block, kind="stable")
        ordered, block = hashes[order], block[order]
        # Equal blocks are adjacent: each hash is compared with the next one, then with the one after it, and so on.
        left, step = np.arange(len(hashes)), 1
        while len(left := left[: np.searchsorted(left, len(hashes) - step)]):
            left = left[block[left] == block[left + step]]
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
            pairs.update(zip(order[near].tolist(), order[near + step].tolist(), strict=True))
            step += 1
    return {(min(pair), max(pair)) for pair in pairs}
