"""The rows of anybody's table of posters: what each column means, and what each cell says."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import TypeVar

import numpy as np
import pandas as pd

from ml.data.genre_cells import BAR, is_filler, read_genres, unify
from ml.data.table_cells import dropped_rows, shown
from ml.data.table_columns import ROLES, Columns, address_in, is_explicit, is_true, text_in
from ml.data.table_format import read_cells
from ml.errors import DatasetError
from serving.bundle.files import sha256_of
from serving.bundle.wording import counted

NO_ID, IDENTICAL, UNREADABLE_GENRES = "no id", "identical to an earlier row", "genres that cannot be read"
JOINED = "joined with an earlier row that has another genre"
_EXPLICIT_NAMES = frozenset({"hentai", "erotica", "adult"})
_EXPLICIT_IDS = frozenset({"12", "49"})
# Ids of MyAnimeList's genres. A table in which one of these names has another id counts its genres differently.
_SITE_IDS = {
    **{"action": "1", "adventure": "2", "avant garde": "5", "award winning": "46", "boys love": "28", "comedy": "4"},
    **{"drama": "8", "fantasy": "10", "girls love": "26", "gourmet": "47", "horror": "14", "mystery": "7"},
    **{"romance": "22", "sci-fi": "24", "slice of life": "36", "sports": "30", "supernatural": "37", "suspense": "41"},
    **{"ecchi": "9", "hentai": "12", "erotica": "49"},
}
_LARGEST_SITE_ID = 100
_T = TypeVar("_T")
_Items = tuple[tuple[str, str], ...]  # genres as (id or "", name)
_HASH = 8  # hexadecimal digits in an id
_NAMED_IDS, _NAMED, _SHOWN = 5, 2, 40  # ids, their columns, and characters of their cells, in a message


@dataclass(frozen=True)
class TableOptions:
    """How to read a table, where its content does not decide.

    `columns` gives the name of the column by role, such as {"genres": "Genre"}; several columns are joined by "|".
    `separator` is between the genres of a cell. `image_base` completes relative addresses of posters.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    image_base: str | None = None


@dataclass(frozen=True)
class TableRows:
    """The rows of a table.

    `rows` has text columns: id, title, genres (joined by "|"), genre_ids (parallel to genres, "" for a genre without
    id, or empty), franchise, file, poster_url, rating and explicit ("yes" or empty). Rows with unknown genres stay in,
    with empty genres. `dropped` has the columns id and reason, one row per row of the table that is not in `rows`.
    `notices` are sentences about the decisions taken. `incomplete_addresses` is the number of relative addresses of
    posters that nothing completes.
    """

    rows: pd.DataFrame
    dropped: pd.DataFrame
    notices: tuple[str, ...]
    incomplete_addresses: int


def read_rows(data: bytes, name: str, options: TableOptions) -> TableRows:
    """Read a table of posters: CSV, JSON, JSON lines or Parquet, plain, gzip or ZIP.

    `name` is the name of the file, for messages. Raises DatasetError if the bytes are not a table, if the columns or
    the genres can be read in two ways, if there is no column of genres or if different rows have one id.
    """
    if unknown := [role for role in options.columns if role not in ROLES]:
        raise DatasetError(f"--columns does not know '{unknown[0]}': choose from {', '.join(ROLES)}.")
    cells = read_cells(data, name)
    if cells.table.empty:
        raise DatasetError(f"The table {name} has no rows. Give a table with one row per poster.")
    columns = Columns(cells.table, options.columns, options.image_base, name)
    if "genres" not in columns.chosen:
        raise DatasetError(
            f"The table {name} has no column of genres. Choose one of its columns with --columns genres=NAME.",
            "\n".join([f"Columns: {columns.all_names()}", *cells.notices]),
        )
    notices = [*cells.notices, columns.sentence(), *columns.notices]
    rows = pd.DataFrame({role: columns.cells(role) for role in ROLES}, index=cells.table.index, dtype=str)
    for column in columns.chosen["genres"][1:]:  # rows differ if any of these cells does
        rows["genres"] = [BAR.join(pair) for pair in zip(rows["genres"], columns.column(column), strict=True)]
    rows["title"] = [text_in(cell) for cell in rows["title"]]
    for role in ("id", "file", "poster_url", "rating", "franchise"):
        rows[role] = ["" if is_filler(cell) else cell.strip() for cell in rows[role]]
    rows["franchise"] = [text_in(cell) for cell in rows["franchise"]]
    rows["file"] = [address_in(cell) for cell in rows["file"]]
    rows["poster_url"], incomplete = _addresses(rows["poster_url"], options.image_base, notices)
    is_repeated = rows.duplicated()
    genres, genre_notices = _read_names(columns, options, name)
    groups = _rows_per_genre(rows, genres, columns, cells.table)
    for role in ("genres", "genre_ids"):
        rows[role] = _joined(list(rows[role]), groups, BAR.join)
    # Ids have one line each in the files that are made of the table.
    rows["id"] = [re.sub(r"\s*[\r\n]\s*", " ", id) for id in _ids(rows, columns, notices)]
    notices += genre_notices
    unreadable = _put_genres(rows, genres, groups, columns, name, notices)
    rows["explicit"] = _explicit(rows, columns, notices)
    reasons = pd.Series("", index=rows.index, dtype=str)
    reasons[unreadable] = UNREADABLE_GENRES
    reasons[rows["id"] == ""] = NO_ID
    reasons[(reasons == "") & rows.duplicated()] = IDENTICAL
    in_groups = rows.index.isin(rows.index[list(chain.from_iterable(groups))])
    reasons[(reasons == IDENTICAL) & in_groups & ~is_repeated] = JOINED
    if joined := int((reasons == JOINED).sum()):
        notices.append(f"Rows that differ only in their genres are joined: {joined} of {counted(len(rows), 'row')}.")
    _check_ids(rows[reasons == ""], name)
    left_out = reasons[reasons != ""]
    ids = [id or f"row {line}" for line, id in rows["id"][reasons != ""].items()]
    dropped = pd.concat([cells.dropped, dropped_rows(ids, list(left_out))], ignore_index=True)
    kept = rows[reasons == ""].reset_index(drop=True)
    if kept.empty:
        raise DatasetError(
            f"No row of the table {name} can be used. Correct the rows, or choose other columns with --columns.",
            "\n".join(f"{count} rows: {reason}" for reason, count in Counter(dropped["reason"]).items()),
        )
    return TableRows(kept, dropped, tuple(notices), incomplete)


def file_name(path: str) -> str:
    """The last part of a path or address, without its query."""
    return re.split(r"[/\\]", re.sub(r"[?#].*", "", path).rstrip("/\\"))[-1]


def _stem(path: str) -> str:
    return re.sub(r"\.\w{1,5}$", "", file_name(path)).strip()


def _addresses(cells: Sequence[str], image_base: str | None, notices: list[str]) -> tuple[list[str], int]:
    """Absolute addresses; "" for those that cannot be completed, with a notice. Also returns how many these are."""
    addresses, incomplete = [], []
    for cell in map(address_in, cells):
        if re.match(r"https?://", cell, re.IGNORECASE):
            addresses.append(cell)
        elif cell.startswith("//"):
            addresses.append(f"https:{cell}")
        elif cell and image_base:
            addresses.append(f"{image_base.rstrip('/')}/{cell.lstrip('/')}")
        else:
            addresses.append("")
            incomplete += [cell] if cell else []
    if incomplete:
        notices.append(
            f"{counted(len(incomplete), 'incomplete poster address', 'incomplete poster addresses')}, such as "
            f"{shown(incomplete[0])}; --image-base "
            "ADDRESS completes them."
        )
    return addresses, len(incomplete)


def _ids(rows: pd.DataFrame, columns: Columns, notices: list[str]) -> list[str]:
    """The ids; without a column of ids the names of files, else what identifies the rows (see `_ids_of_content`)."""
    if columns.chosen.get("id"):
        return [re.sub(r"^(\d+)\.0+$", r"\1", cell) for cell in rows["id"]]
    choices = (
        ("file", *_ids_of_files(rows)),
        ("poster_url", "last parts of the posters' addresses", [_stem(cell) for cell in rows["poster_url"]]),
        ("title", "titles", [cell.strip() for cell in rows["title"]]),
    )
    for role, label, ids in choices:
        if columns.chosen.get(role) and any(ids):
            used = pd.Series([id for id in ids if id])
            distinct = rows[[bool(id) for id in ids]].drop_duplicates()
            if role == "file" or used.nunique() == len(distinct):
                notices.append(f"The table has no id column: {label} are the ids.")
                return ids
    notices.append("The table has no id column: titles are the ids, and hashes where several rows have one title.")
    return _ids_of_content(rows)


def _ids_of_files(rows: pd.DataFrame) -> tuple[str, list[str]]:
    """What the ids of files are, and the ids: their names or, if several folders have the same ones, their paths.

    A path begins after the folders that all paths have in common, so that it is the same in another place.
    """
    stems = [_stem(cell) for cell in rows["file"]]
    parts = [[part for part in re.split(r"[/\\]", cell) if part] for cell in rows["file"]]
    folders = [each[:-1] for each in parts if each] or [[]]
    ends = zip(min(folders), max(folders), strict=False)  # what these two have in common, all have
    in_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    paths = ["/".join([*each[in_common:-1], stem]) if stem else "" for each, stem in zip(parts, stems, strict=True)]
    distinct = rows[[bool(stem) for stem in stems]].drop_duplicates()
    if len({stem for stem in stems if stem}) < len({path for path in paths if path}) == len(distinct):
        return "paths of files without their endings", paths
    return "names of files without their endings", stems


def _ids_of_content(rows: pd.DataFrame) -> list[str]:
    """The titles; with a hash where different rows share one: of the poster's address, else of all cells.

    No id depends on the place of its row, so rows keep their ids, and with them their parts, in the table's next
    version, in which others are added, removed or moved.
    """
    distinct = rows.drop_duplicates()
    titles = Counter(distinct["title"])
    posters = Counter(zip(distinct["title"], distinct["poster_url"], strict=True))
    ids = []
    for cells in rows.to_dict("records"):
        title, poster = cells["title"], cells["poster_url"]
        if title and titles[title] == 1:
            ids.append(title)
            continue
        content = {role: cell for role, cell in cells.items() if cell}
        identity = [title, poster] if posters[title, poster] == 1 else content
        sha256 = sha256_of(json.dumps(identity).encode())
        ids.append(f"{title or 'row'}-{sha256[:_HASH]}")
    return ids


def _read_names(columns: Columns, options: TableOptions, name: str) -> tuple[list[_Items | None], list[str]]:
    """The genres of each row in the columns of genres, None for those that cannot be read; and the notices."""
    read: list[_Items | None] = [()] * len(columns.cells("genres"))
    notices: list[str] = []
    names: Sequence[str] = columns.chosen["genres"]
    binary = {column: columns.binary_genre(column) for column in names} if len(names) > 1 else {}
    for column in names:
        cells = columns.column(column)
        if genre := binary.get(column):
            found: Sequence[_Items | None] = [(("", genre),) if is_true(cell) else () for cell in cells]
        else:
            genres = read_genres(cells, options.separator, name)
            notices += genres.notices
            found = genres.of_rows
        read = [None if old is None or new is None else old + new for old, new in zip(read, found, strict=True)]
    return read, notices


def _rows_per_genre(
    rows: pd.DataFrame, genres: Sequence[_Items | None], columns: Columns, table: pd.DataFrame
) -> list[list[int]]:
    """The places of the rows of each title in a table with one row per title and genre; none in other tables.

    Rows with an id, a file or an address are of one title if all roles but the genres are equal. Otherwise two titles
    may have the same name, so all other columns of the table must be equal too.
    """
    if len(columns.chosen["genres"]) > 1 or any(len(each or ()) > 1 for each in genres):
        return []
    of_genres = ["genres", "genre_ids"]
    keys = rows.drop(columns=of_genres)
    others = table.drop(columns=[column for role in of_genres for column in columns.chosen.get(role, [])])
    named = (keys[["id", "file", "poster_url"]] != "").any(axis=1)
    usable = named | (keys["title"] != "")
    if columns.chosen.get("id"):
        usable &= keys["id"] != ""
    usable &= keys.duplicated(keep=False) & np.array([each is not None for each in genres], dtype=bool)
    places = defaultdict[tuple[object, ...], list[int]](list)
    for place, key, other, is_named in zip(
        np.flatnonzero(usable).tolist(),
        keys[usable].itertuples(index=False, name=None),
        others[usable].itertuples(index=False, name=None),
        named[usable],
        strict=True,
    ):
        places[key, () if is_named else other].append(place)
    raw = list(rows[of_genres].itertuples(index=False, name=None))
    return [group for group in places.values() if len({raw[place] for place in group}) > 1]


def _joined(values: Sequence[_T], groups: Sequence[Sequence[int]], join: Callable[[list[_T]], _T]) -> list[_T]:
    """The values, in which all places of a group have what `join` makes of theirs."""
    joined = list(values)
    for group in groups:
        value = join([values[place] for place in group])
        for place in group:
            joined[place] = value
    return joined


def _put_genres(
    rows: pd.DataFrame,
    read: list[_Items | None],
    groups: Sequence[Sequence[int]],
    columns: Columns,
    name: str,
    notices: list[str],
) -> "pd.Series[bool]":
    """Fill the columns genres and genre_ids. Returns whether the genres of each row cannot be read.

    `read` are the genres of each row. All rows of one of the `groups` have the same, those of all of them.
    """
    names: Sequence[str] = columns.chosen["genres"]
    if columns.chosen.get("genre_ids") == []:
        read = [genres and tuple(("", text) for _, text in genres) for genres in read]
    elif columns.chosen.get("genre_ids", names) != names:
        read = [
            _with_ids(genres, cell, f"row {line} (id '{id}') of the table {name}")
            for genres, cell, line, id in zip(read, columns.cells("genre_ids"), rows.index, rows["id"], strict=True)
        ]
    elif columns.chosen.get("genre_ids") == names:
        read = [genres and tuple((text if text.isdecimal() else "", text) for _, text in genres) for genres in read]
    unified, spelling_notices = unify(read, rows.index, name)
    unified = _joined(unified, groups, lambda each: tuple(dict.fromkeys(chain.from_iterable(filter(None, each)))))
    notices += spelling_notices
    if not any(id for genres in unified for id, _ in genres or ()):
        notices.append("The table has no genre ids: genres are identified by their names.")
    rows["genres"] = [BAR.join(text for _, text in genres or ()) for genres in unified]
    rows["genre_ids"] = [
        BAR.join(id for id, _ in genres) if genres and any(id for id, _ in genres) else "" for genres in unified
    ]
    unreadable = pd.Series([genres is None for genres in unified], index=rows.index)
    if count := int(unreadable.sum()):
        cells = pd.Series(map(BAR.join, zip(*map(columns.column, names), strict=True)), rows.index)[unreadable]
        first = ", ".join(f"{shown(cell, _SHOWN)} in row {line}" for line, cell in cells.iloc[:_NAMED].items())
        more = ", ..." if count > _NAMED else ""
        notices.append(f"The genres of {count} row{'s' if count > 1 else ''} cannot be read: {first}{more}.")
    return unreadable


def _with_ids(genres: _Items | None, cell: str, where: str) -> _Items | None:
    """Genres with the ids of the cell of another column."""
    if genres is None or is_filler(cell):
        return genres
    ids = [re.sub(r"\.0+$", "", id) for id in re.split(r"[\s|,;/]+", cell.strip(" []{}()\"'")) if id]
    if len(ids) != len(genres) or not all(id.isdecimal() for id in ids):
        names = shown(BAR.join(text for _, text in genres))
        raise DatasetError(
            f"The genre ids {shown(cell)} in {where} do not fit its genres {names}: one whole number per genre is "
            "needed. --columns genre_ids= ignores the ids."
        )
    return tuple((str(int(id)), text) for id, (_, text) in zip(ids, genres, strict=True))


def _explicit(rows: pd.DataFrame, columns: Columns, notices: list[str]) -> list[str]:
    """Whether each title is explicit ("yes" or ""): by a genre, a rating or a column such as `nsfw`.

    If the option names no column for it, genres do not count either: "Adult" may mean books for adults. Ids count only
    if at least one genre has MyAnimeList's name and id, because other sites number genres too. They also count if no
    name has a letter from A to Z: names in other alphabets, or none at all, do not show whose ids these are.
    """
    flagged = [False] * len(rows)
    for column in columns.chosen.get("explicit", []):
        flagged = [old or is_explicit(cell, column) for old, cell in zip(flagged, columns.column(column), strict=True)]
    if "explicit" not in columns.chosen and (unclear := columns.unclear_explicit()):
        notices.append(
            f"The column {shown(unclear[0])} is not understood, so no title is explicit by it. Write yes or no in its "
            "cells, or leave it out with --columns explicit=."
        )
    pairs = [
        list(zip(names.split(BAR), ids.split(BAR), strict=True)) if ids else [(each, "") for each in names.split(BAR)]
        for names, ids in zip(rows["genres"], rows["genre_ids"], strict=True)
    ]
    numbered = {(text.casefold(), id) for genres in pairs for text, id in genres if id}
    are_site_ids = all(_SITE_IDS.get(text, id) == id and int(id) <= _LARGEST_SITE_ID for text, id in numbered)
    is_legible = any(re.search("[a-z]", text) for text, _ in numbered)
    are_site_ids &= not is_legible or any(_SITE_IDS.get(text) == id for text, id in numbered)
    if not are_site_ids and any(id in _EXPLICIT_IDS for _, id in numbered):
        notices.append(
            "The table's genre ids are not known to be MyAnimeList's: 12 and 49 do not mean explicit titles."
        )
    is_asked = columns.chosen.get("explicit") != []
    ids = _EXPLICIT_IDS if are_site_ids and is_asked else frozenset()
    explicit_names = _EXPLICIT_NAMES if is_asked else frozenset()
    by_name = [next((text for text, _ in genres if text.casefold() in explicit_names), "") for genres in pairs]
    by_id = [next((text for text, id in genres if id in ids), "") for genres in pairs]
    by_rating = [rating.casefold().startswith("rx") for rating in rows["rating"]]
    found = [
        name or id
        for name, id, is_rated in zip(by_name, by_id, by_rating, strict=True)
        if not is_rated and (not is_legible if id else name)
    ]
    if found:
        notices.append(
            f"Explicit only by a genre, such as {shown(found[0])}: {counted(len(found), 'row')}; --columns explicit= "
            "keeps them."
        )
    return ["yes" if any(each) else "" for each in zip(flagged, by_name, by_id, by_rating, strict=True)]


def _check_ids(rows: pd.DataFrame, name: str) -> None:
    """Raise DatasetError if different rows have one id."""
    repeated = rows[rows["id"].duplicated(keep=False)]
    if repeated.empty:
        return
    ids = list(repeated["id"].unique())
    lines = []
    for id in ids[:_NAMED_IDS]:
        first = repeated[repeated["id"] == id].iloc[:2]
        differ = [column for column in ROLES if first[column].iloc[0] != first[column].iloc[1]]
        lines += [
            f"row {row}: "
            + ", ".join(f"{column} {shown(first.loc[row, column], _SHOWN)}" for column in ["id", *differ[:_NAMED]])
            for row in first.index
        ]
    if len(ids) > _NAMED_IDS:
        lines.append(f"and {len(ids) - _NAMED_IDS} more ids")
    raise DatasetError(
        f"The table {name} has different rows with the same id, such as the id {shown(ids[0], _SHOWN)}. "
        "Remove one of the rows, or choose another column with --columns id=NAME.",
        "\n".join(lines),
    )
