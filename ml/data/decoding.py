"""Posters become pixels: image files, decoded side by side into shards, each once."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
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
from ml.data.shards import ROWS_PER_SHARD, Extra, Shards, ShardWriter
from ml.errors import DatasetError
from ml.reporting import Reporter
from serving.bundle.errors import PosterError
from serving.bundle.image import decode
from serving.bundle.model import available_cpus

PREPROCESSING_VERSION = 1
"""To be raised whenever the same file would give other pixels than before."""
_HASH, _BROKEN = "hash", "broken"
_CHUNK = 16  # posters a thread takes at a time


@dataclass(frozen=True)
class Poster:
    """A title's poster on disk, and what is known about the title.

    `part` is train, validation, test or left_out, "" before it is drawn; `sha256` is that of the file.
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


def pixels_folder(workspace: Path, size: int) -> Path:
    """Where a workspace keeps the pixels of posters, `size` x `size`."""
    return workspace / "pixels" / f"{size}-v{PREPROCESSING_VERSION}"


def open_pixels(folder: Path, *, only: Iterable[str] | None = None, elsewhere: Collection[str] = ()) -> Shards:
    """The shards, uint8 [3, size, size], of a `pixels_folder`; `only` and `elsewhere` as in `Shards`."""
    size = int(folder.name.partition("-")[0])
    return Shards(folder, (3, size, size), np.uint8, only=only, elsewhere=elsewhere)


def decode_posters(posters: Sequence[Poster], pixels: Shards, reporter: Reporter) -> None:
    """Decode those posters that the shards do not know yet.

    A poster that cannot be decoded is remembered with the reason, so that it is not tried again. Raises DatasetError
    for a file that is not there or not the one that was recorded. Pillow lets go of the interpreter's lock while it
    decodes and resizes, so threads do; the hashes, which need the lock all the time, wait for the shard's end: beside
    each other, threads that take turns so often lose more than they gain.
    """
    file_of = {poster.sha256: poster.file for poster in posters}
    missing = pixels.missing(file_of)
    threads = available_cpus()
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(missing), ROWS_PER_SHARD):
            hashes = missing[start : start + ROWS_PER_SHARD]
            chunks = [range(len(hashes))[first : first + _CHUNK] for first in range(0, len(hashes), _CHUNK)]
            with pixels.write(hashes) as shard:
                for _ in range(threads if buffers.empty() else 0):
                    buffers.put(np.empty((_CHUNK, *shard.shape), np.uint8))
                decode_chunk = partial(_decode_chunk, [file_of[sha256] for sha256 in hashes], hashes, shard, buffers)
                seen: list[Image.Image | str] = []
                for chunk in pool.map(decode_chunk, chunks):
                    seen += chunk
                    reporter.progress(start + len(seen), len(missing), "decoding posters")
                for row, small in enumerate(seen):
                    shard.note(row, {_BROKEN: small} if isinstance(small, str) else {_HASH: perceptual_hash(small)})


def broken_posters(posters: Sequence[Poster], pixels: Shards) -> dict[str, str]:
    """The reason by the id of each poster that could not be decoded."""
    return {id: extra[_BROKEN] for id, extra in _extras(posters, pixels) if _BROKEN in extra}


def perceptual_hashes(posters: Sequence[Poster], pixels: Shards) -> dict[str, str]:
    """The perceptual hash by the id of each decoded poster, "" of a flat or broken one (see `ml.data.duplicates`)."""
    return {id: extra.get(_HASH, "") for id, extra in _extras(posters, pixels)}


def _extras(posters: Sequence[Poster], pixels: Shards) -> Iterable[tuple[str, Extra]]:
    extras = pixels.extras([poster.sha256 for poster in posters])
    return zip([poster.id for poster in posters], extras, strict=True)


def _decode_chunk(
    files: Sequence[Path],
    hashes: Sequence[str],
    shard: ShardWriter,
    buffers: "SimpleQueue[NDArray[np.uint8]]",
    rows: range,
) -> list[Image.Image | str]:
    """Decode some of a shard's files into their rows; gives each one's thumbnail, or why it cannot be used.

    The pixels come into a buffer that is used again and again: fresh memory would cost a tenth of the time.
    """
    seen: list[Image.Image | str] = []
    buffer = buffers.get()
    try:
        for row, pixels in zip(rows, buffer, strict=False):
            data = _read(files[row], hashes[row])
            try:
                seen.append(thumbnail(decode(data, pixels.shape[-1], pixels)))
            except PosterError as error:
                pixels[:] = 0
                seen.append(str(error))
        shard.put(rows.start, buffer[: len(rows)])
    finally:
        buffers.put(buffer)
    return seen


def _read(file: Path, sha256: str) -> bytes:
    """The poster's file, whose sha256 has to be the recorded one: that of the dataset's key."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror}): fetch it again.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DatasetError(f"{file} is not the file whose sha256 was recorded: fetch it again.")
    return data
