import json
from collections.abc import Callable, Sequence

import pytest

from ml.data.genre_cells import is_filler, read_genres, unify
from ml.errors import DatasetError

NAMES = ["Action", "Slice of Life", "Sci-Fi & Fantasy", "Drama", "Comedy", "Romance"]
# Every pair and every single name, several times.
LISTS = [list(dict.fromkeys([NAMES[n % 6], NAMES[n // 6 % 6]])) for n in range(72)]


def names_of(cells: Sequence[str], separator: str | None = None) -> list[list[str]]:
    read = read_genres(cells, separator, "table.csv").of_rows
    return [[name for _, name in genres or ()] for genres in read]


@pytest.mark.parametrize("sign", ["|", ", ", ",", "; ", ";", "/", " / ", "\n", " - ", " • ", "、", "||"])
def test_separator_whose_parts_recur_is_found_and_named(sign: str) -> None:
    read = read_genres([sign.join(names) for names in LISTS], None, "table.csv")
    assert [[name for _, name in genres or ()] for genres in read.of_rows] == LISTS
    assert "The genres are separated by" in read.notices[0]


@pytest.mark.parametrize(
    "write",
    [
        str,
        json.dumps,
        lambda names: str(tuple(names)),
        lambda names: "[" + " ".join(map(repr, names)) + "]",
        lambda names: "{" + ",".join(f'"{name}"' for name in names) + "}",
        lambda names: "[" + ", ".join(names) + "]",
        lambda names: ", ".join(f'"{name}"' for name in names),
        lambda names: json.dumps([{"id": 28, "name": name} for name in names]),
        lambda names: str([{"mal_id": 1, "type": "anime", "name": name} for name in names]),
        lambda names: str(dict.fromkeys(names, 7)),
        lambda names: str([["x", name][1:] for name in names]),
    ],
    ids=range(11),
)
def test_list_literal_gives_its_names(write: Callable[[list[str]], str]) -> None:
    assert names_of([write(names) for names in LISTS]) == LISTS


def test_ids_of_list_literals_are_read() -> None:
    (genres,) = read_genres(["[{'id': 28, 'name': 'Action'}, {'id': 12, 'name': 'Adventure'}]"], None, "t").of_rows
    assert genres == (("28", "Action"), ("12", "Adventure"))


def test_name_that_contains_a_separator_survives() -> None:
    assert names_of([str(["Kids, Family", "Drama"])] * 3) == [["Kids, Family", "Drama"]] * 3
    assert names_of(["Sci-Fi & Fantasy", "Drama", "Comedy"] * 9) == [["Sci-Fi & Fantasy"], ["Drama"], ["Comedy"]] * 9
    assert names_of(["Kids, Family", "Drama", "Film/Noir"] * 9) == [["Kids, Family"], ["Drama"], ["Film/Noir"]] * 9
    assert names_of(["Action &amp; Adventure", "Kids&#39; TV", "Drama"] * 9)[:2] == [
        ["Action & Adventure"],
        ["Kids' TV"],
    ]
    assert names_of(["Kids, Family|Drama", "Drama|Comedy", "Comedy"] * 9)[0] == ["Kids, Family", "Drama"]


def test_blanks_separate_if_nothing_else_does_and_words_that_stay_together_are_one_name() -> None:
    lists = [[name.replace("Sci-Fi & Fantasy", "Science Fiction") for name in names] for names in LISTS]
    read = read_genres([" ".join(names) for names in lists], None, "table.csv")
    assert [[name for _, name in genres or ()] for genres in read.of_rows] == lists
    assert "Science Fiction, Slice of Life" in read.notices[0]
    dense = ["Action", "Drama", "Sci-Fi", "Comedy", "Horror"]
    triples = [[a, b, c] for a in dense for b in dense for c in dense if len({a, b, c}) == 3]
    assert names_of([" ".join(names) for names in triples]) == triples
    assert names_of(["Girls Love", "Boys Love", "Action"] * 9) == [["Girls Love"], ["Boys Love"], ["Action"]] * 9


@pytest.mark.parametrize("sign", [" & ", " and ", "+", "-", "_", ":", "~", " > ", "#"])
def test_sign_of_names_separates_if_nothing_else_does(sign: str) -> None:
    lists = [[name.replace("Sci-Fi & Fantasy", "Science").replace(" ", "") for name in names] for names in LISTS]
    assert names_of([sign.join(names) for names in lists]) == lists


@pytest.mark.parametrize(
    ("cells", "readings"),
    [
        (["|".join(names) for names in LISTS] + ["Action, Drama"], ["--separator '|'", "--separator ','"]),
        ([", ".join(names) for names in LISTS] + ["Action/Drama, Comedy"], ["--separator ','", "--separator '/'"]),
        (
            ["Action, Drama", "Drama, Kids", "Kids"] * 90 + ["Kids/Action"],
            ["'Action' and 'Drama' with --separator ','"],
        ),
        (["Science Fiction", "Science", "Fiction", "Film Noir", "Noir"] * 9, ["--separator ' '", "--separator '|'"]),
        (["Action, Comedy", "Drama"], ["'Action' and 'Comedy' with --separator ','", "'Action, Comedy' with"]),
    ],
)
def test_two_readings_stop_with_both_and_the_option(cells: list[str], readings: list[str]) -> None:
    with pytest.raises(DatasetError, match="can be read in two ways") as raised:
        names_of(cells)
    assert all(reading in str(raised.value) for reading in readings)


@pytest.mark.parametrize(("sign", "odd"), [(", ", "Drama; Comedy"), ("|", "Action, Drama"), ("/", "Comedy|Drama")])
def test_rare_row_with_another_separator_is_unreadable(sign: str, odd: str) -> None:
    cells = [sign.join(names) for names in LISTS * 3]
    cells.insert(100, odd)
    read = read_genres(cells, None, "table.csv").of_rows
    assert read.pop(100) is None
    assert [[name for _, name in genres or ()] for genres in read] == LISTS * 3
    with pytest.raises(DatasetError, match="can be read in two ways"):
        read_genres([*cells, odd, odd], None, "table.csv")


def test_given_separator_decides() -> None:
    assert names_of(["Action/Comedy, Drama"], ",") == [["Action/Comedy", "Drama"]]
    assert names_of(["Action/Comedy, Drama"], ",/") == [["Action", "Comedy", "Drama"]]
    assert names_of(["Science Fiction"], "|") == [["Science Fiction"]]
    assert names_of(["Rock and Roll and Andes"], "and") == [["Rock", "Roll", "Andes"]]


@pytest.mark.parametrize(
    "cell",
    [
        "Unknown",
        "UNKNOWN",
        "nan",
        "None",
        "N/A",
        "null",
        "[]",
        "-",
        "(no genres listed)",
        "\\N",
        "<NA>",
        "--",
        "TBA",
        "",
    ],
)
def test_filler_is_unknown_in_any_case(cell: str) -> None:
    for written in (cell, cell.upper(), f" {cell.lower()} "):
        assert is_filler(written)
    assert names_of([cell, "Drama, Action", "Action"], ",") == [[], ["Drama", "Action"], ["Action"]]
    unified, _ = unify([(("", "Drama"), ("", cell))], [2], "t")
    assert unified == [(("", "Drama"),)]


def test_list_that_was_cut_off_is_unreadable_not_a_genre() -> None:
    read = read_genres(["['Action', 'Dra", "[{'id': 1, 'name': 'Act", "Drama'] ", "Drama"], "|", "table.csv")
    assert read.of_rows == [None, None, None, (("", "Drama"),)]


def test_bars_in_names_are_replaced_and_said() -> None:
    read = read_genres(["['Action|Adventure', 'Drama']"], None, "table.csv")
    assert "/ replaces it" in read.notices[-1]
    assert unify(read.of_rows, [2], "t")[0] == [(("", "Action/Adventure"), ("", "Drama"))]


def test_spellings_and_ids_of_one_genre_are_unified() -> None:
    rows = [(("", "drama"),), (("", "Drama"), ("", "Cars")), (("8", "Drama"),), (("3", "Racing"),), (("3", "Cars"),)]
    unified, notices = unify(rows, range(5), "t")
    assert unified == [(("8", "Drama"),), (("8", "Drama"), ("3", "Cars")), (("8", "Drama"),), *[(("3", "Cars"),)] * 2]
    assert notices == ["Names of one genre: Cars = Racing, Drama = drama."]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(("8", "Drama"),), (("9", "Drama"),)], "'Drama' has the id 9 in row 3 and 8 in row 2"),
        ([(("8", "Drama"), ("8", "Comedy"))], "'Drama' and 'Comedy' in row 2 have the id 8"),
    ],
)
def test_ids_that_contradict_each_other_are_named_with_their_rows(rows: list, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        unify(rows, [2, 3][: len(rows)], "table.csv")
