"""The catalogue: a DataFrame with one row per title, and its CSV file.

All columns hold text (dtype str). Empty text means unknown. Lists are joined by "|".

| column | content |
| --- | --- |
| id | the source's id of the title; rows are sorted by it, as numbers if all ids are numbers |
| title, type, source | text, such as "TV" and "Light novel" |
| start_date, aired_to | ISO dates: 1998-04-03, 1998-04 or 1998 |
| episodes, members | whole numbers |
| score | a decimal number |
| genres, themes, demographics, studios | lists of names |
| genre_ids | a list of whole numbers, parallel to `genres` (empty text for a genre without id), or empty |
| poster_url, rating | text |
| season | such as 2010-fall |
| related | a list of relation and percent-encoded id, such as "Sequel 5114" |
| own_page | "yes" if the title's detail page was read, so that all its relations are known |
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import pandas as pd

from infra.files import write_bytes
from infra.store import Store
from tasks.catalogue.titles import Related, Title, id_sort_key
from tasks.errors import CatalogueError, excerpt

COLUMNS = [field.name for field in fields(Title)][:-1]
LIST_SEPARATOR = "|"
# The names of columns in files, where they differ from those in code.
STORED_NAMES = {"id": "mal_id"}
CODE_NAMES = {stored: name for name, stored in STORED_NAMES.items()}
_MEND = "Move it away and run again."
# From detail pages, which not every run reads.
_OPTIONAL = {"rating", "aired_to", "related", "own_page"}
_PATTERNS = {
    "id": r".+",
    "episodes": r"\d*",
    "score": r"(?:\d+(?:\.\d+)?)?",
    "members": r"\d*",
    "genre_ids": r"(?:\d*(?:\|\d*)*)?",
    "own_page": r"(?:yes)?",
    "related": r"(?:[^|]* [^ |]+(?:\|[^|]* [^ |]+)*)?",
}


def catalogue_of(titles: Iterable[Title]) -> pd.DataFrame:
    """The catalogue of these titles, sorted by id."""
    rows = [[_cell(getattr(title, column)) for column in COLUMNS] for title in titles]
    return sorted_by_id(pd.DataFrame(rows, columns=COLUMNS, dtype=str))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, Related):
        return f"{value.relation} {quote(value.id, safe='')}"
    if isinstance(value, list):
        return LIST_SEPARATOR.join(map(_cell, value))
    # A carriage return without a line feed would end the row when the file is read.
    return "" if value is None else re.sub(r"\r(?!\n)", " ", str(value))


def sorted_by_id(table: pd.DataFrame) -> pd.DataFrame:
    """A table sorted by its column `id`: as numbers if all ids are numbers, else as text."""
    key = id_sort_key(table["id"])
    return table.sort_values("id", key=lambda ids: ids.map(key), kind="stable", ignore_index=True)


def items(cell: str) -> list[str]:
    """The items of a cell that holds a list."""
    return cell.split(LIST_SEPARATOR) if cell else []


def related_in(cell: str) -> list[Related]:
    """The related titles in a cell of the column `related`, without their names."""
    pairs = (item.rpartition(" ") for item in items(cell))
    return [Related(relation, unquote(id)) for relation, _, id in pairs]


def ids_with_relations(catalogue: pd.DataFrame) -> set[str]:
    """The ids of titles whose relations are known: their own page or that of a related title was read."""
    return set(catalogue.loc[(catalogue["related"] != "") | (catalogue["own_page"] != ""), "id"])


def write_catalogue(catalogue: pd.DataFrame, path: Path) -> None:
    """Write a catalogue as CSV in UTF-8. A reader sees the whole file or none."""
    write_bytes(path, catalogue_csv(catalogue).encode())


def catalogue_csv(catalogue: pd.DataFrame) -> str:
    """A catalogue as CSV.

    Without detail pages it is the same as in earlier versions, which had no column for them.
    """
    if not (catalogue["own_page"] != "").any():
        catalogue = catalogue.drop(columns="own_page")
    text: str = catalogue.rename(columns=STORED_NAMES).to_csv(index=False, lineterminator="\n")
    return text


def read_catalogue(path: Path) -> pd.DataFrame:
    """Read a catalogue that `write_catalogue` wrote. Other columns are ignored.

    Raises:
        CatalogueError: the file does not exist, lacks a column, or has an invalid cell.
    """
    try:
        return parse_catalogue(path.read_bytes(), str(path))
    except OSError as error:
        raise CatalogueError(f"The catalogue {path} cannot be read. {_MEND}", str(error)) from error


def fetch_catalogue(store: Store, folder: Path, key: str) -> pd.DataFrame:
    """Read a catalogue of the bucket, by way of its copy in the workspace's `folder`.

    Raises:
        NotFound: neither the object nor its copy exists.
        CatalogueError: as `read_catalogue`.
    """
    return read_catalogue(store.fetch(key, folder / key))


def parse_catalogue(content: bytes, path: str) -> pd.DataFrame:
    """Read a catalogue from the content of its file. `path` names it in errors, which are those of `read_catalogue`."""
    try:
        table = pd.read_csv(BytesIO(content), dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except ValueError as error:
        raise CatalogueError(f"The catalogue {path} cannot be read. {_MEND}", str(error)) from error
    if not content.endswith(b"\n"):
        raise CatalogueError(f"The catalogue {path} ends in the middle of a row. {_MEND}")
    table = table.rename(columns=CODE_NAMES)
    missing = [column for column in COLUMNS if column not in table and column not in _OPTIONAL]
    if missing:
        names = ", ".join(STORED_NAMES.get(column, column) for column in missing)
        raise CatalogueError(f"The catalogue {path} has no column {names}. {_MEND}")
    table = table.reindex(columns=COLUMNS, fill_value="")
    for column, pattern in _PATTERNS.items():
        invalid = table.loc[~table[column].str.fullmatch(pattern), column]
        if len(invalid):
            name = STORED_NAMES.get(column, column)
            row, value = invalid.index[0] + 1, excerpt(invalid.iloc[0])
            raise CatalogueError(f"The catalogue {path} has an invalid {name} in row {row}: {value!r}. {_MEND}")
    return table
