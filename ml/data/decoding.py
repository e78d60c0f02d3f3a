"""Decodes poster files into pixels, in parallel; each poster is decoded once and cached in shards."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.data.duplicates import perceptual_hash, thumbnail
from ml.data.genres import Genre
from ml.data.shards import ROWS_PER_SHARD, Note, Shards, ShardWriter
from ml.data.table_images import READABLE_FORMATS, in_served_format
from ml.errors import DatasetError
from ml.reporting import Reporter
from serving.bundle.errors import PosterError
from serving.bundle.files import sha256_of
from serving.bundle.image import decode
from serving.bundle.model import available_cpus

PREPROCESSING_VERSION = 1
"""Increment if the same file gives different pixels than before."""
_HASH, _BROKEN, _FORMATS = "hash", "broken", "formats"
_CHUNK = 16  # posters per thread pool task


@dataclass(frozen=True)
class Poster:
    """A poster on disk and the metadata of its title.

    `part` is train, validation, test or left_out, and "" before it is drawn; `sha256` is the hash of the file.
    """

    id: str
    title: str
    genres: tuple[Genre, ...]
    franchise: str
    part: str
    file: Path
    sha256: str


def open_pixels(workspace: Path, size: int) -> Shards:
    """The workspace's cache of decoded posters, uint8 [3, size, size] each."""
    folder = workspace / "pixels" / f"{size}-v{PREPROCESSING_VERSION}"
    return Shards(folder, (3, size, size), np.uint8, _is_current)


def _is_current(note: Note) -> bool:
    """Whether a row is what decoding would give today; earlier versions read fewer formats, or did not note them."""
    return _BROKEN not in note or note.get(_FORMATS) == READABLE_FORMATS


def decode_posters(files: Mapping[str, Path], pixels: Shards, reporter: Reporter) -> None:
    """Decode the posters that the cache lacks; `files` gives each poster's file by its sha256.

    If a poster cannot be decoded, the cache stores the reason. It is decoded again only when other formats can be read.
    Raises DatasetError if a file is missing or its sha256 differs.
    """
    threads = available_cpus()
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    # Pillow releases the interpreter's lock while it decodes and resizes, so threads are enough. The perceptual hashes
    # hold the lock. They are computed after the threads: in between, threads would wait for each other too often.
    with pixels.adding(files) as missing, ThreadPoolExecutor(threads) as pool:
        if missing:
            reporter.progress(0, len(missing), "decoding posters", "posters")
        for start in range(0, len(missing), ROWS_PER_SHARD):
            hashes = missing[start : start + ROWS_PER_SHARD]
            chunks = [range(len(hashes))[first : first + _CHUNK] for first in range(0, len(hashes), _CHUNK)]
            with pixels.write(hashes) as shard:
                for _ in range(threads if buffers.empty() else 0):
                    buffers.put(np.empty((_CHUNK, *shard.shape), np.uint8))
                decode_chunk = partial(_decode_chunk, [(files[each], each) for each in hashes], shard, buffers)
                decoded: list[Image.Image | str] = []
                for chunk in pool.map(decode_chunk, chunks):
                    decoded += chunk
                    reporter.progress(start + len(decoded), len(missing), "decoding posters", "posters")
                for row, small in enumerate(decoded):
                    broken = {_BROKEN: str(small), _FORMATS: READABLE_FORMATS}
                    shard.note(row, broken if isinstance(small, str) else {_HASH: perceptual_hash(small)})


def is_decoded(note: Note) -> bool:
    """Whether the pixels of a poster are in its row, by the row's note; the row of a broken poster is 0."""
    return _BROKEN not in note


def broken_posters(posters: Sequence[Poster], pixels: Shards) -> dict[str, str]:
    """The reason, by id, of each poster that could not be decoded."""
    notes = _notes({poster.id: poster.sha256 for poster in posters}, pixels)
    return {id: note[_BROKEN] for id, note in notes if _BROKEN in note}


def perceptual_hashes(sha256_of_title: Mapping[str, str], pixels: Shards) -> dict[str, str]:
    """The perceptual hash of each poster by id, "" for flat and broken posters (see `ml.data.duplicates`).

    `sha256_of_title` gives the sha256 of each poster's file by id.
    """
    return {id: note.get(_HASH, "") for id, note in _notes(sha256_of_title, pixels)}


def _notes(sha256_of_title: Mapping[str, str], pixels: Shards) -> Iterable[tuple[str, Note]]:
    return zip(sha256_of_title, pixels.notes(sha256_of_title.values()), strict=True)


def _decode_chunk(
    files: Sequence[tuple[Path, str]],
    shard: ShardWriter,
    buffers: "SimpleQueue[NDArray[np.uint8]]",
    rows: range,
) -> list[Image.Image | str]:
    """Decode some of a shard's files (path and sha256) into their rows.

    Returns each poster's thumbnail, or the reason why it could not be decoded.
    """
    decoded: list[Image.Image | str] = []
    buffer = buffers.get()  # buffers are reused: fresh memory costs a tenth of the time
    try:
        for row, pixels in zip(rows, buffer, strict=False):
            data = _read(*files[row])
            try:
                decoded.append(thumbnail(decode(in_served_format(data), pixels.shape[-1], pixels)))
            except PosterError as error:
                pixels[:] = 0
                decoded.append(str(error))
        shard.put(rows.start, buffer[: len(rows)])
    finally:
        buffers.put(buffer)
    return decoded


def _read(file: Path, sha256: str) -> bytes:
    """A poster's file. Raises DatasetError if it is missing or its sha256 differs from the recorded one."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}): download it again.") from error
    if sha256_of(data) != sha256:
        raise DatasetError(f"{file} does not have the recorded sha256: download it again.")
    return data
