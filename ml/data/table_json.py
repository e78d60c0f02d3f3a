"""The rows of a JSON document or of JSON lines."""

import json
import re
from typing import Any

from ml.data.table_cells import TABLE_KINDS, parsed
from ml.errors import DatasetError


def read_json_rows(text: str, name: str) -> list[dict[str, Any]] | None:
    """The rows of a JSON document or of JSON lines; None if the text is a CSV file that begins with a bracket."""
    try:
        document = parsed(text, json.loads)
    except RecursionError:
        raise DatasetError(f"The table {name} is not a JSON table: it is nested too deeply. {TABLE_KINDS}") from None
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        try:
            json.loads(lines[0][1])
        except (ValueError, RecursionError):
            if re.match(r'[\[{]\s*(?:["\[{\]}]|$)', text) is None:
                return None
            raise DatasetError(f"The table {name} is damaged JSON: {error}. Download it again.") from error
        document = [_json_line(line, number, name) for number, line in lines]
    rows = _records(document)
    if rows is None:
        raise DatasetError(f"The JSON in {name} is not a table. Give a list of objects, or one object per line.")
    return rows


def _json_line(line: str, number: int, name: str) -> Any:
    try:
        return parsed(line, json.loads)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The table {name} is damaged JSON: {error}. Correct line {number}.") from error


def _records(document: Any) -> list[dict[str, Any]] | None:
    """The rows in a JSON document: a list of objects, or one of the forms that pandas writes, or an API's response."""
    if isinstance(document, list):
        pages = [row for row in document if isinstance(row, dict) and isinstance(row.get("data"), list)]
        if document and len(pages) == len(document):  # one response per line or entry
            document = [row for page in pages for row in page["data"]]
        if not all(isinstance(row, dict) for row in document):
            return None
        if document and all(len(row) == 1 and isinstance(next(iter(row.values())), dict) for row in document):
            return [next(iter(row.values())) for row in document]  # {"node": {...}}
        return list(document)
    if not isinstance(document, dict) or not document:
        return None
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        columns = [str(column) for column in document["columns"]]
        if not all(isinstance(row, list) and len(row) == len(columns) for row in document["data"]):
            return None
        return [dict(zip(columns, row, strict=True)) for row in document["data"]]
    lists = [value for value in document.values() if isinstance(value, list)]
    tables = [rows for rows in lists if rows and all(isinstance(row, dict) for row in rows)]
    if len(lists) == len(document) and len({len(values) for values in lists}) == 1 and len(lists) > 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)]
    if all(isinstance(value, dict) for value in document.values()):
        inner = [key for value in document.values() for key in value]
        if inner and all(key.isdigit() for key in inner) and not all(key.isdigit() for key in document):
            keys = dict.fromkeys(inner)
            return [{column: values.get(key) for column, values in document.items()} for key in keys]
        if len(document) > 1:
            return [{"id": key, **row} for key, row in document.items()]
    if tables:
        largest = max(tables, key=len)
        return _records(largest)
    return _records(next(iter(document.values()))) if len(document) == 1 else None
