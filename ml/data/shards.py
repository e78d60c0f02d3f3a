"""A local cache of array rows on disk, one row per poster, keyed by the poster's sha256.

    FOLDER/{name}.npy       dtype [n, *shape], 1 to `ROWS_PER_SHARD` rows; never changes
    FOLDER/{name}.json      sha256, checksum and notes of each row; written last, so its existence means complete

A shard's name is the hash of the folder's name and of the posters in the shard. All rows in a folder are made in the
same way. If that way changes, use another folder. Every row is compared with its checksum when the folder is opened:
damage by a disk or by a power cut does not change a file's size and time.
"""

import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import DTypeLike, NDArray

from ml.files import locked
from serving.bundle.files import sha256_of, temporary_path

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 2048
FILLED_ROWS = 512
"""Rows of a shard that `fill` adds: a job on a cluster. It is the same wherever rows are computed, so files are, too.
A job takes half a second of CPU time beside its rows: 1 % of 512 posters through ResNet18, 6 % of 100."""
_ARRAY, _INDEX, _PART = ".npy", ".json", ".part"
_STALE_SECONDS = 3600
_MAPPED_SHARDS = 128
_HEADER_LENGTH = slice(8, 10)  # of an array's file in version 1.0 of its format; the header follows

Note = Mapping[str, str]
"""Short texts about a row."""


class Rows:
    """Rows from shards in any order, [N, *shape]; a row is read from disk when it is indexed.

    The index is an integer, a slice, an integer array or a boolean array. The result is always a new array.
    """

    def __init__(self, array: Callable[[int], NDArray[Any]], place: NDArray[np.int64], like: NDArray[Any]) -> None:
        """Row i is row `place[i] % ROWS_PER_SHARD` of `array(place[i] // ROWS_PER_SHARD)`.

        `like` is an array with the shape and dtype of one row.
        """
        self._array, self._place, self._like = array, place, like
        self.shape: tuple[int, ...] = (len(place), *like.shape)
        self.dtype: np.dtype[Any] = like.dtype

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, key: int | np.integer[Any] | slice | NDArray[Any]) -> NDArray[Any]:
        places = np.atleast_1d(self._place[key])
        gathered = np.empty((len(places), *self.shape[1:]), self.dtype)
        # One row at a time: indexing a memory map with an array would copy the rows twice. Shard by shard: each is
        # opened once, however many there are.
        for row in np.argsort(places, kind="stable").tolist():
            shard, place = divmod(int(places[row]), ROWS_PER_SHARD)
            gathered[row] = self._array(shard)[place]
        return gathered[0] if isinstance(key, int | np.integer) else gathered


class ShardWriter:
    """Writes the rows of one shard; several threads may write different rows at the same time."""

    def __init__(self, descriptor: int, start: int, count: int, like: NDArray[Any]) -> None:
        self.shape = like.shape
        self._descriptor, self._start, self._like = descriptor, start, like
        self._checksums: list[int | None] = [None] * count
        self._notes: list[Note] = [{}] * count

    def put(self, first: int, rows: NDArray[Any]) -> None:
        """Write rows [k, *shape], starting at row `first`. Raises OSError if the disk is full."""
        if rows.shape[1:] != self._like.shape or rows.dtype != self._like.dtype:
            raise ValueError(f"Rows are {self._like.dtype} {self._like.shape}, not {rows.dtype} {rows.shape[1:]}.")
        data = np.ascontiguousarray(rows).data.cast("B")
        size = self._like.nbytes
        for place in range(len(rows)):
            self._checksums[first + place] = zlib.crc32(data[place * size : (place + 1) * size])
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self._start + first * size + written)

    def note(self, row: int, note: Note) -> None:
        """Store short texts about a row."""
        self._notes[row] = note

    def index(self, sha256: Sequence[str]) -> "_Index":
        """The index of the written rows. Raises ValueError if a row is missing."""
        checksums = [checksum for checksum in self._checksums if checksum is not None]
        if len(checksums) < len(sha256):
            raise ValueError(f"The row of {sha256[self._checksums.index(None)]} was not written.")
        return _Index(list(sha256), checksums, self._notes)


@dataclass(frozen=True)
class _Index:
    """The index of a shard; each list has one entry per row. The field names are the keys of the file."""

    sha256: list[str]
    crc32: list[int]
    extras: list[Note]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read an index. Raises FileNotFoundError, ValueError, KeyError or TypeError if it is missing or damaged."""
        document = json.loads(file.read_bytes())
        index = cls(document["sha256"], document["crc32"], document["extras"])
        if not len(index.sha256) == len(index.crc32) == len(index.extras):
            raise ValueError("its index is damaged")
        if document.get("index_crc32", index.checksum()) != index.checksum():  # earlier versions wrote no checksum
            raise ValueError("the checksum of its index is wrong")
        return index

    def write(self, file: Path) -> None:
        """Write the index into a file."""
        file.write_text(_compact({**vars(self), "index_crc32": self.checksum()}), encoding="utf-8")

    def checksum(self) -> int:
        """The CRC-32 of the index."""
        return zlib.crc32(_compact(vars(self)).encode())


def _compact(document: Mapping[str, object]) -> str:
    return json.dumps(document, separators=(",", ":"))


class Shards:
    """The shards of a folder: finds, reads and adds rows."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        is_current: Callable[[Note], bool] = lambda note: True,
    ) -> None:
        """Open the complete shards of a folder; `shape` and `dtype` are those of one row.

        A damaged shard (array missing, wrong shape or wrong checksum) is deleted with a warning. Rows whose notes are
        not current count as missing.
        """
        self.folder, self._like, self._is_current = folder, np.empty(shape, dtype), is_current
        self._files: list[Path] = []
        self._notes: list[Sequence[Note]] = []
        # One number per hash: its shard's place in `_files` times `ROWS_PER_SHARD`, plus its row in the shard.
        self._place: dict[str, int] = {}
        # Each map holds an open file.
        self._array = lru_cache(_MAPPED_SHARDS)(partial(_mapped, self._files, self._like))
        if self._open_new():
            with locked(self.folder, "adds rows to"):  # another process may be replacing the damaged shards
                self._open_new(delete_damaged=True)

    def missing(self, sha256: Iterable[str]) -> list[str]:
        """The hashes without a row: sorted, without duplicates."""
        return sorted({each for each in sha256 if each not in self._place})

    @contextmanager
    def adding(self, sha256: Iterable[str]) -> Iterator[list[str]]:
        """Yield the hashes without a row, as `missing` does, for the block to add them.

        One process at a time adds rows to a folder. This one waits for others and then has their rows too.
        """
        wanted = self.missing(sha256)
        if not wanted:
            yield []
            return
        with locked(self.folder, "adds rows to"):
            self._open_new(delete_damaged=True)
            yield self.missing(wanted)

    def notes(self, sha256: Iterable[str]) -> list[Note]:
        """The notes of these rows. Raises KeyError if a row is missing."""
        places = [self._place[each] for each in sha256]
        return [self._notes[place // ROWS_PER_SHARD][place % ROWS_PER_SHARD] for place in places]

    def rows(self, sha256: Sequence[str]) -> Rows:
        """The rows of these hashes, in this order. Raises KeyError if a row is missing."""
        places = np.fromiter((self._place[each] for each in sha256), np.int64, len(sha256))
        return Rows(self._array, places, self._like)

    @contextmanager
    def write(self, sha256: Sequence[str]) -> Iterator[ShardWriter]:
        """Add a shard with one row per hash, at most `ROWS_PER_SHARD`; the block must write all of them.

        Nothing is added if the block raises. The disk space is reserved first.
        """
        if not 0 < len(sha256) <= ROWS_PER_SHARD:
            raise ValueError(f"A shard has 1 to {ROWS_PER_SHARD} rows, not {len(sha256)}.")
        name = sha256_of("\n".join([self.folder.name, *sha256]).encode())[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale_files()
        file = self.folder / f"{name}{_ARRAY}"
        part = temporary_path(file)
        try:
            with part.open("wb") as stream:
                shape = (len(sha256), *self._like.shape)
                descr = np.lib.format.dtype_to_descr(self._like.dtype)
                write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
                stream.flush()
                start, size = stream.tell(), self._like.nbytes * len(sha256)
                if hasattr(os, "posix_fallocate"):  # a full disk fails before the work, not after it
                    os.posix_fallocate(stream.fileno(), 0, start + size)
                writer = ShardWriter(stream.fileno(), start, len(sha256), self._like)
                yield writer
            index = writer.index(sha256)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        index.write(part)
        part.replace(file.with_suffix(_INDEX))
        self._add(file, index)

    def fill(
        self,
        missing: Sequence[str],
        rows_of: Callable[[Sequence[str]], NDArray[Any]],
        batch_size: int,
        on_rows: Callable[[int], None],
    ) -> None:
        """Add the rows of these hashes, shard by shard.

        `rows_of` returns the rows of at most `batch_size` hashes. `on_rows` is called with the number of rows so far.
        """
        for first in range(0, len(missing), FILLED_ROWS):
            hashes = missing[first : first + FILLED_ROWS]
            with self.write(hashes) as shard:
                for begin in range(0, len(hashes), batch_size):
                    rows = rows_of(hashes[begin : begin + batch_size])
                    shard.put(begin, rows)
                    on_rows(first + begin + len(rows))

    def _open_new(self, delete_damaged: bool = False) -> bool:
        """Open the complete shards that are not open yet. Returns whether there are damaged ones."""
        damaged = False
        opened = set(self._files)
        for file in sorted(index.with_suffix(_ARRAY) for index in self.folder.glob(f"*{_INDEX}")):
            if file in opened:
                continue
            try:
                index = _Index.read(file.with_suffix(_INDEX))
                self._check(file, index)
            except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
                damaged = True
                if delete_damaged:
                    _delete(file, error)
            else:
                self._add(file, index)
        return damaged

    def _add(self, file: Path, index: _Index) -> None:
        first = len(self._files) * ROWS_PER_SHARD
        self._files.append(file)
        self._notes.append(index.extras)
        rows = zip(index.sha256, index.extras, strict=True)
        self._place.update({sha256: first + row for row, (sha256, note) in enumerate(rows) if self._is_current(note)})

    def _check(self, file: Path, index: _Index) -> None:
        """Raise ValueError, EOFError or FileNotFoundError if the array is missing or damaged."""
        array = np.load(file, mmap_mode="r")
        expected = (len(index.crc32), *self._like.shape)
        if array.shape != expected or array.dtype != self._like.dtype:
            raise ValueError(f"it holds {array.dtype} {array.shape}, not {self._like.dtype} {expected}")
        for row, checksum in zip(array, index.crc32, strict=True):
            if zlib.crc32(row) != checksum:
                raise ValueError("its checksum is wrong")

    def _remove_stale_files(self) -> None:
        """Remove files that killed processes left behind. Younger files may belong to a running process."""
        arrays = [file for file in self.folder.glob(f"*{_ARRAY}") if not file.with_suffix(_INDEX).exists()]
        for file in (*self.folder.glob(f".*{_PART}"), *arrays):
            with suppress(FileNotFoundError):  # another process has removed it
                if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()


def _mapped(files: Sequence[Path], like: NDArray[Any], shard: int) -> NDArray[Any]:
    """The rows of a checked shard, memory-mapped. `np.load` would take ten times as long, for its header."""
    with files[shard].open("rb") as stream:
        content = mmap(stream.fileno(), 0, access=ACCESS_READ)
    start = _HEADER_LENGTH.stop + int.from_bytes(content[_HEADER_LENGTH], "little")
    return np.frombuffer(content, like.dtype, offset=start).reshape(-1, *like.shape)


def _delete(file: Path, damage: Exception) -> None:
    reason = "its file is missing" if isinstance(damage, FileNotFoundError) else str(damage).rstrip(".")
    logger.warning("The shard %s is damaged: %s. It is deleted and its rows are rebuilt.", file, reason)
    for ending in (_INDEX, _ARRAY):  # the index first: it declares the shard complete
        file.with_suffix(ending).unlink(missing_ok=True)
