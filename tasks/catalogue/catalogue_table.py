"""The summary table: records of many pages become one row a title, in catalogue.csv and back."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from infra.files import moved_in
from tasks.catalogue.seasons import parse_season, season_of_date
from tasks.catalogue.titles import AnimeRecord, Related
from tasks.errors import CatalogueError

COLUMNS = tuple(field.name for field in fields(AnimeRecord))[:-1]
# From titles' own pages, which not every run reads.
_OPTIONAL = {"rating", "aired_to", "related"}
LIST_SEPARATOR = "|"


def merge(pages: Iterable[Iterable[AnimeRecord]]) -> list[AnimeRecord]:
    """The titles of many season pages, each once and sorted by id.

    A title that continues stands on several pages. It is kept as the earliest one has it, which is where it
    began; where no page read is that one, its season is that of its first day, if the site knows this.
    """
    records: dict[int, AnimeRecord] = {}
    for page in pages:
        for record in page:
            known = records.get(record.mal_id)
            if known is None or _order(record) < _order(known):
                records[record.mal_id] = record
    return [_in_its_own_season(records[mal_id]) for mal_id in sorted(records)]


def _order(record: AnimeRecord) -> tuple[bool, bool, tuple[int, int]]:
    season = parse_season(record.season) if record.season else None
    return record.continuing, season is None, (season.year, season.quarter) if season else (0, 0)


def _in_its_own_season(record: AnimeRecord) -> AnimeRecord:
    began = season_of_date(record.start_date)
    return replace(record, season=str(began)) if record.continuing and began else record


def write_catalogue(records: Sequence[AnimeRecord], path: Path) -> None:
    """Write the table, whole or not at all: UTF-8, lists joined by "|", empty cells for what is unknown.

    Related titles are written as relation and id ("Sequel 5114"), without their names.
    """
    with moved_in(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            writer.writerow([_cell(getattr(record, column)) for column in COLUMNS])


def _cell(value: object) -> str:
    if isinstance(value, Related):
        return f"{value.relation} {value.mal_id}"
    if isinstance(value, list):
        return LIST_SEPARATOR.join(map(_cell, value))
    # A lone return is not quoted by the csv module, nor can it read one.
    return "" if value is None else re.sub(r"\r(?!\n)", " ", str(value))


_READ: dict[str, Callable[[str], Any]] = {
    "mal_id": int,
    "title": str,
    "episodes": lambda cell: int(cell) if cell else None,
    "score": lambda cell: float(cell) if cell else None,
    "members": lambda cell: int(cell) if cell else None,
    "genre_ids": lambda cell: [int(item) for item in _items(cell)],
    **dict.fromkeys(("genres", "themes", "demographics", "studios"), lambda cell: _items(cell)),
    "related": lambda cell: [_related(item) for item in _items(cell)],
    **dict.fromkeys(
        ("type", "source", "start_date", "poster_url", "season", "rating", "aired_to"), lambda cell: cell or None
    ),
}


def _items(cell: str) -> list[str]:
    return cell.split(LIST_SEPARATOR) if cell else []


def _related(item: str) -> Related:
    relation, _, mal_id = item.rpartition(" ")
    return Related(relation, int(mal_id))


def read_catalogue(path: Path) -> list[AnimeRecord]:
    """Read a table that `write_catalogue` wrote; columns of other people's beside its own are left out.

    Raises:
        CatalogueError: there is no such file, a column is missing, or a cell is not what its column holds.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            there = rows.fieldnames or ()
            missing = [column for column in COLUMNS if column not in there and column not in _OPTIONAL]
            if missing:
                raise CatalogueError(f"The catalogue {path} has no column {', '.join(missing)}.")
            return [_record(row, f"{path}, line {rows.line_num}") for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CatalogueError(f"The catalogue {path} cannot be read: {error}.") from error


def _record(row: dict[str, str | None], where: str) -> AnimeRecord:
    values: dict[str, Any] = {}
    for column in COLUMNS:
        if column in _OPTIONAL and column not in row:
            continue
        cell = row[column]
        try:
            if cell is None:
                raise ValueError("the row is too short")
            values[column] = _READ[column](cell)
        except ValueError as error:
            raise CatalogueError(f"In {where} the cell {column} cannot be read: {error}.") from error
    return AnimeRecord(**values)
