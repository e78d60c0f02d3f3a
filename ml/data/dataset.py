"""A dataset on disk: posters with their labels, franchises and parts, and the shards that hold their pixels.

    datasets/{key}/labels.npy      uint8 [N, G], 1 where a poster has a genre
    datasets/{key}/rows.csv        id, title, franchise, part, sha256 of each of the N posters
    datasets/{key}/manifest.json   key, preprocessing, genres, broken posters, shards; written last: all is there
    pixels/{size}-v{version}/      the shards, which all datasets of a workspace share

The folder is named by the dataset's key, the hash of what goes into it.
"""

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.data.decoding import (
    PREPROCESSING_VERSION,
    Poster,
    broken_posters,
    decode_posters,
    open_pixels,
    perceptual_hashes,
    pixels_folder,
)
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre, GenreChoice, LeftOutGenre, choose_genres, multi_hot
from ml.data.shards import Rows, Shards
from ml.data.splits import PARTS, join_franchises
from ml.errors import DatasetError
from ml.reporting import Reporter
from serving.bundle.model import RESIZE, Preprocessing

logger = logging.getLogger(__name__)

LAYOUT = 2
"""Of a dataset's files: a folder of another layout has another key, so it is not read but made anew."""
DATASETS = "datasets"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels between 0 and 1 (https://docs.pytorch.org/vision/stable/models.html); one from scratch does not mind."""
_LABELS, _ROWS, _MANIFEST = "labels.npy", "rows.csv", "manifest.json"
_COLUMNS = ("id", "title", "franchise", "part", "sha256")


def preprocessing(config: PreprocessConfig) -> Preprocessing:
    """How posters become the network's input: squashed to a square, normalised as torchvision's weights expect it."""
    return Preprocessing(config.image_size, IMAGENET_MEAN, IMAGENET_STD, RESIZE, PREPROCESSING_VERSION)


@dataclass(frozen=True)
class Dataset:
    """Posters, labels and parts; entries of the tuples and rows of the arrays are parallel.

    `images` are uint8 [N, 3, size, size], gathered from memory-mapped shards when they are indexed; `labels` uint8
    [N, G]. `broken` gives the reason by the id of each poster that could not be used, `shards` are the names of
    those with its pixels. Of the titles whose posters look alike there are `alike_posters` in `alike_groups`; a group
    is in one franchise, and so in one part.
    """

    folder: Path
    key: str
    preprocessing: Preprocessing
    genres: tuple[Genre, ...]
    left_out: tuple[LeftOutGenre, ...]
    broken: dict[str, str]
    shards: tuple[str, ...]
    alike_groups: int
    alike_posters: int
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    sha256: tuple[str, ...]
    franchises: NDArray[np.str_]
    parts: NDArray[np.str_]
    images: Rows
    labels: NDArray[np.uint8]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a dataset that `build_dataset` made, with its shards in the same workspace.

        Raises DatasetError where there is none or it is damaged, or pixels of its posters are missing.
        """
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            how = _preprocessing(manifest["preprocessing"])
            with (folder / _ROWS).open(encoding="utf-8", newline="") as stream:
                header, *rows = csv.reader(stream)
            if tuple(header) != _COLUMNS:
                raise ValueError(f"the columns of {_ROWS} are {header}")
            ids, titles, franchises, parts, sha256 = zip(*rows, strict=True)
            pixels = open_pixels(pixels_folder(folder.parents[1], how.size), only=manifest["shards"])
            if missing := pixels.missing(sha256):
                raise ValueError(f"pixels of {len(missing)} posters are missing")
            dataset = cls(
                folder=folder,
                key=manifest["key"],
                preprocessing=how,
                genres=tuple(Genre(**entry) for entry in manifest["genres"]),
                left_out=tuple(
                    LeftOutGenre(Genre(**entry["genre"]), entry["posters"], entry["reason"])
                    for entry in manifest["left_out"]
                ),
                broken=manifest["broken"],
                shards=tuple(manifest["shards"]),
                alike_groups=manifest["alike"]["groups"],
                alike_posters=manifest["alike"]["posters"],
                ids=ids,
                titles=titles,
                sha256=sha256,
                franchises=np.array(franchises, np.str_),
                parts=np.array(parts, np.str_),
                images=pixels.rows(sha256),
                labels=np.load(folder / _LABELS),
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"The folder {folder} is no complete dataset: {error}.") from error
        if len(dataset.labels) != len(rows):
            raise DatasetError(f"The dataset in {folder} is damaged: its files differ in length.")
        return dataset

    def _save(self, folder: Path) -> None:
        """Write into a folder what `load` reads there."""
        np.save(folder / _LABELS, self.labels)
        with (folder / _ROWS).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            columns = (self.ids, self.titles, self.franchises.tolist(), self.parts.tolist(), self.sha256)
            writer.writerows(zip(*columns, strict=True))
        manifest = {
            "key": self.key,
            "preprocessing": asdict(self.preprocessing),
            "genres": [asdict(genre) for genre in self.genres],
            "left_out": [asdict(lacking) for lacking in self.left_out],
            "broken": self.broken,
            "alike": {"groups": self.alike_groups, "posters": self.alike_posters},
            "shards": self.shards,
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")

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
            "posters_alike": {"groups": self.alike_groups, "posters": self.alike_posters},
        }


def dataset_key(posters: Sequence[Poster], config: PreprocessConfig) -> str:
    """The hash of what a dataset of these posters holds; it needs no poster to be read.

    Titles, scores and dates are not in it: they change without the dataset changing.
    """
    content = {
        "posters": [
            [poster.id, sorted([genre.key for genre in poster.genres]), poster.sha256, poster.part]
            for poster in _usable(posters)
        ],
        "preprocessing": asdict(preprocessing(config)),
        "min_posters": [config.min_posters, config.min_posters_per_part],
        "layout": LAYOUT,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def dataset_folder(workspace: Path, key: str) -> Path:
    """Where a workspace keeps the dataset of a key."""
    return workspace / DATASETS / key


def build_dataset(
    posters: Sequence[Poster],
    workspace: Path,
    config: PreprocessConfig,
    reporter: Reporter,
    pixels: Shards | None = None,
) -> Dataset:
    """Make the dataset of these posters in the workspace, or open it where it is made already.

    Posters whose pixels the shards do not know are decoded; `pixels` are the workspace's shards, opened here where
    none are given. Titles without genres are unknown, not negative, and do not enter; nor do those left out of all
    parts. A poster that cannot be decoded is recorded in `broken`. Raises DatasetError where fewer than two genres
    have enough posters.
    """
    key = dataset_key(posters, config)
    folder = dataset_folder(workspace, key)
    if (folder / _MANIFEST).exists():
        try:
            return Dataset.load(folder)
        except DatasetError as error:
            logger.warning("%s It is built anew.", error)
            shutil.rmtree(folder)
    usable = _usable(posters)
    choice = _choose_genres(usable, config)  # too few posters are told before any is decoded
    pixels = pixels or open_pixels(pixels_folder(workspace, config.image_size))
    decode_posters(usable, pixels, reporter)
    dataset = _made(usable, choice, pixels, folder, key, config)
    beside = folder.with_name(f"{key}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    dataset._save(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.replace(folder)
    for lacking in dataset.left_out:
        logger.warning("The genre %s is left out: %s.", lacking.genre.name, lacking.reason)
    if dataset.broken:
        logger.warning("%d of %d posters could not be used.", len(dataset.broken), len(usable))
    return dataset


def _usable(posters: Sequence[Poster]) -> list[Poster]:
    """Posters that enter a dataset, by id."""
    chosen = (poster for poster in posters if poster.genres and poster.part in PARTS)
    return sorted(chosen, key=lambda poster: poster.id)


def _choose_genres(posters: Sequence[Poster], config: PreprocessConfig) -> GenreChoice:
    return choose_genres([poster.genres for poster in posters], [poster.part for poster in posters], config)


def _made(
    usable: Sequence[Poster], choice: GenreChoice, pixels: Shards, folder: Path, key: str, config: PreprocessConfig
) -> Dataset:
    """The dataset of decoded posters; `choice` are the genres of all of them, chosen anew where some are broken."""
    broken = broken_posters(usable, pixels)
    posters = [poster for poster in usable if poster.id not in broken]
    choice = _choose_genres(posters, config) if broken else choice
    sha256 = tuple(poster.sha256 for poster in posters)
    # How many posters look like another one, and how many groups they make.
    pairs = look_alikes(perceptual_hashes(posters, pixels))
    group_of = join_franchises({id: id for pair in pairs for id in pair}, pairs)
    return Dataset(
        folder=folder,
        key=key,
        preprocessing=preprocessing(config),
        genres=choice.learned,
        left_out=choice.left_out,
        broken=broken,
        shards=tuple(pixels.names(sha256)),
        alike_groups=len(set(group_of.values())),
        alike_posters=len(group_of),
        ids=tuple(poster.id for poster in posters),
        titles=tuple(poster.title for poster in posters),
        sha256=sha256,
        franchises=np.array([poster.franchise for poster in posters], np.str_),
        parts=np.array([poster.part for poster in posters], np.str_),
        images=pixels.rows(sha256),
        labels=multi_hot([poster.genres for poster in posters], choice.learned),
    )


def _preprocessing(entry: dict[str, Any]) -> Preprocessing:
    return Preprocessing(**{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})
