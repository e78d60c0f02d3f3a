"""The rows of a JSON document or of JSON lines."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ml.data.table_cells import TABLE_KINDS, parsed
from ml.errors import DatasetError

_PAGES = ("data", "results")  # the rows of an API's response, of which a file may contain several
_AROUND_ROWS = ("node", "attributes", "data")  # the row in an object of MyAnimeList or GraphQL, of JSON:API, of others
_BESIDE_ROWS = frozenset({"id", "type", "kind", "cursor", "__typename"})


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
    try:
        rows = _records(document)
    except RecursionError:
        rows = None
    if rows is None:
        raise DatasetError(f"The JSON in {name} is not a table. Give a list of objects, or one object per line.")
    return rows


def _json_line(line: str, number: int, name: str) -> Any:
    try:
        return parsed(line, json.loads)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The table {name} is damaged JSON: {error}. Correct line {number}.") from error


def _records(document: Any) -> list[dict[str, Any]] | None:
    """The rows in a JSON document: a list of objects, or one of the forms that pandas writes, or an API's response.

    In a response the rows are the only list of objects inside of objects.
    """
    if isinstance(document, list):
        return _rows(document)
    if not isinstance(document, dict) or not document:
        return None
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
        columns = [str(column) for column in document["columns"]]
        if not all(isinstance(row, list) and len(row) == len(columns) for row in document["data"]):
            return None
        return [dict(zip(columns, row, strict=True)) for row in document["data"]]
    if "included" in document and (page := _page(document)) is not None:
        return _rows(page)
    lists = [value for value in document.values() if isinstance(value, list)]
    tables = [rows for rows in lists if rows and all(isinstance(row, dict) for row in rows)]
    if len(lists) == len(document) and len({len(values) for values in lists}) == 1 and len(lists) > 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)]
    if all(isinstance(value, dict) for value in document.values()):
        inner = [key for value in document.values() for key in value]
        if inner and all(key.isdigit() for key in inner) and not all(key.isdigit() for key in document):
            keys = dict.fromkeys(inner)
            return [{column: values.get(key) for column, values in document.items()} for key in keys]
        if len(document) > 1 and len(set(inner)) < len(inner):  # else they are parts of a response, not rows
            if None not in map(_page, document.values()):
                return _rows(list(document.values()))
            return [{"id": key, **row} for key, row in document.items()]
    if tables:
        largest = max(tables, key=len)
        return _rows(largest)
    inside = [_records(value) for value in document.values() if isinstance(value, dict | list)]
    found = [rows for rows in inside if rows is not None]
    return found[0] if len(found) == 1 else None


def _rows(entries: list[Any]) -> list[dict[str, Any]] | None:
    """The rows in a list of rows, of objects around one row each, or of an API's responses; None if it has others."""
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    pages = [_page(entry) for entry in entries]
    if entries and all(page is not None for page in pages):
        return _rows([row for page in pages for row in page or ()])
    while entries and all(len(entry) == 1 and isinstance(next(iter(entry.values())), dict) for entry in entries):
        entries = [next(iter(entry.values())) for entry in entries]  # {"node": {...}}
    for key in _AROUND_ROWS:
        if entries and all(isinstance(entry.get(key), dict) and _is_around(entry, key) for entry in entries):
            return [{**{name: entry[name] for name in entry if name != key}, **entry[key]} for entry in entries]
    return entries


def _is_around(entry: Mapping[str, Any], key: str) -> bool:
    """Whether the value of a key is the row itself: beside it are only objects, such as links, and what kind it is."""
    return all(name == key or name in _BESIDE_ROWS or isinstance(value, dict) for name, value in entry.items())


def _page(entry: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an API's response, of which a table may have several; None if the object is no response."""
    rows = next((entry[key] for key in _PAGES if key in entry), None)
    if isinstance(rows, dict) and isinstance(rows.get("attributes"), dict):  # JSON:API's response about one title
        rows = [rows]
    while isinstance(rows, dict):  # GraphQL's {"data": {"Page": {"media": [...]}}}; a row would have texts or numbers
        lists = [value for value in rows.values() if isinstance(value, list)]
        is_row = not all(isinstance(value, dict | list) for value in rows.values())
        if is_row or len(lists or rows) != 1:
            return None
        rows = next(iter(lists or rows.values()))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return _with_included(rows, entry["included"]) if isinstance(entry.get("included"), list) else rows


def _with_included(rows: list[dict[str, Any]], included: list[Any]) -> list[dict[str, Any]]:
    """The rows of a response in the form of JSON:API, where they only name their genres, which `included` describes."""

    def key_of(value: Any) -> tuple[str, str]:
        return (str(value.get("type")), str(value.get("id"))) if isinstance(value, dict) else ("", "")

    known = {
        key_of(each): {"id": each.get("id"), **each["attributes"]}
        for each in included
        if isinstance(each, dict) and isinstance(each.get("attributes"), dict)
    }
    joined = []
    for row in rows:
        relations = row.get("relationships")
        named = {
            name: [known[key] for each in relation["data"] if (key := key_of(each)) in known]
            for name, relation in (relations.items() if isinstance(relations, dict) else ())
            if isinstance(relation, dict) and isinstance(relation.get("data"), list)
        }
        attributes = row.get("attributes")
        joined.append({**row, "attributes": {**named, **attributes}} if isinstance(attributes, dict) else row)
    return joined
