"""The history of titles: what counts as a change, and that each change is written once."""

import csv
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest

from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.history import GONE, changes, extended, merged, returns
from tasks.catalogue.titles import Related, Title

DAY = "2026-07-25"
LANTERNS = Title(
    id="8769",
    title="Lanterns",
    type="TV",
    source="Light novel",
    start_date="2010-10-03",
    episodes=12,
    score=6.94,
    members=690123,
    genres=["Comedy", "Romance"],
    genre_ids=[4, 22],
    themes=["School"],
    demographics=["Shounen"],
    studios=["AIC Build"],
    poster_url="https://cdn.test/images/anime/1508/129576.jpg",
    season="2010-fall",
    rating="PG-13 - Teens 13 or older",
    aired_to="2010-12-19",
    related=[Related("Sequel", "13659")],
)
HEADER = "date,mal_id,title,field,before,after\n"
Row = tuple[str, str, str, str, str, str]


def found(before: list[Title], now: list[Title], gone_of: str = "2010-fall") -> pd.DataFrame:
    old = catalogue_of(before)
    return changes(old, catalogue_of(now), old["season"] == gone_of, DAY)


def table(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["date", "id", "title", "field", "before", "after"], dtype=str)


def rows_of(table: pd.DataFrame) -> list[Row]:
    return list(table.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    ("field", "value", "before", "after"),
    [
        ("type", "OVA", "TV", "OVA"),
        ("source", None, "Light novel", ""),
        ("rating", "R - 17+ (violence & profanity)", "PG-13 - Teens 13 or older", "R - 17+ (violence & profanity)"),
        ("poster_url", None, "https://cdn.test/images/anime/1508/129576.jpg", ""),
        ("genres", ["Comedy"], "Comedy|Romance", "Comedy"),
        ("themes", ["School", "Space"], "School", "School|Space"),
        ("demographics", [], "Shounen", ""),
        ("studios", ["AIC Build", "B&W"], "AIC Build", "AIC Build|B&W"),
    ],
)
def test_changes_track_each_of_these_fields(field: str, value: Any, before: str, after: str) -> None:
    now = replace(LANTERNS, **{field: value})
    assert rows_of(found([LANTERNS], [now])) == [(DAY, "8769", "Lanterns", field, before, after)]


def test_changes_are_listed_by_title_under_its_new_name() -> None:
    other = replace(LANTERNS, id="9000", title="Bells")
    now = [replace(LANTERNS, title="Lamps", studios=[]), replace(other, type="OVA"), replace(LANTERNS, id="5")]
    assert rows_of(found([LANTERNS, other], now)) == [
        (DAY, "8769", "Lamps", "title", "Lanterns", "Lamps"),
        (DAY, "8769", "Lamps", "studios", "AIC Build", ""),
        (DAY, "9000", "Bells", "type", "TV", "OVA"),
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"score": None, "members": 1, "episodes": 24, "aired_to": None, "related": [], "continuing": True},
        {"rating": None, "aired_to": None, "related": []},
        {"season": "2011-winter"},
    ],
)
def test_changes_omit_what_changes_every_day_and_unread_detail_pages(values: dict[str, Any]) -> None:
    now = replace(LANTERNS, **values)
    assert found([LANTERNS], [now]).empty
    assert found([now], [LANTERNS]).empty


def test_changes_list_a_title_as_gone_only_if_it_was_selected() -> None:
    elsewhere = [replace(LANTERNS, id="5", season="2011-winter"), replace(LANTERNS, id="6", season=None)]
    assert rows_of(found([LANTERNS, *elsewhere], [])) == [(DAY, "8769", "Lanterns", GONE, "", "")]
    assert found([], [LANTERNS]).empty


FOUND: list[Row] = [
    (DAY, "8769", 'She said "no, never"', "title", "Never", 'She said "no, never"'),
    (DAY, "5", "Two\nlines, ランタン", "genres", "", "Comedy|Romance"),
    (DAY, "6", "NA", GONE, "", ""),
]


def test_history_is_read_back_with_any_title() -> None:
    assert extended("", table()) == HEADER
    history = extended("", table(*FOUND))
    assert [tuple(row) for row in csv.reader(StringIO(history), strict=True)][1:] == FOUND
    assert extended(history, table()) == history


def test_history_keeps_a_field_that_changes_back_and_forth() -> None:
    first: Row = ("2026-07-25", "1", "A", "type", "TV", "OVA")
    back: Row = ("2026-08-01", "1", "A", "type", "OVA", "TV")
    again: Row = ("2026-08-08", "1", "A", "type", "TV", "OVA")
    history = extended(extended("", table(first, back)), table(again))
    assert history == HEADER + "".join(",".join(row) + "\n" for row in (first, back, again))


def test_history_records_each_departure_and_each_return_of_a_title() -> None:
    history, other = "", replace(LANTERNS, id="9000", title="Bells")
    both, one = catalogue_of([LANTERNS, other]), catalogue_of([other])
    days = [both, one, one, both, both, one, both]
    for day, (before, now) in enumerate(pairwise(days), start=1):
        date = f"2026-07-0{day}"
        found = pd.concat([changes(before, now, before["season"] == "2010-fall", date), returns(history, now, date)])
        history = extended(history, found)
    assert history == HEADER + (
        "2026-07-01,8769,Lanterns,(gone),,\n"
        "2026-07-03,8769,Lanterns,(gone),,back\n"
        "2026-07-05,8769,Lanterns,(gone),,\n"
        "2026-07-06,8769,Lanterns,(gone),,back\n"
    )


@pytest.mark.parametrize("change", FOUND, ids=["quotes", "lines", "plain"])
def test_history_has_no_row_twice_after_a_repeated_run(change: Row) -> None:
    history = extended("", table(change))
    assert extended(history, table(change)) == history
    other: Row = (change[0], "7", *change[2:])
    assert extended(history, table(change, other)) == extended(history, table(other))


def test_histories_are_merged_by_date_without_duplicates() -> None:
    early: Row = ("2026-07-01", "1", 'One, "first"', "type", "TV", "OVA")
    both: Row = ("2026-07-08", "2", "Two", "title", "Deux", "Two")
    late: Row = ("2026-07-15", "3", "Three", "type", "TV", "ONA")
    one, other = extended("", table(early, both)), extended("", table(both, late))
    assert merged(one, other) == merged(other, one) == extended("", table(early, both, late))
    assert merged(one, "") == one
