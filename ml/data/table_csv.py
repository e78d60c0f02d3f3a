"""The cells of a CSV text: its delimiter, its quotes, and the lines of records that are broken."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from itertools import islice, takewhile, zip_longest
from typing import Any, Literal, NamedTuple

import pandas as pd

from ml.data.table_cells import TABLE_KINDS, Cells, dropped_rows, shown, unique_names
from ml.data.table_images import ENDINGS
from ml.errors import DatasetError
from serving.bundle.wording import counted

DELIMITERS = ",;\t|"
TORN = "quotes that do not match"
RAGGED = "another number of cells than the header"
_SAMPLE = 200  # records that decide the delimiter
_SAMPLED_CHARACTERS = 2_000_000
_NAMED = 3  # examples in a message
_MOST_BROKEN = 0.1  # share of rows; more are a table that is read wrongly
_HALF = 0.5  # of the records
_MOST_ABOVE = 20  # records above the header


def read_csv(text: str, name: str, notices: Sequence[str]) -> Cells:
    """Read a CSV text, after the `notices` about its bytes. `name` is the file's name, for messages.

    Raises DatasetError if it cannot be read, or if a quoted cell contains lines that are rows themselves.
    """
    notices = list(notices)
    skipped = 0
    if declared := re.match(r'"?sep=(.)"?\r?\n', text):  # Excel's own first line
        delimiter, skipped, text = declared[1], 1, text[declared.end() :]
    else:
        delimiter = _delimiter(text)
    if above := _lines_above_header(text, delimiter):
        text = text[sum(map(len, islice(StringIO(text[:_SAMPLED_CHARACTERS], newline=""), above))) :]
        skipped += above
        notices.append(f"Left out above the header: {counted(above, 'line')}.")
    if delimiter != ",":
        notices.append(f"The delimiter of the columns is {'a tab' if delimiter == chr(9) else repr(delimiter)}.")
    data = text.encode("utf-8", errors="surrogatepass")
    del text  # of a large table, a copy is large too
    with _any_cell_length():
        cells = _best_reading(data, delimiter, skipped, name)
    return Cells(cells.table, cells.dropped, (*notices, *cells.notices))


def _best_reading(data: bytes, delimiter: str, skipped: int, name: str) -> Cells:
    """The cells as standard CSV or, if that leaves rows out, in the way of other programs to write quotes."""
    other_ways = (
        [(_Dialect(delimiter, escape="\\"), 'Quotes inside cells are written as \\".')] if b'\\"' in data else []
    )
    if delimiter == "\t":
        other_ways.append((_Dialect(delimiter, quoting=csv.QUOTE_NONE), "Quotes are part of the cells."))
    standard: Cells | DatasetError
    try:
        standard = _parse(data, _Dialect(delimiter), skipped, name)
    except DatasetError as error:
        standard = error
    if isinstance(standard, Cells) and standard.dropped.empty:
        return standard
    for dialect, notice in other_ways:
        with suppress(DatasetError):
            other = _parse(data, dialect, skipped, name)
            if other.dropped.empty:
                return replace(other, notices=(notice, *other.notices))
    if isinstance(standard, DatasetError):
        raise standard
    return standard


class _Dialect(NamedTuple):
    """How a CSV file is written."""

    delimiter: str
    escape: str | None = None
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL

    def reader(self, lines: Iterable[str], strict: bool = False) -> Any:
        """Python's CSV reader of these lines; a strict one raises csv.Error if text follows a quoted cell."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            escapechar=self.escape,
            doublequote=self.escape is None,
            quoting=self.quoting,
            strict=strict,
        )


def _parse(data: bytes, dialect: _Dialect, skipped: int, name: str) -> Cells:
    """The cells of a CSV file in UTF-8; `skipped` lines precede it."""
    counts, lines, several_lines, torn = _scan(data, dialect, skipped, name)
    try:
        table = pd.read_csv(
            BytesIO(data),
            sep=dialect.delimiter,
            escapechar=dialect.escape,
            doublequote=dialect.escape is None,
            quoting=dialect.quoting,
            header=None,
            names=range(max(counts, default=0)),
            index_col=False,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            engine="c",
        )
    except ValueError as error:  # pandas' ParserError
        raise DatasetError(
            f"The table {name} cannot be read: {_pandas_reason(error, lines)}. Correct the file."
        ) from error
    if len(table) != len(counts):
        raise DatasetError(
            f"The table {name} is damaged: two CSV parsers find {len(table)} and {len(counts)} rows. Look for stray "
            "quotes and control characters."
        )
    table = table.fillna("")
    table.index = pd.Index(lines)
    names, body, notices = _header(table, counts, name)
    width = len(names)
    rows = table.iloc[body]
    widths = pd.Series([counts[place] for place in body], index=rows.index)
    ragged = (widths < width) | (rows.iloc[:, width:] != "").any(axis=1)
    whole = {place for place, is_ragged in zip(body, ragged, strict=True) if not is_ragged}
    several = {place: several_lines[place] for place in body if place in several_lines}
    _check_quotes(table, several, whole, torn, width, dialect, name)
    quoted = b'"' in data and dialect.quoting != csv.QUOTE_NONE
    torn_rows = _torn_quotes(rows.iloc[:, :width]) if quoted else ragged & False
    torn_rows |= pd.Series([place in torn for place in body], index=rows.index)
    reasons = pd.Series("", index=rows.index, dtype=str)
    reasons[torn_rows] = TORN
    reasons[ragged] = RAGGED
    left_out = reasons[reasons != ""]
    notices += _broken_rows(left_out, len(rows), name)
    table = rows[reasons == ""].iloc[:, :width]
    table.columns = pd.Index(unique_names(names))
    return Cells(table, dropped_rows([f"row {line}" for line in left_out.index], list(left_out)), tuple(notices))


def _header(table: pd.DataFrame, counts: Sequence[int], name: str) -> tuple[list[str], list[int], list[str]]:
    """The names of the columns, the places of the rows, and notices about both.

    `counts` are the numbers of cells of all records. Raises DatasetError if all of them are blank.
    """
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        raise DatasetError(f"The table {name} is empty. {TABLE_KINDS}")
    header, body = filled[0], filled[1:]
    names = [cell.strip() for cell in table.iloc[header]][: counts[header]]
    while names and not names[-1]:  # a delimiter at the end of the line
        names.pop()
    width = len(names)
    last = table.iloc[body, width:]  # all empty if the rows end with a delimiter, and then their first cell is an id
    one_more = counts[header] == width and {counts[place] for place in body} == {width + 1}
    if one_more and (last != "").any(axis=None) and _are_counted(table.iloc[body, 0]):
        notice = "Each row has one cell more than the header: the first one is the row's number."
        return ["", *names], body, [notice]
    if _is_data(table.iloc[header], table.iloc[body]):
        notice = f"The table has no header: its columns are named 1 to {width}."
        return [str(number) for number in range(1, width + 1)], filled, [notice]
    return names, body, []


def _broken_rows(reasons: "pd.Series[str]", rows: int, name: str) -> list[str]:
    """One notice per reason why rows are left out; the index of `reasons` has their lines.

    Raises DatasetError if these are more than a tenth of the table's `rows`: then the table is read wrongly.
    """
    notices = []
    for reason, count in Counter(reasons).items():
        lines = reasons.index[reasons == reason]
        first = ", ".join(map(str, lines[:_NAMED])) + (", ..." if count > _NAMED else "")
        sentence = f"{count} of {rows} rows have {reason}, in the lines {first}"
        if count > max(_NAMED, _MOST_BROKEN * rows):
            raise DatasetError(f"The table {name} cannot be read: {sentence}. Correct these lines.")
        notices.append(f"{sentence}.")
    return notices


def _are_counted(cells: "pd.Series[str]") -> bool:
    """Whether cells are the numbers from 0 or 1 on, as some programs write them before each row."""
    numbers = list(cells)
    return any(numbers == [str(start + place) for place in range(len(numbers))] for start in (0, 1))


def _is_data(header: "pd.Series[str]", rows: pd.DataFrame) -> bool:
    """Whether the first row has paths or addresses as the rows below it have, so that it is no header."""
    for column, cell in header.items():
        shape = _shape(cell)
        if shape in ("path", "address") and len(rows):
            alike = sum(_shape(each) == shape for each in rows[column].iloc[:_SAMPLE])
            if 2 * alike > min(len(rows), _SAMPLE):
                return True
    return False


def _torn_quotes(table: pd.DataFrame) -> "pd.Series[bool]":
    """Whether a row has two neighbouring cells with an odd number of quotes each: a quoted cell that was torn."""
    odd = pd.DataFrame({column: table[column].str.count('"') % 2 == 1 for column in table}, dtype=bool)
    return (odd & odd.shift(-1, axis=1, fill_value=False)).any(axis=1)


@contextmanager
def _any_cell_length() -> Iterator[None]:
    """Let `csv.reader` read cells of any length; its limit is global."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str) -> str:
    """The delimiter that gives the header several cells and the first rows as many."""
    best, best_score = ",", (0.0, 0)
    usual, usual_score = ",", (0.0, 0)
    for delimiter in DELIMITERS:
        rows = [row for _, row in _sampled(text, delimiter) if row]
        if not rows:
            continue
        widths = Counter(map(len, rows))
        if (score := (widths[len(rows[0])] / len(rows), len(rows[0]))) > best_score and len(rows[0]) > 1:
            best, best_score = delimiter, score
        count, width = max(((count, width) for width, count in widths.items() if width > 1), default=(0, 0))
        if (score := (count / len(rows), width)) > usual_score:
            usual, usual_score = delimiter, score
    # A title above the header may have delimiters too.
    return usual if best_score[0] < _HALF and _lines_above_header(text, usual) else best


def _sampled(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The first records of a text, and in which line each of them ends; none if they cannot be read."""
    reader = csv.reader(StringIO(text[:_SAMPLED_CHARACTERS], newline=""), delimiter=delimiter)
    with _any_cell_length(), suppress(csv.Error):
        return [(reader.line_num, row) for row in islice(reader, _SAMPLE)]
    return []


def _lines_above_header(text: str, delimiter: str) -> int:
    """The number of lines with a title and the like above the header: they have fewer cells than most records.

    So has a header that lacks names, and a row must not be taken for the header instead. A row is known by a number,
    path or address: the header has none but, if a line above it has several cells, most rows have one in some column.
    """
    records = [(line, cells) for line, row in _sampled(text, delimiter) if (cells := _without_empty_end(row))]
    counts = Counter(len(cells) for _, cells in records[1:])
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    above = list(takewhile(lambda record: len(record[1]) < usual, records))
    rows = [cells for _, cells in records[len(above) + 1 :]]
    if not 0 < len(above) <= _MOST_ABOVE or not rows or any(_shape(cell) != "text" for cell in records[len(above)][1]):
        return 0
    shapes = zip_longest(*([_shape(cell) != "text" for cell in cells] for cells in rows), fillvalue=False)
    has_shapes = any(2 * sum(column) > len(rows) for column in shapes)
    return above[-1][0] if has_shapes or all(sum(map(bool, cells)) == 1 for _, cells in above) else 0


def _without_empty_end(row: Sequence[str]) -> list[str]:
    cells = [cell.strip() for cell in row]
    while cells and not cells[-1]:
        cells.pop()
    return cells


class _Records(NamedTuple):
    """The records of a CSV text: the number of cells of each, 0 for a blank line, and its first line in the file.

    `several_lines` gives, for each record that has several lines, those that may be rows, and their numbers in the
    record; `torn` are records with text beside a quoted cell.
    """

    counts: list[int]
    lines: list[int]
    several_lines: dict[int, list[tuple[int, str]]]
    torn: set[int]


def _scan(data: bytes, dialect: _Dialect, skipped: int, name: str) -> _Records:
    """Find the records of a CSV file in UTF-8; `skipped` lines precede it."""
    records = _Records([], [], {}, set())
    pending: list[str] = []
    width = 0

    def physical_lines() -> Iterator[str]:
        for line in TextIOWrapper(BytesIO(data), "utf-8", newline=""):
            pending.append(line)
            yield line

    reader = dialect.reader(physical_lines())
    try:
        for row in reader:
            place = len(records.counts)
            if len(pending) > 1:
                records.several_lines[place] = [
                    each for each in enumerate(pending) if each[1].count(dialect.delimiter) >= width - 1
                ]
            if any('"' in line for line in pending):
                try:
                    next(dialect.reader(pending, strict=True), None)
                except csv.Error:
                    records.torn.add(place)
            records.counts.append(len(row) if any(map(str.strip, row)) else 0)
            width = width or records.counts[-1]
            records.lines.append(skipped + reader.line_num - len(pending) + 1)
            pending.clear()
    except csv.Error as error:
        line = skipped + reader.line_num
        raise DatasetError(f"The table {name} cannot be read: {error}. Correct line {line}.") from error
    return records


def _pandas_reason(error: ValueError, lines: Sequence[int]) -> str:
    message = str(error).strip().removeprefix("Error tokenizing data. C error: ")
    if place := re.fullmatch(r"EOF inside string starting at row (\d+)", message):
        return f"a quote that is opened in line {lines[min(int(place[1]), len(lines) - 1)]} is never closed"
    return shown(message)


def _check_quotes(
    table: pd.DataFrame,
    several: Mapping[int, Sequence[tuple[int, str]]],
    whole: set[int],
    torn: set[int],
    width: int,
    dialect: _Dialect,
    name: str,
) -> None:
    """Raise DatasetError if one of these records of several lines comes from a quote that was not closed.

    Such a record has lines that are rows, or another number of cells than the header (it is not in `whole`) and text
    beside a quoted cell (it is in `torn`). A line of a description may have as many cells as a row by chance. So it
    must also have a number, a path or an address where nine of ten rows have one, and no blanks before cells if rows
    have none.
    """
    if not several:
        return
    sample = table.iloc[sorted(whole)[:_SAMPLE], :width]
    spaced = bool(sample.map(lambda cell: cell[:1] == " ").any(axis=None))
    shapes = {}
    for column in range(width):
        kinds = Counter(map(_shape, sample[column]))
        kind = max(kinds, key=lambda each: kinds[each], default="text")
        if kind != "text" and kinds[kind] >= 0.9 * len(sample):
            shapes[column] = kind
    found = []
    for place, lines in several.items():
        # The first line of a complete record may end inside its last cell.
        swallowed = sum(
            _is_row(line, width, shapes, spaced, dialect) for number, line in lines if number > 0 or width - 1 in shapes
        )
        if swallowed:
            found.append(f"from line {table.index[place]} on ({counted(swallowed, 'row')})")
        elif place not in whole and place in torn:
            found.append(f"from line {table.index[place]} on")
    if found:
        raise DatasetError(
            f"The table {name} has an unclosed quote: one cell contains lines that are rows themselves. "
            "Close or remove the quote.",
            "\n".join(found[:_NAMED]),
        )


def _is_row(line: str, width: int, shapes: Mapping[int, str], spaced: bool, dialect: _Dialect) -> bool:
    """Whether a line is a row by itself, as it is or without its quotes.

    `shapes` says what a row has in some columns; `spaced` says whether cells of the table begin with blanks.
    """
    for text in (line, line.replace('"', "")) if shapes else (line,):
        cells: list[str] = next(dialect.reader([text]), [])
        if len(cells) != width or (not spaced and any(cell[:1] == " " for cell in cells)):
            continue
        if all(_shape(cells[column]) == shape for column, shape in shapes.items()):
            return bool(shapes) or width > 2
    return False


def _shape(cell: str) -> str:
    cell = cell.strip()
    if re.fullmatch(r"[-+]?\d+(?:\.\d+)?|tt\d+", cell):
        return "number"
    if re.match(r"(?:https?:)?//", cell):
        return "address"
    return "path" if cell.lower().endswith(ENDINGS) else "text"
