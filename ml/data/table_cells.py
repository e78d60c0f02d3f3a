"""What a table's file contains, as text: the result of reading CSV, JSON and Parquet alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    line = " ".join(text.split())
    return f"'{line}'" if len(line) <= limit else f"'{line[:limit]}...'"


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
