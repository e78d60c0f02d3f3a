"""Reads posters from a table and a folder, for people who have posters already."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path

import pandas as pd

from ml.data.decoding import Poster, decode_posters, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.franchise_keys import title_franchises
from ml.data.genre_cells import BAR
from ml.data.genres import Genre
from ml.data.poster_files import find_poster_files
from ml.data.shards import Shards
from ml.data.splits import draw_part, join_franchises, without_suspects
from ml.data.table_cells import dropped_rows, shortened
from ml.data.table_rows import TableOptions, read_rows
from ml.errors import DatasetError
from ml.reporting import Reporter
from serving.bundle.files import sha256_of_file
from serving.bundle.model import available_cpus
from serving.bundle.wording import counted

EXPLICIT, NO_GENRES, POSSIBLE_SIBLING = "explicit title", "unknown genres", "possible sibling of a training title"
_NAMED = 3  # examples in a notice
_CHUNK = 500  # files per task of a thread
_DEFAULTS = TableOptions()


@dataclass(frozen=True)
class Table:
    """The posters of a table, without parts (see `draw_parts`).

    `rows` is the number of rows that were read. `left_out` has the columns id and reason, one row for each row of the
    table that is not in `posters`. `notices` are sentences about decisions and missing values. `named` gives the
    franchise that the table names by id; those of the posters are from titles alone.
    """

    posters: tuple[Poster, ...]
    rows: int
    left_out: pd.DataFrame
    notices: tuple[str, ...]
    named: Mapping[str, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, int]:
        """The number of rows that are left out, by reason."""
        return dict(Counter(self.left_out["reason"]))


def read_table(catalogue: Path, folder: Path, options: TableOptions = _DEFAULTS) -> Table:
    """Read a table of posters (see `ml.data.table_rows`) and find its files in a folder.

    Rows without genres, explicit titles and rows whose file is missing or cannot be read are left out. Raises
    DatasetError if the table or the folder cannot be read, or if no row is left.
    """
    table = read_rows(_read(catalogue), str(catalogue), options)
    rows = table.rows
    files = find_poster_files(rows, folder)
    reasons = list(files.reasons)
    for place, (genres, explicit) in enumerate(zip(rows["genres"], rows["explicit"], strict=True)):
        reasons[place] = EXPLICIT if explicit else reasons[place] or ("" if genres else NO_GENRES)
    paths = [folder / name if name else None for name in files.names]
    usable = [None if reason else path for reason, path in zip(reasons, paths, strict=True)]
    with ThreadPoolExecutor(available_cpus()) as pool:
        chunks = pool.map(_hash_files, [usable[start : start + _CHUNK] for start in range(0, len(usable), _CHUNK)])
        hashes = [each for chunk in chunks for each in chunk]
    franchise_of = title_franchises(dict(zip(rows["id"], rows["title"], strict=True)))
    posters = []
    cells = (rows[name].to_numpy(object) for name in ("id", "title", "genres", "genre_ids"))
    for place, (id, title, genres, genre_ids) in enumerate(zip(*cells, strict=True)):
        path, (sha256, error) = paths[place], hashes[place]
        reasons[place] = reasons[place] or error
        if not reasons[place] and path is not None:
            posters.append(Poster(id, title, _genres(genres, genre_ids), franchise_of[id], "", path, sha256))
    left_out = dropped_rows(list(rows["id"]), reasons)
    left_out = pd.concat([table.dropped, left_out[left_out["reason"] != ""]], ignore_index=True)
    notices = [*table.notices, *files.notices]
    if not (rows["title"] != "").any() and not (rows["franchise"] != "").any():
        notices.append(
            "The table has no titles and no franchises: each row is its own group, except for posters that look alike."
        )
    named = {id: name for id, name in zip(rows["id"], rows["franchise"], strict=True) if name}
    result = Table(tuple(posters), len(rows) + len(table.dropped), left_out, tuple(notices), named)
    if not posters:
        raise DatasetError(
            f"No row of the table {catalogue} can be learned from. Correct the rows or the folder of posters.",
            "\n".join(f"{count} rows: {reason}" for reason, count in result.reasons().items()),
        )
    return replace(result, notices=(*notices, *_left_out_notices(result)))


def draw_parts(table: Table, pixels: Shards, reporter: Reporter) -> list[Poster]:
    """Draw the part of each poster: a franchise is in one part, and so are posters that look alike.

    Rows are one franchise if the table names the same one for them, or if their titles do: a table seldom names the
    franchise of all rows.

    Posters with genres are decoded if the cache lacks them. Raises as `ml.data.decoding.decode_posters`.
    """
    labelled = [poster for poster in table.posters if poster.genres]
    decode_posters({poster.sha256: poster.file for poster in labelled}, pixels, reporter)
    alike = look_alikes(perceptual_hashes({poster.id: poster.sha256 for poster in labelled}, pixels))
    first: dict[str, str] = {}
    related = ((first.setdefault(franchise, id), id) for id, franchise in table.named.items())
    franchise_of = join_franchises({poster.id: poster.franchise for poster in table.posters}, chain(related, alike))
    parts = {id: draw_part(franchise) for id, franchise in franchise_of.items()}
    title_of = {poster.id: poster.title for poster in table.posters}
    parts = without_suspects(parts, title_of, franchise_of, named=table.named)
    return [replace(poster, franchise=franchise_of[poster.id], part=parts[poster.id]) for poster in table.posters]


def _read(catalogue: Path) -> bytes:
    try:
        return catalogue.read_bytes()
    except OSError as error:
        raise DatasetError(f"The table {catalogue} cannot be read: {error.strerror}.") from error


def _hash_files(paths: Sequence[Path | None]) -> list[tuple[str, str]]:
    """The sha256 of each file, or the reason why it cannot be read."""
    return [_hash_file(path) if path is not None else ("", "") for path in paths]


def _hash_file(path: Path) -> tuple[str, str]:
    try:
        return sha256_of_file(path), ""
    except OSError as error:
        return "", f"file cannot be read: {error.strerror}"


@lru_cache(maxsize=10_000)
def _genres(joined: str, joined_ids: str) -> tuple[Genre, ...]:
    names = joined.split(BAR)
    ids = [int(id) if id else None for id in joined_ids.split(BAR)] if joined_ids else [None] * len(names)
    return tuple(Genre(id, name) for id, name in zip(ids, names, strict=True))


def _left_out_notices(table: Table) -> list[str]:
    """How many rows are left out, by reason, with the first ids."""
    notices = []
    for reason, count in table.reasons().items():
        ids = table.left_out["id"][table.left_out["reason"] == reason].iloc[:_NAMED]
        more = ", ..." if count > _NAMED else ""
        notices.append(
            f"Left out: {count} of {counted(table.rows, 'row')} ({reason}): {shortened(', '.join(ids))}{more}."
        )
    return notices
