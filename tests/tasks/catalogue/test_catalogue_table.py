"""The catalogue as a table, and its file."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ml.data.user_table import read_table
from tasks.catalogue.catalogue_table import COLUMNS, catalogue_of, items, read_catalogue, related_in, write_catalogue
from tasks.catalogue.titles import Related, Title
from tasks.crawl.ledger import poster_name
from tasks.errors import CatalogueError

LANTERNS = Title(
    id="8769",
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
    related=[Related("Sequel", "13659"), Related("Alternative Version", "20021", "Bells | Winds")],
)
UNKNOWN = Title(id="1", title="NA")
HEADER = (
    "mal_id,title,type,source,start_date,episodes,score,members,genres,genre_ids,themes,demographics,"
    "studios,poster_url,season,rating,aired_to,related\n"
)


def written(tmp_path: Path, *titles: Title) -> str:
    write_catalogue(catalogue_of(titles), tmp_path / "catalogue.csv")
    return (tmp_path / "catalogue.csv").read_bytes().decode()


def test_catalogue_file_keeps_its_columns_and_cells(tmp_path: Path) -> None:
    assert written(tmp_path, LANTERNS, UNKNOWN) == (
        HEADER + "1,NA,,,,,,,,,,,,,,,,\n"
        '8769,"""Lanterns"", they\nsaid — ランタン",TV,Light novel,2010-10-03,12,6.9,690123,Comedy|Slice of Life,4|36,'
        "Otaku Culture,Shounen,AIC Build|B&W,https://cdn.myanimelist.net/images/anime/1508/129576.jpg,2010-fall,"
        "R - 17+ (violence & profanity),2010-12-19,Sequel 13659|Alternative Version 20021\n"
    )


def test_catalogue_beside_its_posters_is_a_table_to_train_on(tmp_path: Path) -> None:
    adult = Title("2", "X", genres=["Erotica"], genre_ids=[49])
    rated = Title("3", "Y", genres=["Comedy"], genre_ids=[4], rating="Rx - Hentai")
    other = Title("a/b 5.0", "Unknown", genres=["Comedy"], genre_ids=[4])
    titles = (LANTERNS, UNKNOWN, adult, rated, other)
    written(tmp_path, *titles)
    (tmp_path / "posters").mkdir()
    for title in titles:
        (tmp_path / "posters" / poster_name(title.id)).write_bytes(title.id.encode())
    table = read_table(tmp_path / "catalogue.csv", tmp_path / "posters")
    genres = {poster.id: [(genre.id, genre.name) for genre in poster.genres] for poster in table.posters}
    assert genres == {"8769": [(4, "Comedy"), (36, "Slice of Life")], "a/b 5.0": [(4, "Comedy")]}
    assert [poster.title for poster in table.posters] == [LANTERNS.title, "Unknown"]
    assert table.reasons() == {"unknown genres": 1, "explicit title": 2}


@pytest.mark.parametrize(
    "title", ["None", "NA", "Null", "nan", "", "007", "two\nlines", "two\r\nlines", 'quotes"', " blanks ", "\u2028"]
)
def test_catalogue_is_read_back_with_any_title(tmp_path: Path, title: str) -> None:
    catalogue = catalogue_of([Title("2", title), LANTERNS])
    write_catalogue(catalogue, tmp_path / "deep" / "catalogue.csv")
    read = read_catalogue(tmp_path / "deep" / "catalogue.csv")
    pd.testing.assert_frame_equal(read, catalogue)
    assert read["title"][0] == title
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["catalogue.csv"]


def test_catalogue_replaces_a_lone_carriage_return_by_a_blank(tmp_path: Path) -> None:
    written(tmp_path, Title("1", "a return\ralone"), LANTERNS)
    assert read_catalogue(tmp_path / "catalogue.csv")["title"][0] == "a return alone"


def test_related_titles_are_read_back_with_any_id() -> None:
    related = [Related("Parent Story", "5"), Related("Side Story", "ab/c 1"), Related("Other", "x|y")]
    (cell,) = catalogue_of([replace(UNKNOWN, related=related)])["related"]
    assert cell.startswith("Parent Story 5|Side Story ab%2Fc%201|")
    assert related_in(cell) == related
    assert related_in("") == items("") == []


@pytest.mark.parametrize(
    ("ids", "ordered"),
    [
        (["10", "9", "2"], ["2", "9", "10"]),
        (["10", "9", "b/1"], ["10", "9", "b/1"]),
        (["01", "1", "0"], ["0", "01", "1"]),
    ],
)
def test_catalogue_is_sorted_by_number_only_if_all_ids_are_numbers(ids: list[str], ordered: list[str]) -> None:
    assert list(catalogue_of(Title(id, "x") for id in ids)["id"]) == ordered


@pytest.mark.parametrize("omitted", [["rating"], ["rating", "aired_to", "related", "own_page"]])
def test_reading_fills_columns_of_detail_pages_that_are_missing(tmp_path: Path, omitted: list[str]) -> None:
    written(tmp_path, UNKNOWN, replace(LANTERNS, own_page=True))
    path = tmp_path / "catalogue.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=omitted).to_csv(path, index=False)
    read = read_catalogue(path)
    assert list(read) == COLUMNS
    assert (read[omitted] == "").all(axis=None) and read["poster_url"][1] == LANTERNS.poster_url


def test_reading_ignores_other_columns_and_a_byte_order_mark(tmp_path: Path) -> None:
    header, row = written(tmp_path, UNKNOWN).splitlines()
    (tmp_path / "catalogue.csv").write_text(f"\ufeffnote,{header}\nmine,{row}\n", encoding="utf-8")
    pd.testing.assert_frame_equal(read_catalogue(tmp_path / "catalogue.csv"), catalogue_of([UNKNOWN]))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEADER.replace("genre_ids,", ""), "has no column genre_ids"),
        ("mal_id,title\n1,A\n", "has no column type, source"),
        ("", "cannot be read"),
        (f'{HEADER}1,"A', "cannot be read"),
        (f"{HEADER},A{',' * 16}\n", "invalid mal_id in row 1: ''"),
        (f"{HEADER}1,A{',' * 16}\n2,B{',' * 16}Sequel\n", "invalid related in row 2: 'Sequel'"),
        (f"{HEADER}1,A{',' * 4}twelve{',' * 12}\n", "invalid episodes in row 1"),
    ],
)
def test_reading_an_invalid_catalogue_says_why(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "catalogue.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=problem):
        read_catalogue(tmp_path / "catalogue.csv")


def test_reading_a_missing_catalogue_says_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="No such file"):
        read_catalogue(tmp_path / "catalogue.csv")
