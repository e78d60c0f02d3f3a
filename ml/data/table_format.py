"""The bytes of a table's file become a DataFrame of text: CSV, JSON, JSON lines and Parquet, plain, gzip or ZIP.

The index of the DataFrame says where each row is: the line in a CSV file, else the number of the row.
"""

import codecs
import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from ml.data.table_cells import TABLE_KINDS, Cells, dropped_rows, shown, unique_names
from ml.data.table_csv import read_csv
from ml.data.table_json import read_json_rows
from ml.errors import DatasetError, needs_package
from serving.bundle.wording import counted

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_EXCEL = "an Excel workbook; export it as CSV"
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"
_TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".gz")
_CONTROL_CHARACTERS = re.compile(r"[\0-\x08\x0e-\x1f\x7f-\x9f]")  # no text has them, and most other data do
_MOST_ACCENTED = 1 / 3  # share of letters; texts of Western languages have fewer than a tenth
_OTHER_FILES = (
    (b"%PDF", "a PDF document"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\xd0\xcf\x11\xe0", _EXCEL),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"version https://git-lfs", "a pointer to a file in Git LFS; download the file itself"),
)


def read_cells(data: bytes, name: str) -> Cells:
    """Read the bytes of a table.

    `name` is the file's name, for messages. Raises DatasetError if the bytes are not a table, or if a quoted cell
    contains lines that are rows themselves.
    """
    if data.startswith(_ZIP):
        data = _only_table(data, name)
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"The table {name} is damaged: gzip says {error}. Download it again.") from error
    if data.startswith(b"PAR1"):
        return _cells_of(_parquet(data, name), ())
    for start, what in _OTHER_FILES:
        if data.startswith(start):
            raise DatasetError(f"{name} is not a table, but {what}. {TABLE_KINDS}")
    text, notices = _decode(data, name)
    stripped = text.lstrip()
    if not stripped:
        raise DatasetError(f"The table {name} is empty. {TABLE_KINDS}")
    if re.match(r"<(?:!doctype|html|\?xml)", stripped, re.IGNORECASE):
        raise DatasetError(f"{name} is not a table, but a web page or XML; download the table itself.")
    if stripped[0] in "[{" and (rows := read_json_rows(stripped, name)) is not None:
        return _cells_of(_frame(rows), notices)
    return read_csv(text, name, notices)


def _only_table(data: bytes, name: str) -> bytes:
    """The only table in a ZIP archive. Raises DatasetError if there is none, or several."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            paths = {PurePosixPath(each.filename): each for each in archive.infolist() if not each.is_dir()}
            if PurePosixPath("xl/workbook.xml") in paths:
                raise DatasetError(f"{name} is not a table, but {_EXCEL}.")
            if PurePosixPath("content.xml") in paths:
                raise DatasetError(f"{name} is not a table, but a spreadsheet; export it as CSV.")
            visible = [path for path in paths if not path.name.startswith(".") and path.parts[0] != "__MACOSX"]
            tables = [path for path in visible if path.suffix.lower() in _TABLE_ENDINGS]
            tables = [path for path in tables if path.suffix.lower() != ".txt"] or tables  # not the README.txt
            if len(tables) == 1:
                return archive.read(paths[tables[0]])
    # RuntimeError: it is encrypted, or compressed in a way that zipfile does not know.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DatasetError(f"The ZIP archive {name} cannot be read: it is damaged or encrypted ({error}).") from error
    if not tables:
        raise DatasetError(f"The ZIP archive {name} has no table; there is none among its {len(paths)} files.")
    first = " and ".join(shown(str(path)) for path in tables[:2])
    raise DatasetError(f"The ZIP archive {name} has {len(tables)} tables, {first}; unpack the one to read.")


def _decode(data: bytes, name: str) -> tuple[str, list[str]]:
    """The text of a file, and a notice about its encoding if it is not plain UTF-8."""
    for mark, encoding, label in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            notices = [] if encoding == "utf-8-sig" else [f"The encoding is {label}."]
            try:
                return data.decode(encoding), notices
            except UnicodeDecodeError as error:
                if encoding != "utf-8-sig":
                    raise DatasetError(
                        f"The table {name} is damaged: it is not valid {label}. Save it as UTF-8."
                    ) from error
            data = data[len(mark) :]
            break
    start = data[:1000]
    if b"\0" in start:
        for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
            if zeros.count(0) > len(zeros) / 2:
                text = data.decode(encoding, errors="replace")
                return text, [f"The encoding is assumed to be {encoding.upper()}, without a byte order mark."]
        raise DatasetError(f"{name} is not a table, but a binary file. {TABLE_KINDS}")
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    text = data.decode("utf-8", errors="replace")
    invalid = text.count("\N{REPLACEMENT CHARACTER}")
    if sum(character > "\x7f" for character in text) > 2 * invalid:
        return text, [
            f"The encoding is UTF-8 with {counted(invalid, 'invalid byte')}, the first in line {line}. '�' replaces "
            "each."
        ]
    try:
        text, encoding = data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    accented = sum(character > "\x7f" for character in text)
    plain = sum(character <= "\x7f" and character.isalpha() for character in text)
    if accented > _MOST_ACCENTED * (accented + plain):  # Cyrillic, Chinese, Japanese
        raise DatasetError(f"The table {name} is not UTF-8, and its encoding is not known. Save it as UTF-8.")
    return text, [f"The encoding is not UTF-8 (line {line}); {encoding} is assumed."]


def _parquet(data: bytes, name: str) -> pd.DataFrame:
    with needs_package("Reading a Parquet table"):
        import pyarrow.parquet
    try:
        table = pd.read_parquet(BytesIO(data))
        features = _features(pyarrow.parquet.read_schema(BytesIO(data)).metadata)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DatasetError(
            f"The table {name} is not a readable Parquet file: {shown(str(error))}. Download or write it again."
        ) from error
    for column in features.keys() & set(table):
        table[column] = pd.Series(
            [_with_names(value, features[column]) for value in table[column]], table.index, object
        )
    return table.reset_index([name for name in table.index.names if name is not None and name not in table])


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The types of columns as Hugging Face's `datasets` stores them in Parquet's metadata; none in other files."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, TypeError, KeyError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: each for name, each in features.items() if "ClassLabel" in json.dumps(each)}


def _with_names(value: Any, feature: Any) -> Any:
    """A value of a column with the names of its classes in place of their numbers; -1 is an unknown class."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = {"feature": feature[0]}
    if not isinstance(feature, dict):
        return value
    if feature.get("_type") == "ClassLabel" and isinstance(names := feature.get("names"), list):
        if not isinstance(value, int | float | np.number):
            return value
        return names[int(value)] if 0 <= value < len(names) else None
    inner = feature.get("feature")
    if inner is not None and isinstance(value, list | tuple | np.ndarray):
        return [_with_names(each, inner) for each in value]
    if isinstance(value, dict):
        if isinstance(inner, dict):  # a list of objects, stored as an object of lists
            feature = {key: {"feature": each} for key, each in inner.items()}
        return {key: _with_names(each, feature.get(key)) for key, each in value.items()}
    return value


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    columns = dict.fromkeys(key for row in rows for key in row)
    return pd.DataFrame({str(column): [row.get(column) for row in rows] for column in columns}, dtype=object)


def _cells_of(table: pd.DataFrame, notices: Sequence[str]) -> Cells:
    """The cells of a table of values as text. Lists and objects become JSON."""
    names = unique_names([str(column).strip() for column in table.columns])
    text = {
        name: [_as_text(value) for value in table.iloc[:, place].astype(object)] for place, name in enumerate(names)
    }
    return Cells(
        pd.DataFrame(text, index=pd.RangeIndex(1, len(table) + 1), dtype=str), dropped_rows([], []), tuple(notices)
    )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        value = value.tolist()
    if isinstance(value, bytes):
        return _decoded(value)
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return ""
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=_json_value)
    return str(value)


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return _decoded(value) or None
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _decoded(value: bytes) -> str:
    """The text in bytes, as which Impala and Hive store it in Parquet; "" for an image and other data."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return ""
    return "" if _CONTROL_CHARACTERS.search(text) else text
