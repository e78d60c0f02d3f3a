"""The history of a catalogue: `history.csv`, one row for each field of a title that changed.

A history is a table of text with the columns date (ISO), id, title, field, before and after. A row with the field
`GONE` says that the title is gone or, if `after` is `BACK`, that it has returned.
"""

from io import StringIO

import pandas as pd

from tasks.catalogue.catalogue_table import CODE_NAMES, STORED_NAMES

# Not score, members and episodes, which change all the time, nor dates, which become more exact.
_TRACKED = ("title", "type", "source", "genres", "themes", "demographics", "studios", "rating", "poster_url")
_COLUMNS = ["date", "id", "title", "field", "before", "after"]
GONE = "(gone)"
BACK = "back"


def changes(before: pd.DataFrame, now: pd.DataFrame, selected: "pd.Series[bool]", date: str) -> pd.DataFrame:
    """What changed from one catalogue to the next. `selected` are the titles of `before` that `now` has to include:
    only these can be gone."""
    joined = before.merge(now, on="id", how="left", suffixes=("", "_now"), indicator="found")
    is_gone = joined["found"] == "left_only"
    found = [joined.loc[is_gone & selected, ["id", "title"]].assign(field=GONE, before="", after="")]
    for name in _TRACKED:
        old, new = joined[name], joined[f"{name}_now"]
        differs = ~is_gone & (old != new)
        if name == "rating":  # known only after the title's detail page was read
            differs &= (old != "") & (new != "")
        row = {"id": joined["id"], "title": joined["title_now"], "field": name, "before": old, "after": new}
        found.append(pd.DataFrame(row)[differs])
    return pd.concat(found).sort_index(kind="stable").assign(date=date)[_COLUMNS].reset_index(drop=True)


def returns(history: str, now: pd.DataFrame, date: str) -> pd.DataFrame:
    """The titles of a catalogue whose last `GONE` row in the history is a departure."""
    known = parse_history(history)
    last = known[known["field"] == GONE].drop_duplicates("id", keep="last")
    titles = now.loc[now["id"].isin(last.loc[last["after"] != BACK, "id"]), ["id", "title"]]
    return titles.assign(date=date, field=GONE, before="", after=BACK)[_COLUMNS].reset_index(drop=True)


def extended(history: str, found: pd.DataFrame) -> str:
    """The CSV text of a history with these changes added, except those that are a field's last row already."""
    known = parse_history(history)
    found = found.replace("\r", " ", regex=True)
    last = known.drop_duplicates(["id", "field"], keep="last")
    is_known = (
        found.merge(last, on=["id", "field", "before", "after"], how="left", indicator="found")["found"] == "both"
    )
    return _text(pd.concat([known, found[~is_known.to_numpy()]]))


def merged(one: str, other: str) -> str:
    """The CSV text of a history with the rows of both, each once, by date. Raises ValueError if one is damaged."""
    both = pd.concat([parse_history(one), parse_history(other)]).drop_duplicates()
    return _text(both.sort_values("date", kind="stable"))


def parse_history(text: str) -> pd.DataFrame:
    """The rows of a history, none if the text is empty. Raises ValueError if it is damaged."""
    if not text:
        return pd.DataFrame(columns=_COLUMNS, dtype=str)
    history = pd.read_csv(StringIO(text, newline=""), dtype=str, keep_default_na=False).rename(columns=CODE_NAMES)
    if list(history) != _COLUMNS or not text.endswith("\n"):
        raise ValueError(f"it has other columns than {', '.join(_COLUMNS)}, or a row is cut")
    return history


def _text(history: pd.DataFrame) -> str:
    text: str = history.rename(columns=STORED_NAMES).to_csv(index=False, lineterminator="\n")
    return text
