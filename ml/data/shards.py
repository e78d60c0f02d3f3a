"""Rows of arrays on disk, each kept once, by the sha256 of the poster that it was made of.

    FOLDER/{name}.npy       dtype [n, *shape], at most `ROWS_PER_SHARD` rows, which never change
    FOLDER/{name}.json      sha256, checksum and extras of each row; written last, its existence means done
    FOLDER/{name}.checked   size and time of the .npy when it was last found whole; belongs to this machine

A shard is named by the hash of its folder's name and of the posters in it, so the same posters make the same
shards on any machine. What is kept in a folder has to be the same for all its rows: a change of how rows are made
is a new folder.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import DTypeLike, NDArray

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 2048
ARRAY, INDEX = ".npy", ".json"
_CHECKED, _PART = ".checked", ".part"
_LEFT_BEHIND_SECONDS = 3600

Extra = Mapping[str, str]
"""Small texts about a row."""


class Rows:
    """Rows gathered from shards in any order: [N, *shape], of which only what is asked for is read.

    Indexed by a whole number, a slice, or an array of rows or of yes and no; each gives a new array.
    """

    def __init__(self, arrays: Mapping[int, NDArray[Any]], place: NDArray[np.int64], like: NDArray[Any]) -> None:
        """Row i is row `place[i] % ROWS_PER_SHARD` of `arrays[place[i] // ROWS_PER_SHARD]`; `like` is an array of
        one row's shape and dtype."""
        self._arrays, self._place, self._like = arrays, place, like
        self.shape: tuple[int, ...] = (len(place), *like.shape)
        self.dtype: np.dtype[Any] = like.dtype

    def __len__(self) -> int:
        return len(self._place)

    def only(self, rows: NDArray[np.int64]) -> "Rows":
        """These rows alone, none of which is read for it."""
        return Rows(self._arrays, self._place[rows], self._like)

    def __getitem__(self, key: int | np.integer[Any] | slice | NDArray[Any]) -> NDArray[Any]:
        places = np.atleast_1d(self._place[key])
        gathered = np.empty((len(places), *self.shape[1:]), self.dtype)
        # A row at a time: indexing a memory map by an array would copy the rows twice.
        for own, place in zip(gathered, places.tolist(), strict=True):
            own[...] = self._arrays[place // ROWS_PER_SHARD][place % ROWS_PER_SHARD]
        return gathered[0] if isinstance(key, int | np.integer) else gathered


class ShardWriter:
    """A shard while it is written; threads may put different rows at the same time."""

    def __init__(self, descriptor: int, start: int, count: int, like: NDArray[Any]) -> None:
        self.shape = like.shape
        self._descriptor, self._start, self._like = descriptor, start, like
        self._checksums: list[int | None] = [None] * count
        self._extras: list[Extra] = [{}] * count

    def put(self, first: int, rows: NDArray[Any]) -> None:
        """Write rows [k, *shape] from row `first` on; OSError where the disk is full."""
        if rows.shape[1:] != self._like.shape or rows.dtype != self._like.dtype:
            raise ValueError(f"Rows are {self._like.dtype} {self._like.shape}, not {rows.dtype} {rows.shape[1:]}.")
        data = np.ascontiguousarray(rows).data.cast("B")
        size = self._like.nbytes
        for place in range(len(rows)):
            self._checksums[first + place] = zlib.crc32(data[place * size : (place + 1) * size])
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self._start + first * size + written)

    def note(self, row: int, extra: Extra) -> None:
        """Keep small texts about a row."""
        self._extras[row] = extra

    def index(self, sha256: Sequence[str]) -> "_Index":
        """What the index says of the rows; ValueError where a row was not put."""
        for own, checksum in zip(sha256, self._checksums, strict=True):
            if checksum is None:
                raise ValueError(f"The row of {own} was not written.")
        return _Index(list(sha256), [checksum for checksum in self._checksums if checksum is not None], self._extras)


@dataclass(frozen=True)
class _Index:
    """What is known of a shard's rows, an entry a row in each list."""

    sha256: list[str]
    crc32: list[int]
    extras: list[Extra]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read an index; FileNotFoundError, ValueError, KeyError or TypeError where it is none."""
        document = json.loads(file.read_bytes())
        index = cls(document["sha256"], document["crc32"], document["extras"])
        if not len(index.sha256) == len(index.crc32) == len(index.extras):
            raise ValueError("its index is damaged")
        return index


class Shards:
    """The shards of a folder: which rows they hold, and how to read and to add rows."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        only: Iterable[str] | None = None,
        elsewhere: Collection[str] = (),
    ) -> None:
        """Open the shards of a folder, all of them or `only` these.

        Those of `elsewhere` are known by their index alone while their array is not here yet. Any other whose array
        is missing, of another shape or has another checksum is dropped, which is said in a warning. The checksum is
        read where size or time of the file differ from when it was last found whole.
        """
        self.folder, self._like = folder, np.empty(shape, dtype)
        self._names: list[str] = []
        self._extras: list[Sequence[Extra]] = []
        # Shard and row of a hash in one number: `ROWS_PER_SHARD` to a shard, in the order of `_names`.
        self._place: dict[str, int] = {}
        self._arrays: dict[int, NDArray[Any]] = {}
        names = sorted(only) if only is not None else sorted(index.stem for index in folder.glob(f"*{INDEX}"))
        for name in names:
            self._open(name, name in elsewhere)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._place

    def missing(self, sha256: Iterable[str]) -> list[str]:
        """Those of the hashes without a row, each once and in the order in which they are to be written."""
        return sorted({each for each in sha256 if each not in self._place})

    def extras(self, sha256: Iterable[str]) -> list[Extra]:
        """The small texts about these rows; KeyError where there is no such row."""
        places = [self._place[each] for each in sha256]
        return [self._extras[place // ROWS_PER_SHARD][place % ROWS_PER_SHARD] for place in places]

    def names(self, sha256: Iterable[str]) -> list[str]:
        """The shards that hold these rows; KeyError where there is no such row."""
        return sorted(self._names[shard] for shard in {self._place[each] // ROWS_PER_SHARD for each in sha256})

    def absent(self, sha256: Iterable[str]) -> list[str]:
        """The shards that hold these rows but whose array is not here (see `elsewhere`)."""
        return [name for name in self.names(sha256) if not self.file(name).exists()]

    def file(self, name: str, ending: str = ARRAY) -> Path:
        """A file of a shard: its `ARRAY` or its `INDEX`."""
        return self.folder / f"{name}{ending}"

    def rows(self, sha256: Sequence[str]) -> Rows:
        """The rows of these hashes in this order, from shards that are here; KeyError where there is no such row."""
        places = np.fromiter((self._place[each] for each in sha256), np.int64, len(sha256))
        for shard in np.unique(places // ROWS_PER_SHARD).tolist():
            if shard not in self._arrays:
                # A plain array: each row that is taken of a np.memmap would be one, too, which is slow.
                self._arrays[shard] = np.asarray(np.load(self.file(self._names[shard]), mmap_mode="r"))
        return Rows(self._arrays, places, self._like)

    @contextmanager
    def write(self, sha256: Sequence[str]) -> Iterator[ShardWriter]:
        """Add a shard with a row for each of these hashes, at most `ROWS_PER_SHARD`; all of them are to be put.

        Nothing is added where the block ends with an error. The disk's space is taken beforehand.
        """
        if not 0 < len(sha256) <= ROWS_PER_SHARD:
            raise ValueError(f"A shard has 1 to {ROWS_PER_SHARD} rows, not {len(sha256)}.")
        name = hashlib.sha256("\n".join([self.folder.name, *sha256]).encode()).hexdigest()[:32]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tidy()
        part = self.folder / f".{name}{_PART}"
        try:
            with part.open("wb") as stream:
                shape = (len(sha256), *self._like.shape)
                descr = np.lib.format.dtype_to_descr(self._like.dtype)
                write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
                stream.flush()
                start, size = stream.tell(), self._like.nbytes * len(sha256)
                if hasattr(os, "posix_fallocate"):  # a disk that is full is known before the work, not after it
                    os.posix_fallocate(stream.fileno(), 0, start + size)
                writer = ShardWriter(stream.fileno(), start, len(sha256), self._like)
                yield writer
            index = writer.index(sha256)
            part.replace(self.file(name))
        finally:
            part.unlink(missing_ok=True)
        self.file(name, _CHECKED).write_text(_stamp(self.file(name)))
        part.write_text(json.dumps(vars(index), separators=(",", ":")), encoding="utf-8")
        part.replace(self.file(name, INDEX))
        self._know(name, index)

    def _open(self, name: str, elsewhere: bool) -> None:
        try:
            index = _Index.read(self.file(name, INDEX))
            if not (elsewhere and not self.file(name).exists()):
                self._check(name, index)
        except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError) as error:
            logger.warning("The shard %s is dropped, and its rows are made anew: %s.", self.file(name), _said(error))
            for ending in (INDEX, _CHECKED, ARRAY):  # the index first: it says that the others are there
                self.file(name, ending).unlink(missing_ok=True)
            return
        self._know(name, index)

    def _know(self, name: str, index: _Index) -> None:
        first = len(self._names) * ROWS_PER_SHARD
        self._names.append(name)
        self._extras.append(index.extras)
        self._place.update(zip(index.sha256, range(first, first + len(index.sha256)), strict=True))

    def _check(self, name: str, index: _Index) -> None:
        """ValueError, EOFError or FileNotFoundError where the array is not the one that was written."""
        checked, stamp = self.file(name, _CHECKED), _stamp(self.file(name))
        if checked.exists() and checked.read_text() == stamp:
            return
        array = np.load(self.file(name), mmap_mode="r")
        expected = (len(index.crc32), *self._like.shape)
        if array.shape != expected or array.dtype != self._like.dtype:
            raise ValueError(f"it holds {array.dtype} {array.shape}, not {self._like.dtype} {expected}")
        for row, checksum in zip(array, index.crc32, strict=True):
            if zlib.crc32(row) != checksum:
                raise ValueError("its checksum is another one than when it was written")
        checked.write_text(stamp)

    def _tidy(self) -> None:
        """Remove what builds that were killed left behind; what is younger may be another one's work."""
        arrays = [file for file in self.folder.glob(f"*{ARRAY}") if not file.with_suffix(INDEX).exists()]
        for file in (*self.folder.glob(f".*{_PART}"), *arrays):
            if time.time() - file.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                file.unlink(missing_ok=True)


def _stamp(file: Path) -> str:
    """Size and time of a file: while they stay, its content does (so git's index has it, too)."""
    stat = file.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _said(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "its file is missing"
    return str(error).rstrip(".")
