"""Posters become pixels: many image files, decoded side by side into one array."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.errors import DatasetError
from ml.genres import Genre
from ml.reporting import Reporter
from serving.function.errors import PosterError
from serving.function.image import decode
from serving.function.model import available_cpus


@dataclass(frozen=True)
class Poster:
    """A title's poster on disk, and what is known about the title.

    `part` is train, validation, test or left_out; `sha256` is that of the file.
    """

    id: str
    title: str
    genres: tuple[Genre, ...]
    franchise: str
    part: str
    file: Path
    sha256: str


def file_sha256(file: Path) -> str:
    """The sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def decode_posters(posters: Sequence[Poster], images: NDArray[np.uint8], reporter: Reporter) -> dict[str, str]:
    """Decode each poster into its row of `images`, uint8 [N, 3, size, size].

    Gives the reason why a poster could not be used by its id; the pixels of such a row mean nothing. Raises
    DatasetError for a file that is not there or not the one that was recorded. Pillow lets go of the
    interpreter's lock while it decodes and resizes, so threads are as fast as processes.
    """
    broken: dict[str, str] = {}

    def decode_row(row: int) -> str | None:
        data = _read(posters[row])
        try:
            images[row] = decode(data, images.shape[-1])
        except PosterError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(available_cpus()) as pool:
        for row, reason in enumerate(pool.map(decode_row, range(len(posters)))):
            if reason is not None:
                broken[posters[row].id] = reason
            reporter.progress(row + 1, len(posters), "decoding posters")
    return broken


def _read(poster: Poster) -> bytes:
    """The poster's file, whose sha256 has to be the recorded one: that of the dataset's key."""
    try:
        data = poster.file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{poster.file} cannot be read ({error.strerror}): fetch it again.") from error
    if hashlib.sha256(data).hexdigest() != poster.sha256:
        raise DatasetError(f"{poster.file} is not the file whose sha256 was recorded: fetch it again.")
    return data
