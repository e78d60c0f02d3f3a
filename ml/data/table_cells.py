"""What a table's file contains, as text: the result of reading CSV, JSON and Parquet alike."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

TABLE_KINDS = "Tables are CSV, JSON or Parquet files."
_SHOWN = 60  # characters of a foreign text in a message


@dataclass(frozen=True)
class Cells:
    """A table's cells as text, rows that cannot be used (columns id and reason), and the decisions taken."""

    table: pd.DataFrame
    dropped: pd.DataFrame
    notices: tuple[str, ...]


def shown(text: str, limit: int = _SHOWN) -> str:
    """A foreign text for a message: in quotes, on one line, and at most `limit` characters of it."""
    return f"'{shortened(text, limit)}'"


def shortened(text: str, limit: int = _SHOWN) -> str:
    """A foreign text as `shown` gives it, without quotes."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def parsed(text: str, parse: Callable[[str], Any]) -> Any:
    """What `parse` reads in a text with escapes. Half an emoji, as where a text was cut, becomes "�"."""
    value = parse(text)
    return _whole(value) if "\\" in text else value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(_whole, value))
    return value


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of columns, each only once: the second `genre` becomes `genre.1`."""
    seen: Counter[str] = Counter()
    unique = []
    for place, name in enumerate(names):
        name = name or f"column {place + 1}"
        unique.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return unique


def dropped_rows(ids: Sequence[str], reasons: Sequence[str]) -> pd.DataFrame:
    """The rows that cannot be used, with the reason for each."""
    return pd.DataFrame({"id": ids, "reason": reasons}, dtype=str)
