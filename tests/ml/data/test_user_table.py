import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.decoding import Poster, open_pixels
from ml.data.genres import Genre
from ml.data.splits import draw_part
from ml.data.user_table import Table, draw_parts, read_table
from ml.errors import DatasetError
from ml.reporting import NullReporter
from serving.bundle.files import sha256_of_file


@pytest.fixture
def folder(tmp_path: Path, make: Callable[[Path, int], list[Poster]]) -> Path:
    """A folder `posters` with the files 0.jpg to 3.jpg."""
    make(tmp_path / "posters", 4)
    return tmp_path / "posters"


def write(folder: Path, rows: list[dict[str, str]]) -> Path:
    file = folder.parent / "table.csv"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def drawn(table: Table, workspace: Path) -> list[Poster]:
    return draw_parts(table, open_pixels(workspace, 32), NullReporter())


def test_table_is_read_with_ids_titles_and_genre_ids(folder: Path) -> None:
    titles = ("Bebop", "Bebop: The Movie")
    rows = [
        {"mal_id": str(n), "title": title, "genres": "Action|Sci-Fi", "genre_ids": "1|24", "file": f"posters/{n}.jpg"}
        for n, title in enumerate(titles)
    ]
    table = read_table(write(folder, rows), folder)
    assert not table.reasons()
    first, second = table.posters
    assert (first.id, first.title, first.genres) == ("0", "Bebop", (Genre(1, "Action"), Genre(24, "Sci-Fi")))
    assert first.franchise == second.franchise == "bebop"
    assert first.sha256 == sha256_of_file(folder / "0.jpg")


def test_genre_keeps_its_id_beside_a_genre_without_one(folder: Path) -> None:
    file = folder.parent / "table.csv"
    file.write_text("file,title,genres,genre_ids\n0.jpg,a,Action|Drama,1|8\n1.jpg,b,Action|Weird,\n")
    first, second = read_table(file, folder).posters
    assert first.genres == (Genre(1, "Action"), Genre(8, "Drama"))
    assert second.genres == (Genre(1, "Action"), Genre(None, "Weird"))


def test_titles_keep_words_that_mean_unknown_in_other_columns(folder: Path) -> None:
    (folder.parent / "table.csv").write_text(
        "file,id,title,genres\n0.jpg,5.0,None,Drama\n1.jpg,007,Null,N/A\n2.jpg,nan,x,Drama\n"
    )
    table = read_table(folder.parent / "table.csv", folder)
    assert [(poster.id, poster.title, poster.franchise) for poster in table.posters] == [("5", "None", "none")]
    assert table.left_out.to_dict("list") == {"id": ["row 4", "007"], "reason": ["no id", "unknown genres"]}


@pytest.mark.parametrize("prefix", ["posters/", ""])
@pytest.mark.parametrize("up", [False, True])
def test_files_are_found_in_the_folder_or_its_parent(folder: Path, prefix: str, up: bool) -> None:
    if up and not prefix:
        shutil.copytree(folder, folder.parent, dirs_exist_ok=True)
    file = write(folder, [{"id": "7", "genres": "Action", "file": f"{prefix}0.jpg"}])
    assert read_table(file, folder.parent if up else folder).posters[0].file.name == "0.jpg"


def test_notices_name_missing_columns(folder: Path) -> None:
    rows = [{"genres": "Action", "file": f"{n}.jpg"} for n in range(3)]
    table = read_table(write(folder, rows), folder)
    assert [poster.id for poster in table.posters] == ["0", "1", "2"]
    assert len({poster.franchise for poster in table.posters}) == 3
    assert table.posters[0].genres == (Genre(None, "Action"),)
    assert "names of files without their endings are the ids" in table.notices[1]
    assert "each row is its own group" in table.notices[-1]


def test_franchise_column_decides_the_part(folder: Path) -> None:
    rows = [{"id": str(n), "franchise": "all", "genres": "Action", "file": f"{n}.jpg"} for n in range(3)]
    posters = drawn(read_table(write(folder, rows), folder), folder.parent)
    assert {(poster.franchise, poster.part) for poster in posters} == {("0", draw_part("0"))}


def test_row_with_a_franchise_is_joined_with_its_sibling_without_one(folder: Path) -> None:
    titles = ["Batman Begins", "Batman", "The Dark Knight", "Trigun"]
    franchises = ["Batman Collection", "", "Batman Collection", ""]
    rows = [
        {"id": str(n), "title": titles[n], "franchise": franchises[n], "genres": "Action", "file": f"{n}.jpg"}
        for n in range(4)
    ]
    posters = drawn(read_table(write(folder, rows), folder), folder.parent)
    assert [poster.franchise for poster in posters] == ["batman", "batman", "batman", "trigun"]


def test_possible_siblings_of_training_titles_are_suspects_unless_the_table_names_franchises(folder: Path) -> None:
    names = [f"{letter}aka Zephyrus" for letter in "abcdefghijklmnopqrstuvwxyz"]
    test, train = (next(each for each in names if draw_part(each.casefold()) == part) for part in ("test", "train"))
    rows = [
        {"id": str(n), "title": title, "franchise": "", "genres": "Action", "file": f"{n}.jpg"}
        for n, title in enumerate((test, train, "Trigun"))
    ]
    table = read_table(write(folder, rows), folder)
    assert [poster.part for poster in drawn(table, folder.parent)][:2] == ["suspect", "train"]
    named = [{**row, "franchise": row["title"].casefold()} for row in rows]
    posters = drawn(read_table(write(folder, named), folder), folder.parent)
    assert [poster.part for poster in posters][:2] == ["test", "train"]


def test_posters_that_look_alike_are_in_one_part(folder: Path) -> None:
    (folder / "3.jpg").write_bytes((folder / "1.jpg").read_bytes())
    franchises = ["solo", "twin b", "other", "twin a"]
    rows = [
        {"id": str(n), "franchise": franchise, "genres": "Action", "file": f"{n}.jpg"}
        for n, franchise in enumerate(franchises)
    ]
    posters = drawn(read_table(write(folder, rows), folder), folder.parent)
    assert [poster.franchise for poster in posters] == ["0", "1", "2", "1"]
    assert [poster.part for poster in posters] == [draw_part(poster.franchise) for poster in posters]


def test_parts_are_drawn_with_broken_posters_and_posters_without_genres(folder: Path) -> None:
    (folder / "2.jpg").write_text("<html>")
    (folder / "3.jpg").write_text("<html/>")
    rows = [{"genres": "" if n == 1 else "Action", "file": f"{n}.jpg"} for n in range(4)]
    posters = drawn(read_table(write(folder, rows), folder), folder.parent)
    assert [poster.franchise for poster in posters] == ["0", "2", "3"]


def test_missing_posters_are_skipped_with_a_notice(folder: Path) -> None:
    rows = [{"id": str(n), "genres": "Action", "file": f"{n}.jpg"} for n in range(6)]
    table = read_table(write(folder, rows), folder)
    assert len(table.posters) == 4
    assert "Left out: 2 of 6 rows (file not found): 4, 5." in table.notices


def test_invalid_table_is_refused_with_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        read_table(tmp_path / "absent.csv", folder)
    with pytest.raises(DatasetError, match=r"no column of genres.*\nColumns: a, b$"):
        read_table(write(folder, [{"a": "1", "b": "2"}]), folder)
    (tmp_path / "empty.csv").write_text("file,genres\n")
    with pytest.raises(DatasetError, match=r"The table .*empty\.csv has no rows\."):
        read_table(tmp_path / "empty.csv", folder)
    with pytest.raises(DatasetError, match="Of the table's 1 file, none"):
        read_table(write(folder, [{"genres": "Action", "file": "x.jpg"}]), folder)
    with pytest.raises(DatasetError, match=r"\nrow 2: id '1', file '0.jpg'\nrow 3: id '1', file '1.jpg'"):
        read_table(write(folder, [{"id": "1", "genres": "Action", "file": f"{n}.jpg"} for n in range(2)]), folder)
    with pytest.raises(DatasetError, match=r"genre ids '1' in row 2 .* do not fit its genres 'A\|B'"):
        read_table(write(folder, [{"id": "1", "genres": "A|B", "genre_ids": "1", "file": "1.jpg"}]), folder)


GOOD = [
    {
        "id": str(n),
        "title": ("Series {}", 'The "best" of {}, part one', "Lines\nof {}, two, three\nand more", "Café {}")[
            n % 4
        ].format(n),
        "genres": ("Action|Drama", "Comedy", "Drama|Comedy", "Action")[n * 7 % 4],
        "file": f"posters/{n}.jpg",
    }
    for n in range(24)
]
GENRES, FILE = 2, 3
Row = tuple[list[str], str]  # the cells as written, and what follows the row


def written(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(sign in cell for sign in ',"\n') else cell


def without_cell_border(cells: list[str], column: int) -> list[list[str]]:
    joined = [*cells[: column % 3], cells[column % 3] + cells[column % 3 + 1], *cells[column % 3 + 2 :]]
    return [joined]


DAMAGE: dict[str, Callable[[list[str], int], list[list[str]]]] = {
    "a row is lost": lambda cells, column: [],
    "a row is repeated": lambda cells, column: [cells, cells],
    "a delimiter is lost": without_cell_border,
    "a delimiter is added": lambda cells, column: [[*cells[:column], "", *cells[column:]]],
    "a quote is opened": lambda cells, column: [[*cells[:column], '"' + cells[column], *cells[column + 1 :]]],
    "a row is cut": lambda cells, column: [cells[:column] or [""]],
    "a row is blank": lambda cells, column: [cells, [""]],
    "a cell is unknown": lambda cells, column: [[*cells[:column], "N/A", *cells[column + 1 :]]],
    "a list is cut": lambda cells, column: [[*cells[:GENRES], written("['Action', 'Dra"), *cells[FILE:]]],
    "the file has another name": lambda cells, column: [[*cells[:FILE], "gone.jpg"]],
    "the path is written differently": lambda cells, column: [[*cells[:FILE], cells[FILE].replace("/", "\\").upper()]],
    "the id is decimal": lambda cells, column: [[f"{cells[0]}.0", *cells[1:]]],
    "the row belongs to another title": lambda cells, column: [cells, [cells[0], "Another", "Drama", cells[FILE]]],
}


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.ml.conftest import make_posters

    folder = tmp_path_factory.mktemp("good") / "posters"
    make_posters(folder, len(GOOD))
    return folder


def learned(table: Table) -> set[tuple[str, frozenset[str], str]]:
    return {(each.id, frozenset(genre.name for genre in each.genres), each.sha256) for each in table.posters}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    damage=st.dictionaries(
        st.integers(0, len(GOOD) - 1), st.tuples(st.sampled_from(sorted(DAMAGE)), st.integers(0, 3)), max_size=6
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    cut=st.integers(0, 30),
)
def test_damaged_table_gives_true_posters_and_reasons_or_stops(
    damage: dict[int, tuple[str, int]], end: str, encoding: str, cut: int, good_folder: Path
) -> None:
    catalogue = good_folder.parent / "table.csv"
    lines, rows = ["id,title,genres,file"], 0
    for number, row in enumerate(GOOD):
        cells = [written(cell) for cell in row.values()]
        kind, column = damage.get(number, ("", 0))
        damaged = DAMAGE[kind](cells, column) if kind else [cells]
        rows += sum(any(each) for each in damaged)
        lines += [",".join(each) for each in damaged]
    text = end.join(lines) + end
    catalogue.write_bytes(text[: len(text) - cut if cut > 20 else None].encode(encoding))
    good = {
        (row["id"], frozenset(row["genres"].split("|")), sha256_of_file(good_folder.parent / row["file"]))
        for row in GOOD
    }
    try:
        table = read_table(catalogue, good_folder)
    except DatasetError as error:
        assert len(str(error)) < 600
        return
    assert learned(table) <= good
    assert len(table.posters) + len(table.left_out) == table.rows
    if cut <= 20:
        assert table.rows >= rows  # the lines of a broken row count as rows each
    assert (table.left_out["reason"] != "").all()
    if not damage and cut <= 20:
        assert learned(table) == good
