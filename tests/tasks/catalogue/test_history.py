"""The history of titles: what counts as a change, and that each is written down once."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from io import StringIO
from typing import Any

import pytest

from tasks.catalogue.history import GONE, Change, changes, extended, merged
from tasks.catalogue.titles import AnimeRecord, Related

DAY = "2026-07-25"
LANTERNS = AnimeRecord(
    mal_id=8769,
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
    related=[Related("Sequel", 13659)],
)
COMMON = {"2010-fall"}


def changes_to(now: AnimeRecord, before: AnimeRecord = LANTERNS) -> list[Change]:
    return changes([before], [now], COMMON, DAY)


def parsed(history: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(history), strict=True))


def test_what_stays_the_same_is_no_change() -> None:
    assert changes_to(replace(LANTERNS)) == []


@pytest.mark.parametrize(
    ("field", "value", "before", "after"),
    [
        ("type", "OVA", "TV", "OVA"),
        ("source", None, "Light novel", ""),
        ("rating", "R - 17+ (violence & profanity)", "PG-13 - Teens 13 or older", "R - 17+ (violence & profanity)"),
        ("poster_url", None, "https://cdn.test/images/anime/1508/129576.jpg", ""),
        ("genres", ["Comedy"], "Comedy|Romance", "Comedy"),
        ("genres", [], "Comedy|Romance", ""),
        ("themes", ["School", "Space"], "School", "School|Space"),
        ("demographics", ["Seinen"], "Shounen", "Seinen"),
        ("studios", ["AIC Build", "B&W"], "AIC Build", "AIC Build|B&W"),
    ],
)
def test_each_of_these_fields_is_watched(field: str, value: Any, before: str, after: str) -> None:
    now = replace(LANTERNS, **{field: value})
    assert changes_to(now) == [Change(DAY, 8769, "Lanterns", field, before, after)]


def test_a_title_that_has_another_name_is_called_by_it() -> None:
    assert changes_to(replace(LANTERNS, title="Lamps")) == [Change(DAY, 8769, "Lamps", "title", "Lanterns", "Lamps")]


def test_several_fields_of_a_title_are_several_changes() -> None:
    now = replace(LANTERNS, type="OVA", studios=[])
    assert [change.field for change in changes_to(now)] == ["type", "studios"]


def test_what_changes_every_day_is_none() -> None:
    now = replace(LANTERNS, score=None, members=1, episodes=24, aired_to=None, related=[], continuing=True)
    assert changes_to(now) == []


def test_that_a_titles_own_page_was_read_for_the_first_time_is_none() -> None:
    unread = replace(LANTERNS, rating=None, aired_to=None, related=[])
    assert changes_to(LANTERNS, before=unread) == []


def test_a_title_that_is_new_is_none() -> None:
    assert changes([], [LANTERNS], COMMON, DAY) == []


def test_a_title_is_gone_only_where_its_season_was_read_both_times() -> None:
    elsewhere = [replace(LANTERNS, mal_id=5, season="2011-winter"), replace(LANTERNS, mal_id=6, season=None)]
    found = changes([LANTERNS, *elsewhere], [], COMMON, DAY)
    assert found == [Change(DAY, 8769, "Lanterns", GONE, "", "")]


def test_a_title_that_moved_to_another_season_is_not_gone() -> None:
    assert changes_to(replace(LANTERNS, season="2011-winter")) == []


FOUND = [
    Change(DAY, 8769, 'She said "no, never"', "title", "Never", 'She said "no, never"'),
    Change(DAY, 5, "Two\nlines, ランタン", "genres", "", "Comedy|Romance"),
    Change(DAY, 6, "Gone", GONE, "", ""),
]


def as_rows(found: Sequence[Change]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in asdict(change).items()} for change in found]


def test_what_is_written_is_read_back_whatever_a_title_holds() -> None:
    assert parsed(extended("", FOUND)) == as_rows(FOUND)


def test_the_first_line_names_the_columns_also_where_nothing_changed() -> None:
    assert extended("", []) == "date,mal_id,title,field,before,after\n"


def test_later_changes_follow_the_earlier_ones() -> None:
    later = Change("2026-08-01", 8769, "Never", "title", 'She said "no, never"', "Never")
    history = extended(extended("", FOUND), [later])
    assert history.startswith(extended("", FOUND))
    assert parsed(history) == as_rows([*FOUND, later])


def test_a_field_that_changes_back_and_forth_is_written_each_time() -> None:
    first = Change("2026-07-25", 1, "A", "type", "TV", "OVA")
    back = Change("2026-08-01", 1, "A", "type", "OVA", "TV")
    again = Change("2026-08-08", 1, "A", "type", "TV", "OVA")
    assert parsed(extended(extended("", [first, back]), [again])) == as_rows([first, back, again])


@pytest.mark.parametrize("change", FOUND, ids=["quotes", "lines", "plain"])
def test_a_run_that_was_killed_and_is_repeated_writes_nothing_twice(change: Change) -> None:
    history = extended("", [change])
    assert extended(history, [change]) == history
    other = replace(change, mal_id=7)
    assert parsed(extended(history, [change, other])) == as_rows([change, other])


def test_two_histories_are_merged_by_their_days_and_nothing_stands_twice() -> None:
    early = Change("2026-07-01", 1, 'One, "first"', "type", "TV", "OVA")
    both = Change("2026-07-08", 2, "Two", "title", "Deux", "Two")
    late = Change("2026-07-15", 3, "Three", "type", "TV", "ONA")
    one, other = extended("", [early, both]), extended("", [both, late])
    assert merged(one, other) == merged(other, one) == extended("", [early, both, late])
    assert merged(one, "") == one
