"""Reads posters from a table and a folder, for people who have posters already."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ml.data.decoding import Poster, decode_posters, file_sha256, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.poster_files import find_poster_files
from ml.data.shards import Shards
from ml.data.splits import draw_part, franchise_key, join_franchises
from ml.data.table_rows import TableOptions, read_rows
from ml.errors import DatasetError
from ml.reporting import Reporter
from serving.bundle.model import available_cpus

EXPLICIT, NO_GENRES = "explicit title", "unknown genres"
_NAMED = 3  # examples in a notice


@dataclass(frozen=True)
class Table:
    """The posters of a table, without parts (see `draw_parts`).

    `rows` is the number of rows that were read. `left_out` has the columns id and reason, one row for each row of the
    table that is not in `posters`. `notices` are sentences about decisions and missing values.
    """

    posters: tuple[Poster, ...]
    rows: int
    left_out: pd.DataFrame
    notices: tuple[str, ...]

    def reasons(self) -> dict[str, int]:
        """The number of rows that are left out, by reason."""
        return dict(Counter(self.left_out["reason"]))


def read_table(catalogue: Path, folder: Path, options: TableOptions | None = None) -> Table:
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
    with ThreadPoolExecutor(available_cpus()) as pool:
        usable = [None if reason else path for reason, path in zip(reasons, files.paths, strict=True)]
        hashes = list(pool.map(_sha256, usable))
    posters = []
    for place, row in enumerate(rows.to_dict("records")):
        path, (sha256, error) = files.paths[place], hashes[place]
        reasons[place] = reasons[place] or error
        if not reasons[place] and path is not None:
            franchise = row["franchise"] or franchise_key(row["title"]) or row["id"]
            posters.append(Poster(row["id"], row["title"], _genres(row), franchise, "", path, sha256))
    left_out = pd.DataFrame({"id": list(rows["id"]), "reason": reasons}, dtype=str)
    left_out = pd.concat([table.dropped, left_out[left_out["reason"] != ""]], ignore_index=True)
    notices = [*table.notices, *files.notices]
    if not (rows["title"] != "").any() and not (rows["franchise"] != "").any():
        notices.append(
            "The table has no titles and no franchises: each row is its own group, except for posters that look alike."
        )
    result = Table(tuple(posters), len(rows) + len(table.dropped), left_out, tuple(notices))
    if not posters:
        counts = ", ".join(f"{count} {reason}" for reason, count in result.reasons().items())
        raise DatasetError(f"No row of the table {catalogue} can be learned from: {counts}.")
    return replace(result, notices=(*notices, *_left_out_notices(result)))


def draw_parts(table: Table, pixels: Shards, reporter: Reporter) -> list[Poster]:
    """Draw the part of each poster: a franchise is in one part, and so are posters that look alike.

    Posters with genres are decoded if the cache lacks them. Raises as `ml.data.decoding.decode_posters`.
    """
    labelled = [poster for poster in table.posters if poster.genres]
    decode_posters({poster.sha256: poster.file for poster in labelled}, pixels, reporter)
    alike = look_alikes(perceptual_hashes(labelled, pixels))
    franchise_of = join_franchises({poster.id: poster.franchise for poster in table.posters}, alike)
    return [
        replace(poster, franchise=franchise_of[poster.id], part=draw_part(franchise_of[poster.id]))
        for poster in table.posters
    ]


def _read(catalogue: Path) -> bytes:
    try:
        return catalogue.read_bytes()
    except OSError as error:
        raise DatasetError(f"The table {catalogue} cannot be read: {error.strerror}.") from error


def _sha256(path: Path | None) -> tuple[str, str]:
    """The sha256 of a file, or the reason why it cannot be read."""
    if path is None:
        return "", ""
    try:
        return file_sha256(path), ""
    except OSError as error:
        return "", f"file cannot be read: {error.strerror}"


def _genres(row: dict[str, str]) -> tuple[Genre, ...]:
    names = row["genres"].split("|")
    ids = [int(id) for id in row["genre_ids"].split("|")] if row["genre_ids"] else [None] * len(names)
    return tuple(Genre(id, name) for id, name in zip(ids, names, strict=True))


def _left_out_notices(table: Table) -> list[str]:
    """How many rows are left out, by reason, with the first ids."""
    notices = []
    for reason, count in table.reasons().items():
        ids = table.left_out["id"][table.left_out["reason"] == reason].iloc[:_NAMED]
        more = ", ..." if count > _NAMED else ""
        notices.append(f"{count} of {table.rows} rows are left out ({reason}): {', '.join(ids)}{more}.")
    return notices
