"""Synthetic datasets of any size, and a measurement of memory, for bench_training.py.

The posters' pixels are noise in coarse blocks, written directly to the workspace's shards.
"""

import hashlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster, open_pixels
from ml.data.genres import Genre
from ml.data.shards import ROWS_PER_SHARD
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.reporting import NullReporter

GENRES = tuple(Genre(number, f"Genre {number}") for number in range(14))
_FREQUENCY = 0.2
_DRAWN = 64  # pictures that are generated; the others are these, rolled
_BLOCK = 8


def synthetic_dataset(workspace: Path, count: int, size: int) -> Dataset:
    """A dataset of `count` posters: 80 % training, 10 % validation, 10 % test."""
    sha256 = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    pixels = open_pixels(workspace, size)
    drawn = _pictures(size)
    missing = pixels.missing(sha256)
    for first in range(0, len(missing), ROWS_PER_SHARD):
        hashes = missing[first : first + ROWS_PER_SHARD]
        with pixels.write(hashes) as shard:
            for row in range(len(hashes)):
                number = first + row
                shard.put(row, np.roll(drawn[number % _DRAWN], number // _DRAWN, axis=2)[None])
    has = np.random.default_rng(0).random((count, len(GENRES))) < _FREQUENCY
    has[np.arange(count), np.arange(count) % len(GENRES)] = True
    titles = _titles(count)
    posters = [
        Poster(
            id=str(number),
            title=titles[number],
            genres=tuple(genre for genre, is_labelled in zip(GENRES, has[number], strict=True) if is_labelled),
            franchise=f"title {number}",
            part={0: VALIDATION, 1: TEST}.get(number % 10, TRAIN),
            file=workspace / f"{number}.jpg",  # never read: the pixels are in the shards
            sha256=sha256[number],
        )
        for number in range(count)
    ]
    config = PreprocessConfig(image_size=size, min_posters=1, min_posters_per_part=1)
    return build_dataset(posters, workspace, config, NullReporter(), pixels)


def _titles(count: int) -> list[str]:
    """One to four words each, as those of real titles: titles share words, and words share letters."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("aeioukstnhmyrw"), random.integers(2, 8))) for _ in range(5000)])
    return [" ".join(random.choice(words, random.integers(1, 5))) for _ in range(count)]


def _pictures(size: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (_DRAWN, 3, -(-size // _BLOCK), -(-size // _BLOCK)), np.uint8)
    return coarse.repeat(_BLOCK, 2).repeat(_BLOCK, 3)[:, :, :size, :size]


class MemoryWatch:
    """The process's anonymous memory in MB at the start of the block, its peak inside the block, and its open files.

    `open_files` is their largest number inside the block.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self.before = self.peak = anonymous_mb()
        self.open_files = 0
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, anonymous_mb())
            self.open_files = max(self.open_files, sum(1 for _ in Path("/proc/self/fd").iterdir()))


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB, which is not backed by a file."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024
