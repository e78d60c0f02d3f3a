"""Predictions for poster files and folders of them, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.data.table_images import ENDINGS, in_served_format
from serving.bundle.errors import AnimeGenreError
from serving.bundle.image import decode
from serving.bundle.model import BATCH_SIZE, GenrePrediction, Model, available_cpus


@dataclass(frozen=True)
class FilePrediction:
    """The prediction of each genre for one file. Without any, `error` is a sentence that says why."""

    file: Path
    genres: Sequence[GenrePrediction] = ()
    error: str | None = None


def predict_files(model: Model, paths: Iterable[Path]) -> Iterator[FilePrediction]:
    """Predict the genres of poster files, and of the images in folders and their subfolders.

    A batch is decoded by all CPUs, then predicted, then yielded; a file that cannot be used does not end it.
    """
    size = model.manifest.preprocessing.size
    files = list(_files(paths))
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(files), BATCH_SIZE):
            batch = files[start : start + BATCH_SIZE]
            decoded = list(pool.map(lambda file: _decode(file, size), batch))
            pixels = [each for each in decoded if not isinstance(each, str)]
            predictions = iter(model.predict_pixels(np.stack(pixels)) if pixels else ())
            for file, each in zip(batch, decoded, strict=True):
                if isinstance(each, str):
                    yield FilePrediction(file, error=each)
                else:
                    yield FilePrediction(file, next(predictions))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files, with the images of folders. A folder without images is yielded itself."""
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.suffix.lower() in ENDINGS) or [path]
        else:
            yield path


def _decode(file: Path, size: int) -> NDArray[np.uint8] | str:
    """The pixels of a poster, uint8 [3, size, size], or why there are none."""
    if file.is_dir():
        return "The folder has no images."
    try:
        return decode(in_served_format(file.read_bytes()), size)
    except AnimeGenreError as error:
        return str(error)
    except OSError as error:
        return f"The file cannot be read: {error.strerror}."
