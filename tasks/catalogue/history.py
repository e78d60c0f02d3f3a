"""How titles change over the years: `history.csv`, a row for each field of a title that became another one."""

import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from io import StringIO

from tasks.catalogue.catalogue_table import LIST_SEPARATOR
from tasks.catalogue.titles import AnimeRecord

# Not score, members and episodes, which change all the time, nor dates, which become more exact.
_TRACKED = ("title", "type", "source", "genres", "themes", "demographics", "studios", "rating", "poster_url")
GONE = "(gone)"


@dataclass(frozen=True)
class Change:
    """On that day (ISO) a title's field was found to be another one; the field `GONE` is the title itself."""

    date: str
    mal_id: int
    title: str
    field: str
    before: str
    after: str


_COLUMNS = tuple(field.name for field in fields(Change))


def changes(
    before: Iterable[AnimeRecord], now: Iterable[AnimeRecord], seasons: Collection[str], date: str
) -> list[Change]:
    """What changed between two catalogues, for the titles of the earlier one; gone are only those of `seasons`,
    which both catalogues are made of."""
    new_of = {record.mal_id: record for record in now}
    found = []
    for record in before:
        new = new_of.get(record.mal_id)
        if new is None:
            if record.season in seasons:
                found.append(Change(date, record.mal_id, record.title, GONE, "", ""))
            continue
        for name in _TRACKED:
            old_text, new_text = _text(getattr(record, name)), _text(getattr(new, name))
            told = name != "rating" or (old_text and new_text)  # only titles' own pages tell the rating
            if old_text != new_text and told:
                found.append(Change(date, record.mal_id, new.title, name, old_text, new_text))
    return found


def extended(history: str, found: Sequence[Change]) -> str:
    """The csv text with rows for these changes; what a field's last row says already is not written twice."""
    last = {(row[1], row[3]): row[4:] for row in csv.reader(StringIO(history, newline="")) if len(row) == len(_COLUMNS)}
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    if not history:
        writer.writerow(_COLUMNS)
    for change in found:
        row = [str(value).replace("\r", " ") for value in astuple(change)]
        if last.get((row[1], row[3])) != row[4:]:
            writer.writerow(row)
    return history + out.getvalue()


def merged(one: str, other: str) -> str:
    """The csv text with the rows of both, in the order of their days; those in both stand once."""
    texts = (csv.reader(StringIO(text, newline="")) for text in (one, other))
    rows: dict[tuple[str, ...], None] = dict.fromkeys(tuple(row) for text in texts for row in text)
    rows.pop(_COLUMNS, None)
    by_day = sorted(rows, key=lambda row: row[0])
    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(by_day)
    return out.getvalue()


def _text(value: object) -> str:
    return LIST_SEPARATOR.join(value) if isinstance(value, list) else str(value or "")
