"""Reads posters from a CSV table and a folder, for people who have posters already."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ml.data.decoding import Poster, decode_posters, file_sha256, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.shards import Shards
from ml.data.splits import draw_part, franchise_key, join_franchises
from ml.errors import DatasetError
from ml.reporting import Reporter

SEPARATOR = "|"


@dataclass(frozen=True)
class Table:
    """The posters of a table, without parts (see `draw_parts`), and notices about missing columns and files."""

    posters: tuple[Poster, ...]
    notices: tuple[str, ...]


def read_table(catalogue: Path, folder: Path) -> Table:
    """Read a CSV table of posters; the files are in `folder` or in its parent folder.

    Required columns are `file` and `genres` (joined by "|"). The id is the column `id`, or the first column that ends
    in `_id`, or the file name without its extension. Optional columns are `title`, `franchise` and `genre_ids`
    (parallel to `genres`). Raises DatasetError if the table cannot be read, lacks a required column, has no rows,
    repeats an id, or if no file exists.
    """
    table = _read(catalogue)
    columns = list(table)
    if missing := " and ".join(f"'{name}'" for name in ("file", "genres") if name not in columns):
        raise DatasetError(f"The table {catalogue} lacks the columns {missing}; its columns are {', '.join(columns)}.")
    if table.empty:
        raise DatasetError(f"The table {catalogue} has no rows.")
    id_column = _id_column(columns)
    notices = _notices(columns, id_column)
    table["id"] = table[id_column] if id_column else [Path(file).stem for file in table["file"]]
    for name in ("title", "franchise"):
        if name not in columns:
            table[name] = ""
    if (repeated := table["id"][table["id"].duplicated()]).size:
        raise DatasetError(f"The table {catalogue} contains the id '{repeated.iloc[0]}' more than once.")
    paths = [_find(file, folder) for file in table["file"]]
    absent = [file for file, path in zip(table["file"], paths, strict=True) if path is None]
    if len(absent) == len(table):
        raise DatasetError(f"None of the {len(table)} files of the table {catalogue} is in {folder}.")
    if absent:
        notices.append(f"{len(absent)} of {len(table)} posters are missing, for example {absent[0]}.")
    posters = tuple(
        Poster(
            id=row["id"],
            title=row["title"],
            genres=_genres(row),
            franchise=row["franchise"] or franchise_key(row["title"]) or row["id"],
            part="",
            file=path,
            sha256=file_sha256(path),
        )
        for row, path in zip(table.to_dict("records"), paths, strict=True)
        if path is not None
    )
    return Table(posters, tuple(notices))


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


def _read(catalogue: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(catalogue, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"The table {catalogue} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not UTF-8, or not CSV
        raise DatasetError(f"The table {catalogue} is not a CSV file in UTF-8: {str(error).strip()}.") from error


def _id_column(columns: Sequence[str]) -> str | None:
    return "id" if "id" in columns else next((name for name in columns if name.endswith("_id")), None)


def _find(file: str, folder: Path) -> Path | None:
    """The path of a file in the folder, or in the parent folder if the table's paths include the folder's name."""
    candidates = (folder / file, folder.parent / file)
    return next((path for path in candidates if file and path.is_file()), None)


def _notices(columns: Sequence[str], id_column: str | None) -> list[str]:
    notices = []
    if id_column is None:
        notices.append("The table has no id column: file names without their extensions are the ids.")
    if "franchise" not in columns and "title" not in columns:
        notices.append(
            "The table has no titles and no franchises: each row is its own group, except for posters that look alike."
        )
    if "genre_ids" not in columns:
        notices.append("The table has no genre ids: genres are identified by their names.")
    return notices


def _genres(row: dict[str, str]) -> tuple[Genre, ...]:
    names = _split(row["genres"])
    if "genre_ids" not in row:
        return tuple(Genre(None, name) for name in names)
    try:
        return tuple(Genre(int(number), name) for number, name in zip(_split(row["genre_ids"]), names, strict=True))
    except ValueError as error:
        raise DatasetError(f"The row of '{row['id']}' does not have one numeric genre id per genre.") from error


def _split(joined: str) -> list[str]:
    return [entry.strip() for entry in joined.split(SEPARATOR) if entry.strip()]
