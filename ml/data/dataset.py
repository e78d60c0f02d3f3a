"""A dataset on disk: labels, franchises and parts of posters, beside the cache of their pixels.

    datasets/{key}/labels.npy      uint8 [N, G], 1 if a poster has a genre
    datasets/{key}/rows.csv        id, title, franchise, part and sha256 of each of the N posters
    datasets/{key}/manifest.json   key, preprocessing, genres and broken posters; written last, so it means complete
    pixels/{size}-v{version}/      decoded posters, shared by all datasets of a workspace (see `ml.data.decoding`)

The dataset's key is a hash of its content.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig
from ml.data.decoding import (
    PREPROCESSING_VERSION,
    Poster,
    broken_posters,
    decode_posters,
    open_pixels,
    perceptual_hashes,
)
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre, GenreChoice, LeftOutGenre, choose_genres, multi_hot
from ml.data.shards import Rows, Shards
from ml.data.splits import PARTS, PARTS_VERSION, SUSPECT, join_franchises
from ml.errors import DatasetError
from ml.files import locked
from ml.reporting import Reporter
from serving.bundle.files import sha256_of, sync, temporary_path
from serving.bundle.model import RESIZE, Preprocessing
from serving.bundle.wording import counted

logger = logging.getLogger(__name__)

LAYOUT = 3
"""Version of a dataset's files. It is part of the key, so a dataset with another layout is never read."""
DATASETS = "datasets"
LABELS, ROWS, MANIFEST = "labels.npy", "rows.csv", "manifest.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Part of the key of every stored dataset. Networks do not read them: each has a normalisation of its own (see
`ml.networks.backbones`)."""
_CHECKSUM = "content_sha256"
_NAMED_BROKEN = 3  # in the log
_COLUMNS = ["id", "title", "franchise", "part", "sha256"]


def preprocessing(config: PreprocessConfig) -> Preprocessing:
    """How posters become network input: resized to a square."""
    return Preprocessing(config.image_size, IMAGENET_MEAN, IMAGENET_STD, RESIZE, PREPROCESSING_VERSION)


@dataclass(frozen=True)
class Dataset:
    """Posters, labels and parts. Tuples and arrays are parallel, one entry per poster.

    `images` are uint8 [N, 3, size, size], read from memory-mapped shards when they are indexed; `labels` are uint8
    [N, G]. `broken` gives the reason, by id, of each poster that could not be decoded. `alike_posters` posters in
    `alike_groups` groups look alike; each group belongs to one franchise, and so to one part. `suspects` test posters
    are left out because they may be siblings of training posters (see `ml.data.splits`).
    """

    folder: Path
    key: str
    preprocessing: Preprocessing
    genres: tuple[Genre, ...]
    left_out: tuple[LeftOutGenre, ...]
    broken: dict[str, str]
    alike_groups: int
    alike_posters: int
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    sha256: tuple[str, ...]
    franchises: NDArray[np.str_]
    parts: NDArray[np.str_]
    images: Rows
    labels: NDArray[np.uint8]
    suspects: int = 0

    @classmethod
    def load(cls, folder: Path, pixels: Shards | None = None) -> Self:
        """Open a stored dataset; its posters must be in `pixels`, the workspace's cache, opened here if not given.

        Raises DatasetError if the dataset is missing or damaged, or if pixels of its posters are missing.
        """
        try:
            manifest = _read_manifest(folder)
            how = _preprocessing(manifest["preprocessing"])
            rows = _read_rows(folder)
            pixels = pixels or open_pixels(folder.parents[1], how.size)
            if missing := pixels.missing(rows["sha256"]):
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
                alike_groups=manifest["alike"]["groups"],
                alike_posters=manifest["alike"]["posters"],
                ids=tuple(rows["id"]),
                titles=tuple(rows["title"]),
                sha256=tuple(rows["sha256"]),
                franchises=rows["franchise"].to_numpy(np.str_),
                parts=rows["part"].to_numpy(np.str_),
                images=pixels.rows(tuple(rows["sha256"])),
                labels=np.load(folder / LABELS),
                suspects=manifest.get("suspects", 0),  # earlier versions did not look for them
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise _incomplete(folder, str(error)) from error
        if len(dataset.labels) != len(rows):
            raise _incomplete(folder, "its files differ in length")
        return dataset

    def _save(self, folder: Path) -> None:
        """Write the files that `load` reads."""
        np.save(folder / LABELS, self.labels)
        columns = (self.ids, self.titles, self.franchises.tolist(), self.parts.tolist(), self.sha256)
        rows = pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))
        rows.to_csv(folder / ROWS, index=False, lineterminator="\r\n")
        manifest = {
            "key": self.key,
            "preprocessing": asdict(self.preprocessing),
            "genres": [asdict(genre) for genre in self.genres],
            "left_out": [asdict(genre) for genre in self.left_out],
            "broken": self.broken,
            "alike": {"groups": self.alike_groups, "posters": self.alike_posters},
            "suspects": self.suspects,
            "parts_version": PARTS_VERSION,
            "shards": [],  # earlier versions listed stored pixels here; today pixels are decoded where they are needed
        }
        manifest[_CHECKSUM] = _checksum(folder, manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
        for file in (LABELS, ROWS, MANIFEST):
            sync(folder / file)

    def rows(self, part: str) -> NDArray[np.int64]:
        """The row numbers of a part: train, validation or test."""
        return np.flatnonzero(self.parts == part)

    @property
    def franchises_sha256(self) -> str:
        """The hash of the franchises, which are not part of the key."""
        return sha256_of("\n".join(self.franchises.tolist()).encode())

    @property
    def genre_names(self) -> tuple[str, ...]:
        """The names of the genres, in the order of the labels' columns."""
        return tuple(genre.name for genre in self.genres)

    def suspects_notice(self) -> str:
        """One sentence about the test posters that are left out because they may be siblings; "" if there are none."""
        if not self.suspects:
            return ""
        return (
            f"{counted(self.suspects, 'title is', 'titles are')} left out of the test part: a rare word of each is in "
            "a training title, and nothing says whether they are related."
        )

    def summary(self) -> dict[str, object]:
        """Figures about the dataset, ready for JSON."""
        return {
            "key": self.key,
            "image_size": self.preprocessing.size,
            "posters": {part: len(self.rows(part)) for part in PARTS},
            "franchises": len(set(self.franchises.tolist())),
            "genres": {genre.name: int(count) for genre, count in zip(self.genres, self.labels.sum(0), strict=True)},
            "genres_left_out": {left_out.genre.name: left_out.reason for left_out in self.left_out},
            "broken_posters": len(self.broken),
            "posters_alike": {"groups": self.alike_groups, "posters": self.alike_posters},
            "suspects_left_out": self.suspects,
        }


def read_posters(folder: Path) -> tuple[int, dict[str, str]]:
    """The image size of a stored dataset, and the sha256 of each poster by its id, without opening its pixels.

    Raises DatasetError if the dataset is missing or damaged.
    """
    try:
        size = int(_read_manifest(folder)["preprocessing"]["size"])
        rows = _read_rows(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _incomplete(folder, str(error)) from error
    return size, dict(zip(rows["id"], rows["sha256"], strict=True))


def _incomplete(folder: Path, why: str) -> DatasetError:
    return DatasetError(f"The folder {folder} is not a complete dataset. Run again to rebuild it.", why)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a stored dataset. Raises OSError or ValueError if a file of the dataset is missing or damaged."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    if manifest.get(_CHECKSUM) not in (None, _checksum(folder, manifest)):  # earlier versions wrote none
        raise ValueError("its content does not match its checksum")
    return manifest


def _read_rows(folder: Path) -> pd.DataFrame:
    """The rows of a stored dataset, all str. Raises OSError or ValueError if the file is missing or damaged."""
    return _parse_rows((folder / ROWS).read_bytes())


def read_parts(rows: bytes) -> dict[str, tuple[str, str]]:
    """Franchise and part of each poster by its id, from the content of `rows.csv`. Raises ValueError if damaged."""
    table = _parse_rows(rows)
    return {id: (franchise, part) for id, franchise, part in table[["id", "franchise", "part"]].itertuples(index=False)}


def _parse_rows(content: bytes) -> pd.DataFrame:
    rows = pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False)
    if list(rows) != _COLUMNS or not rows["part"].isin(PARTS).all():
        raise ValueError(f"{ROWS} has other columns or values than those of a dataset")
    return rows


def _checksum(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The hash of a dataset's files; of the manifest, all but this hash itself."""
    content = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    files = [sha256_of((folder / name).read_bytes()) for name in (LABELS, ROWS)]
    return sha256_of(json.dumps([files, content], sort_keys=True).encode())


def dataset_key(posters: Sequence[Poster], config: PreprocessConfig) -> str:
    """The hash of a dataset's content, computed without reading the posters.

    Titles, scores and dates are not part of it, because they change while the dataset stays the same.
    """
    content = {
        "posters": [
            [poster.id, sorted([genre.key for genre in poster.genres]), poster.sha256, poster.part]
            for poster in _usable(posters)
        ],
        "suspects": _suspects(posters),
        "preprocessing": asdict(preprocessing(config)),
        "min_posters": [config.min_posters, config.min_posters_per_part],
        "layout": LAYOUT,
    }
    return sha256_of(json.dumps(content, sort_keys=True).encode())


def dataset_folder(workspace: Path, key: str) -> Path:
    """The folder of a dataset in a workspace."""
    return workspace / DATASETS / key


def build_dataset(
    posters: Sequence[Poster],
    workspace: Path,
    config: PreprocessConfig,
    reporter: Reporter,
    pixels: Shards | None = None,
) -> Dataset:
    """Build the dataset of these posters, or open the stored one if its franchises are the same.

    `pixels` is the workspace's cache, opened here if it is not given. Posters that it lacks are decoded. Titles without
    genres are unknown, not negative, so they are left out, as are titles without a part. Posters that cannot be decoded
    are recorded in `broken`. Raises DatasetError if fewer than two genres have enough posters.
    """
    key = dataset_key(posters, config)
    folder = dataset_folder(workspace, key)
    pixels = pixels or open_pixels(workspace, config.image_size)
    franchise_of = {poster.id: poster.franchise for poster in posters}
    if (folder / MANIFEST).exists():
        with locked(folder.parent, "writes a dataset into"):
            stored = _stored(folder, pixels, franchise_of)
        # Broken posters without pixels are those whose format can be read only now.
        if stored is not None and not pixels.missing(each.sha256 for each in posters if each.id in stored.broken):
            _log_broken(stored.broken, len(posters))
            return stored
    usable = _usable(posters)
    choice = _choose_genres(usable, config)  # before decoding, so that too few posters fail early
    decode_posters({poster.sha256: poster.file for poster in usable}, pixels, reporter)
    broken = broken_posters(usable, pixels)
    if broken:
        usable = [poster for poster in usable if poster.id not in broken]
        choice = _choose_genres(usable, config)
        _log_broken(broken, len(posters))
    for left_out in choice.left_out:
        logger.warning("The genre %s is left out: %s.", left_out.genre.name, left_out.sentence)
    dataset = Dataset(
        folder=folder,
        key=key,
        preprocessing=preprocessing(config),
        genres=choice.learned,
        left_out=choice.left_out,
        broken=broken,
        **_alike_counts(perceptual_hashes({poster.id: poster.sha256 for poster in usable}, pixels)),
        ids=tuple(poster.id for poster in usable),
        titles=tuple(poster.title for poster in usable),
        sha256=tuple(poster.sha256 for poster in usable),
        franchises=np.array([poster.franchise for poster in usable], np.str_),
        parts=np.array([poster.part for poster in usable], np.str_),
        images=pixels.rows([poster.sha256 for poster in usable]),
        labels=multi_hot([poster.genres for poster in usable], choice.learned),
        suspects=_suspects(posters),
    )
    part = temporary_path(folder)
    with locked(folder.parent, "writes a dataset into"):
        stored = _stored(folder, pixels, franchise_of)
        if stored is not None and stored.broken == broken:  # another process was faster
            return stored
        for leftover in (*folder.parent.glob("*.new"), *folder.parent.glob(".*.part")):  # of killed processes
            shutil.rmtree(leftover)
        part.mkdir()
        dataset._save(part)
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed, or without posters that are read now
        part.replace(folder)
        sync(folder.parent)
    return dataset


def _stored(folder: Path, pixels: Shards, franchise_of: Mapping[str, str]) -> Dataset | None:
    """The dataset in a folder, None if it is missing or has other franchises than `franchise_of`, which is by id.

    A damaged one is deleted with a warning.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        stored = Dataset.load(folder, pixels)
        is_current = stored.franchises.tolist() == [franchise_of.get(id) for id in stored.ids]
        return stored if is_current else None
    except DatasetError as error:
        logger.warning("The dataset in %s is damaged and is rebuilt (%s).", folder, error.details)
        shutil.rmtree(folder)
        return None


def _log_broken(broken: Mapping[str, str], posters: int) -> None:
    if broken:
        first = "; ".join(f"{id}: {reason.rstrip('.')}" for id, reason in list(broken.items())[:_NAMED_BROKEN])
        more = "; ..." if len(broken) > _NAMED_BROKEN else ""
        logger.warning("%d of %s could not be decoded (%s%s).", len(broken), counted(posters, "poster"), first, more)


def _usable(posters: Sequence[Poster]) -> list[Poster]:
    """The posters with genres and a part, sorted by id."""
    usable = (poster for poster in posters if poster.genres and poster.part in PARTS)
    return sorted(usable, key=lambda poster: poster.id)


def _suspects(posters: Sequence[Poster]) -> int:
    return sum(poster.part == SUSPECT and bool(poster.genres) for poster in posters)


def _choose_genres(posters: Sequence[Poster], config: PreprocessConfig) -> GenreChoice:
    return choose_genres([poster.genres for poster in posters], [poster.part for poster in posters], config)


def _alike_counts(hash_of: dict[str, str]) -> dict[str, Any]:
    """The number of posters that look like another one, and the number of their groups."""
    pairs = look_alikes(hash_of)
    group_of = join_franchises({id: id for pair in pairs for id in pair}, pairs)
    return {"alike_groups": len(set(group_of.values())), "alike_posters": len(group_of)}


def _preprocessing(entry: dict[str, Any]) -> Preprocessing:
    return Preprocessing(**{**entry, "mean": tuple(entry["mean"]), "std": tuple(entry["std"])})
