"""The catalogue: titles of many pages, each once, in a file and back."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.catalogue.catalogue_table import COLUMNS, merge, read_catalogue, write_catalogue
from tasks.errors import CatalogueError
from tasks.myanimelist.pages import AnimeRecord, Related

LANTERNS = AnimeRecord(
    mal_id=8769,
    title='"Lanterns", they\nsaid — ランタン',
    type="TV",
    source="Light novel",
    start_date="2010-10-03",
    episodes=12,
    score=6.9,
    members=690123,
    genres=["Comedy", "Slice of Life"],
    genre_ids=[4, 36],
    themes=["Otaku Culture"],
    demographics=["Shounen"],
    studios=["AIC Build", "B&W"],
    poster_url="https://cdn.myanimelist.net/images/anime/1508/129576.jpg",
    season="2010-fall",
    rating="R - 17+ (violence & profanity)",
    aired_to="2010-12-19",
    related=[Related("Sequel", 13659), Related("Alternative Version", 20021)],
)
UNKNOWN = AnimeRecord(mal_id=1, title="NA")


def test_the_columns_are_those_of_season_pages_and_then_those_of_titles_own() -> None:
    assert ",".join(COLUMNS) == (
        "mal_id,title,type,source,start_date,episodes,score,members,genres,genre_ids,themes,demographics,"
        "studios,poster_url,season,rating,aired_to,related"
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "catalogue.csv"
    write_catalogue([UNKNOWN, LANTERNS], path)
    assert read_catalogue(path) == [UNKNOWN, LANTERNS]
    assert [file.name for file in path.parent.iterdir()] == ["catalogue.csv"]


def test_lists_are_joined_by_bars_and_the_unknown_is_empty(tmp_path: Path) -> None:
    write_catalogue([UNKNOWN, LANTERNS], tmp_path / "catalogue.csv")
    text = (tmp_path / "catalogue.csv").read_text(encoding="utf-8")
    assert "1,NA,,,,,,,,,,,,,,,,\n" in text
    assert ",Comedy|Slice of Life,4|36,Otaku Culture,Shounen,AIC Build|B&W," in text


def test_related_titles_are_written_by_relation_and_id_without_their_names(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    named = [Related("Parent Story", 5, "Bells | Winds"), Related("Side Story", 6, "Lamps")]
    write_catalogue([replace(UNKNOWN, related=named)], path)
    assert ",Parent Story 5|Side Story 6\n" in path.read_text(encoding="utf-8")
    (record,) = read_catalogue(path)
    assert record.related == [Related("Parent Story", 5), Related("Side Story", 6)]


@pytest.mark.parametrize("left_out", [["rating"], ["aired_to"], ["related"], ["rating", "aired_to", "related"]])
def test_a_table_without_what_titles_own_pages_tell_is_read(tmp_path: Path, left_out: list[str]) -> None:
    path = tmp_path / "catalogue.csv"
    write_catalogue([UNKNOWN, LANTERNS], path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [column for column in COLUMNS if column not in left_out], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    empty: dict[str, Any] = {"rating": None, "aired_to": None, "related": []}
    assert read_catalogue(path) == [UNKNOWN, replace(LANTERNS, **{column: empty[column] for column in left_out})]


@pytest.mark.parametrize("column", [column for column in COLUMNS if column not in ("rating", "aired_to", "related")])
def test_a_table_without_any_other_column_is_no_catalogue(tmp_path: Path, column: str) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text(",".join(name for name in COLUMNS if name != column) + "\n", encoding="utf-8")
    with pytest.raises(CatalogueError, match=f"has no column {column}"):
        read_catalogue(path)


@pytest.mark.parametrize("title", ["two\nlines", "two\r\nlines", 'quotes"', " blanks ", "\u2028"])
def test_whatever_a_title_holds_is_read_back(tmp_path: Path, title: str) -> None:
    records = [AnimeRecord(1, title), UNKNOWN]
    write_catalogue(records, tmp_path / "catalogue.csv")
    assert read_catalogue(tmp_path / "catalogue.csv") == records


def test_a_lone_return_in_a_title_does_not_spoil_the_table(tmp_path: Path) -> None:
    write_catalogue([AnimeRecord(1, "a return\ralone"), UNKNOWN], tmp_path / "catalogue.csv")
    assert read_catalogue(tmp_path / "catalogue.csv") == [AnimeRecord(1, "a return alone"), UNKNOWN]


def test_columns_of_other_people_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    write_catalogue([UNKNOWN], path)
    header, row = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"\ufeffnote,{header}\nmine,{row}\n", encoding="utf-8")
    assert read_catalogue(path) == [UNKNOWN]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mal_id,title\n1,A\n", "has no column type, source"),
        ("", "has no column mal_id"),
        (f"{','.join(COLUMNS)}\none,A{',' * 16}\n", "line 2 the cell mal_id cannot be read"),
        (f"{','.join(COLUMNS)}\n1,A{',' * 16}Sequel\n", "line 2 the cell related cannot be read"),
        (f"{','.join(COLUMNS)}\n1,A\n", "line 2 the cell type cannot be read: the row is too short"),
        (f"{','.join(COLUMNS)}\n1,A{',' * 13}\n", "line 2 the cell rating cannot be read: the row is too short"),
    ],
)
def test_a_table_that_is_no_catalogue_says_why(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=problem):
        read_catalogue(path)


def test_a_catalogue_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="No such file"):
        read_catalogue(tmp_path / "catalogue.csv")


def seen(mal_id: int, season: str, *, continuing: bool = False, start_date: str | None = None) -> AnimeRecord:
    return AnimeRecord(mal_id, f"title {mal_id}", season=season, continuing=continuing, start_date=start_date)


def test_titles_are_sorted_and_each_stands_once_with_its_earliest_season() -> None:
    later = [seen(7, "2011-winter", continuing=True), seen(5, "2011-winter")]
    earlier = [seen(7, "2010-fall"), seen(3, "2010-fall")]
    records = merge([later, earlier])
    assert [(record.mal_id, record.season) for record in records] == [
        (3, "2010-fall"),
        (5, "2011-winter"),
        (7, "2010-fall"),
    ]


def test_a_continuing_card_does_not_overwrite_even_where_it_comes_first() -> None:
    # The site counts late December as winter, whose page comes after the autumn's.
    pages = [[seen(7, "2010-fall", continuing=True)], [seen(7, "2011-winter")]]
    assert [record.season for record in merge(pages)] == ["2011-winter"]
    assert [record.season for record in merge(reversed(pages))] == ["2011-winter"]


def test_a_title_that_only_continues_has_the_season_of_its_first_day() -> None:
    (record,) = merge([[seen(21, "2015-winter", continuing=True, start_date="1999-10-20")]])
    assert record.season == "1999-fall"
    (record,) = merge([[seen(21, "2015-winter", continuing=True, start_date="1999")]])
    assert record.season == "2015-winter"
