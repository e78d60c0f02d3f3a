"""A table of posters of one's own: a csv file and a folder, for those who have posters already."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml.data.decoding import Poster, decode_posters, file_sha256, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.shards import Shards
from ml.data.splits import draw_part, franchise_key, join_franchises
from ml.errors import DatasetError
from ml.reporting import Reporter

SEPARATOR = "|"

_Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """Posters as a table has them, their parts still to be drawn (see `draw_parts`), their franchises those of the
    table; and what the table did not know, a sentence each."""

    posters: tuple[Poster, ...]
    notices: tuple[str, ...]


def read_table(catalogue: Path, folder: Path) -> Table:
    """Read a csv table of posters whose files are in `folder`, or in the folder around it.

    Columns: `file` and `genres` (joined by "|"); an id, which is `id` or else a column ending in `_id`, else
    the file's stem; and, if they are there, `title`, `franchise` and `genre_ids` (parallel to `genres`).
    Raises DatasetError where the table cannot be read, misses columns, has no rows, or none of its files is there.
    """
    rows, columns = _read(catalogue)
    missing = " and ".join(f"'{name}'" for name in ("file", "genres") if name not in columns)
    if missing:
        found = ", ".join(columns) or "none"
        raise DatasetError(f"The table {catalogue} lacks the columns {missing}; its columns are {found}.")
    if not rows:
        raise DatasetError(f"The table {catalogue} has no rows.")
    id_column = _id_column(columns)
    ids = [row[id_column] if id_column else Path(row["file"]).stem for row in rows]
    twice = [id for id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(f"The table {catalogue} has the id '{twice[0]}' more than once.")
    files = [_find(row["file"], folder) for row in rows]
    absent = [row["file"] for row, file in zip(rows, files, strict=True) if file is None]
    if len(absent) == len(rows):
        raise DatasetError(f"None of the {len(rows)} files in the table {catalogue} is in {folder}.")
    notices = _notices(columns, id_column)
    if absent:
        notices.append(f"{len(absent)} of {len(rows)} posters are missing, {absent[0]} is one.")
    posters = tuple(
        Poster(
            id=id,
            title=row.get("title", ""),
            genres=_genres(row, id),
            franchise=row.get("franchise", "") or franchise_key(row.get("title", "")) or id,
            part="",
            file=file,
            sha256=file_sha256(file),
        )
        for row, id, file in zip(rows, ids, files, strict=True)
        if file is not None
    )
    return Table(posters, tuple(notices))


def draw_parts(table: Table, pixels: Shards, reporter: Reporter) -> list[Poster]:
    """The table's posters in their parts: a franchise is in one, and so are posters that look alike.

    What posters look like is known once they are decoded: those with genres that the shards do not know yet are
    decoded here. Raises as `ml.data.decoding.decode_posters`.
    """
    labelled = [poster for poster in table.posters if poster.genres]
    decode_posters({poster.sha256: poster.file for poster in labelled}, pixels, reporter)
    alike = look_alikes(perceptual_hashes(labelled, pixels))
    franchise_of = join_franchises({poster.id: poster.franchise for poster in table.posters}, alike)
    return [
        replace(poster, franchise=franchise_of[poster.id], part=draw_part(franchise_of[poster.id]))
        for poster in table.posters
    ]


def _read(catalogue: Path) -> tuple[list[_Row], list[str]]:
    try:
        with catalogue.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            return list(reader), list(reader.fieldnames or ())
    except OSError as error:
        raise DatasetError(f"The table {catalogue} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"The table {catalogue} is no csv file in UTF-8: {error}.") from error


def _id_column(columns: Sequence[str]) -> str | None:
    return "id" if "id" in columns else next((name for name in columns if name.endswith("_id")), None)


def _find(file: str, folder: Path) -> Path | None:
    """The file in the folder, or, where the table's paths begin with the folder's name, beside it."""
    candidates = (folder / file, folder.parent / file)
    return next((path for path in candidates if file and path.is_file()), None)


def _notices(columns: Sequence[str], id_column: str | None) -> list[str]:
    notices = []
    if id_column is None:
        notices.append("The table has no id: a file's name without its ending is its id.")
    if "franchise" not in columns and "title" not in columns:
        notices.append(
            "The table has no titles and no franchises: each row is its own group, but for posters that look alike."
        )
    if "genre_ids" not in columns:
        notices.append("The table has no genre ids: labels are the names of the genres.")
    return notices


def _genres(row: _Row, id: str) -> tuple[Genre, ...]:
    names = _list(row["genres"])
    if "genre_ids" not in row:
        return tuple(Genre(None, name) for name in names)
    try:
        return tuple(Genre(int(number), name) for number, name in zip(_list(row["genre_ids"]), names, strict=True))
    except ValueError as error:
        raise DatasetError(f"In the row of '{id}' genre_ids are not a number for each genre.") from error


def _list(joined: str) -> list[str]:
    return [entry.strip() for entry in joined.split(SEPARATOR) if entry.strip()]
