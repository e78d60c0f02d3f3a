"""A dataset on disk: posters as one uint8 array, their labels, franchises and parts.

    images.npy      uint8 [N, 3, size, size], read as a memory map
    labels.npy      uint8 [N, G], 1 where a poster has a genre
    rows.csv        id, title, franchise, part, sha256 of each of the N posters
    manifest.json   key, preprocessing, genres, broken posters; written last, its existence means done

The folder is named by the dataset's key, the hash of what goes into it.
"""

import csv
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.errors import DatasetError
from ml.genres import Genre, LeftOutGenre, choose_genres, multi_hot
from ml.posters import Poster, decode_posters
from ml.reporting import Reporter
from ml.splits import PARTS
from serving.function.model import RESIZE, Preprocessing

logger = logging.getLogger(__name__)

PREPROCESSING_VERSION = 1
_MANIFEST = "manifest.json"
_COLUMNS = ("id", "title", "franchise", "part", "sha256")
_COPY_ROWS = 256


def preprocessing(config: PreprocessConfig) -> Preprocessing:
    """How posters become the network's input: squashed to a square, normalised to [-1, 1] a channel."""
    half = (0.5, 0.5, 0.5)
    return Preprocessing(config.image_size, half, half, RESIZE, PREPROCESSING_VERSION)


@dataclass(frozen=True)
class Dataset:
    """Posters, labels and parts; entries of the tuples and rows of the arrays are parallel.

    `images` is uint8 [N, 3, size, size], a memory map that is never written back; `labels` uint8 [N, G].
    `broken` gives the reason by the id of each poster that could not be used.
    """

    folder: Path
    key: str
    preprocessing: Preprocessing
    genres: tuple[Genre, ...]
    left_out: tuple[LeftOutGenre, ...]
    broken: dict[str, str]
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    franchises: NDArray[np.str_]
    parts: NDArray[np.str_]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a dataset that `build_dataset` made; DatasetError where there is none or it is damaged."""
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            with (folder / "rows.csv").open(encoding="utf-8", newline="") as stream:
                rows = list(csv.DictReader(stream))
            dataset = cls(
                folder=folder,
                key=manifest["key"],
                preprocessing=_preprocessing(manifest["preprocessing"]),
                genres=tuple(Genre(**entry) for entry in manifest["genres"]),
                left_out=tuple(
                    LeftOutGenre(Genre(**entry["genre"]), entry["posters"], entry["reason"])
                    for entry in manifest["left_out"]
                ),
                broken=manifest["broken"],
                ids=tuple(row["id"] for row in rows),
                titles=tuple(row["title"] for row in rows),
                franchises=np.array([row["franchise"] for row in rows], np.str_),
                parts=np.array([row["part"] for row in rows], np.str_),
                # Copy on write: torch takes the map as it is, and nothing written can reach the file.
                images=np.load(folder / "images.npy", mmap_mode="c"),
                labels=np.load(folder / "labels.npy"),
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"The folder {folder} is no complete dataset: {error}.") from error
        if not len(dataset.images) == len(dataset.labels) == len(rows):
            raise DatasetError(f"The dataset in {folder} is damaged: its files differ in length.")
        return dataset

    def rows(self, part: str) -> NDArray[np.int64]:
        """The rows of a part: train, validation or test."""
        return np.flatnonzero(self.parts == part)

    @property
    def genre_names(self) -> tuple[str, ...]:
        """Names of the genres, in the order of the labels' columns."""
        return tuple(genre.name for genre in self.genres)

    def summary(self) -> dict[str, object]:
        """Figures about the dataset, ready for JSON."""
        return {
            "key": self.key,
            "image_size": self.preprocessing.size,
            "posters": {part: len(self.rows(part)) for part in PARTS},
            "franchises": len(set(self.franchises.tolist())),
            "genres": {genre.name: int(count) for genre, count in zip(self.genres, self.labels.sum(0), strict=True)},
            "genres_left_out": {lacking.genre.name: lacking.reason for lacking in self.left_out},
            "broken_posters": len(self.broken),
        }


def dataset_key(posters: Sequence[Poster], config: PreprocessConfig) -> str:
    """The hash of what a dataset of these posters holds; it needs no poster to be read.

    Titles, scores and dates are not in it: they change without the dataset changing.
    """
    content = {
        "posters": sorted(
            [poster.id, sorted(genre.key for genre in poster.genres), poster.sha256, poster.part]
            for poster in _usable(posters)
        ),
        "preprocessing": asdict(preprocessing(config)),
        "min_posters": [config.min_posters, config.min_posters_per_part],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build_dataset(posters: Sequence[Poster], root: Path, config: PreprocessConfig, reporter: Reporter) -> Dataset:
    """Make the dataset of these posters in `root/{key}`, or open it where it is made already.

    Titles without genres are unknown, not negative, and do not enter; nor do those left out of all parts.
    A poster that cannot be decoded is recorded in `broken`. Raises DatasetError where fewer than two genres
    have enough posters.
    """
    key = dataset_key(posters, config)
    folder = root / key
    if (folder / _MANIFEST).exists():
        try:
            return Dataset.load(folder)
        except DatasetError as error:
            logger.warning("%s It is built anew.", error)
            shutil.rmtree(folder)
    usable = _usable(posters)
    choose_genres([poster.genres for poster in usable], [poster.part for poster in usable], config)
    beside = root / f"{key}.new"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _write(usable, beside, key, config, reporter)
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)
    dataset = Dataset.load(folder)
    for lacking in dataset.left_out:
        logger.warning("The genre %s is left out: %s.", lacking.genre.name, lacking.reason)
    if dataset.broken:
        logger.warning("%d of %d posters could not be used.", len(dataset.broken), len(usable))
    return dataset


def _usable(posters: Sequence[Poster]) -> list[Poster]:
    """Posters that enter a dataset, by id."""
    chosen = (poster for poster in posters if poster.genres and poster.part in PARTS)
    return sorted(chosen, key=lambda poster: poster.id)


def _write(usable: Sequence[Poster], folder: Path, key: str, config: PreprocessConfig, reporter: Reporter) -> None:
    size = config.image_size
    file = folder / "images.npy"
    images: NDArray[np.uint8] = open_memmap(file, "w+", np.uint8, (len(usable), 3, size, size))
    _reserve(file)
    broken = decode_posters(usable, images, reporter)
    whole = [row for row, poster in enumerate(usable) if poster.id not in broken]
    if broken:
        _keep_rows(images, whole, file)
    posters = [usable[row] for row in whole]
    genres = [poster.genres for poster in posters]
    choice = choose_genres(genres, [poster.part for poster in posters], config)
    np.save(folder / "labels.npy", multi_hot(genres, choice.learned))
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        writer.writerows([getattr(poster, column) for column in _COLUMNS] for poster in posters)
    manifest = {
        "key": key,
        "preprocessing": asdict(preprocessing(config)),
        "genres": [asdict(genre) for genre in choice.learned],
        "left_out": [asdict(lacking) for lacking in choice.left_out],
        "broken": broken,
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")


def _reserve(file: Path) -> None:
    """Take the file's space on the disk now: writing to a map of a disk that is full would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _keep_rows(images: NDArray[np.uint8], rows: Sequence[int], file: Path) -> None:
    """Write the file of `images` anew with these rows alone."""
    beside = file.with_suffix(".kept")
    kept = open_memmap(beside, "w+", np.uint8, (len(rows), *images.shape[1:]))
    for start in range(0, len(rows), _COPY_ROWS):
        kept[start : start + _COPY_ROWS] = images[rows[start : start + _COPY_ROWS]]
    kept.flush()
    beside.replace(file)


def _preprocessing(entry: dict[str, Any]) -> Preprocessing:
    return Preprocessing(**{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})
