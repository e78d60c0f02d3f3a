import gzip
import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest

from ml.data.table_csv import RAGGED, TORN
from ml.data.table_format import read_cells
from ml.data.table_rows import TableOptions, read_rows
from ml.errors import DatasetError

ROWS = [["5", "Café Bebop, the film", "Action|Drama", "5.jpg"], ["6", 'The "Gun"', "Comedy", "6.jpg"]]
COLUMNS = ["id", "title", "genres", "file"]
TABLE = pd.DataFrame(ROWS, columns=COLUMNS)


def read(data: bytes | str) -> list[list[str]]:
    table = read_cells(data.encode() if isinstance(data, str) else data, "table.csv").table
    assert list(table) == COLUMNS
    return table.to_numpy().tolist()


def error_of(data: bytes | str) -> str:
    with pytest.raises(DatasetError) as raised:
        read_rows(data.encode() if isinstance(data, str) else data, "table.csv", TableOptions())
    message = str(raised.value)
    assert "table.csv" in message
    return message


CSV = TABLE.to_csv(index=False).encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def parquet(table: pd.DataFrame = TABLE) -> bytes:
    stream = BytesIO()
    table.to_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        TABLE.to_csv(index=False).encode("utf-8-sig"),
        TABLE.to_csv(index=False, lineterminator="\r\n").encode("utf-16"),
        TABLE.to_csv(index=False, lineterminator="\r").encode("utf-16-le"),
        TABLE.to_csv(index=False, sep=";").encode("cp1252"),
        TABLE.to_csv(index=False, sep="\t", quoting=1).encode("latin-1"),
        b"sep=;\r\n" + TABLE.to_csv(index=False, sep=";").encode(),
        TABLE.to_csv(index=False, quoting=1, doublequote=False, escapechar="\\").encode(),
        gzip.compress(CSV, mtime=0),
        parquet(),
        parquet(TABLE.map(str.encode)),
        TABLE.to_json(orient="records", lines=True, force_ascii=False).encode(),
        *(TABLE.to_json(orient=form).encode() for form in ("records", "columns", "index", "split")),
        TABLE.to_json(orient="table", index=False).encode(),
        json.dumps({"data": [{"node": row} for row in TABLE.to_dict("records")], "paging": {}}).encode(),
    ],
    ids=range(17),
)
def test_same_table_is_read_from_every_format_and_encoding(data: bytes) -> None:
    assert read(data) == ROWS


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("cp1252", "cp1252 is assumed"), ("utf-16-be", "assumed to be UTF-16-BE"), ("utf-16", "The encoding is UTF-16")],
)
def test_assumed_encoding_is_said(encoding: str, said: str) -> None:
    notices = read_cells(TABLE.to_csv(index=False).encode(encoding), "table.csv").notices
    assert any(said in notice for notice in notices)


def test_few_invalid_bytes_do_not_change_the_encoding() -> None:
    text = "id,genres\n" + "".join(f"{n},Día\n" for n in range(20))
    cells = read_cells(text.encode() + b"20,D\xeda\n", "table.csv")
    assert cells.table["genres"].iloc[0] == "Día"
    assert "with 1 invalid byte, the first in line 22" in cells.notices[0]


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1251", "\u041c\u0430\u0441\u0442\u0435\u0440"),
        ("gbk", "\u9738\u738b\u522b\u59ec"),
        ("shift_jis", "\u5343\u3068\u5343\u5c0b"),
    ],
)
def test_other_alphabets_are_not_read_as_western_text(encoding: str, title: str) -> None:
    text = "id,title,genres\n" + "".join(f"{n},{title} {n},{title}\n" for n in range(30))
    assert "its encoding is not known. Save it as UTF-8" in error_of(text.encode(encoding))
    assert read_cells(text.encode(), "table.csv").table["title"].iloc[0] == f"{title} 0"
    for western in ("cp1252", "latin-1"):
        accented = text.replace(title, "Fa\xe7ade d'\xe9t\xe9 \xe0 la fen\xeatre")
        assert read_cells(accented.encode(western), "table.csv").table["genres"].iloc[0].startswith("Fa\xe7ade")


def rows(count: int = 300) -> list[str]:
    return [f"{n},Series {n},Action|Drama,{n}.jpg" for n in range(count)]


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({20: '20,"Series 20,Action,20.jpg', 31: '31,"Series 31",Action,31.jpg'}, "from line 22 on"),
        ({20: '20,Series 20,Action,"20.jpg', 25: '25,Series 25,Action,"25.jpg'}, "from line 22 on"),
        ({20: '"20,Series 20,Action,20.jpg', 21: '21,"Series, 21",Action,21.jpg'}, "from line 22 on"),
        ({20: '20,"Series 20,Action,20.jpg'}, "line 22"),
        ({299: '299,Series 299,"Action,299.jpg'}, "line 301"),
    ],
)
def test_unclosed_quote_that_swallows_rows_is_named_with_its_line(damage: dict[int, str], line: str) -> None:
    damaged = [damage.get(n, row) for n, row in enumerate(rows())]
    assert line in error_of("\n".join([HEADER, *damaged]))


def test_description_of_several_lines_with_commas_is_no_unclosed_quote() -> None:
    story = "Once, there, was, a\nlist, of, four, things\n12, 13, 14, and 15"
    text = "id,title,genres,story\n" + "".join(f'{n},Series {n},Action,"{story}"\n' for n in range(9))
    assert read_cells(text.encode(), "table.csv").table["story"].tolist() == [story] * 9


@pytest.mark.parametrize("broken", ['20,Gun, part one,Action,"{}"', '20,Action,"{}"'])
def test_row_with_another_number_of_cells_may_have_a_cell_of_several_lines(broken: str) -> None:
    lines = [f'{n},Series {n},Action,"A list, of, four, things,\nand more"' for n in range(60)]
    lines[20] = broken.format("A list, of, four, things,\nand more")
    cells = read_cells("\n".join(["id,title,genres,story", *lines]).encode(), "table.csv")
    assert cells.dropped.to_numpy().tolist() == [["row 42", RAGGED]] and len(cells.table) == 59


def test_rows_with_another_number_of_cells_are_left_out_with_their_lines() -> None:
    damaged = rows()
    damaged[4] = "4,Series 4,Action"  # line 6
    damaged[9] = "9,Series 9, and more,Action,9.jpg"
    damaged[19] = '19"The ""best"", part one",Action,19.jpg'
    damaged[29] = ""
    damaged[39] += ",,"  # delimiters at the end of a line
    cells = read_cells("\n".join([HEADER, *damaged]).encode(), "table.csv")
    assert cells.dropped.to_numpy().tolist() == [["row 6", RAGGED], ["row 11", RAGGED], ["row 21", TORN]]
    assert len(cells.table) == 296
    assert cells.table.loc[41].tolist() == ["39", "Series 39", "Action|Drama", "39.jpg"]
    assert f"2 of 299 rows have {RAGGED}, in the lines 6, 11." in cells.notices


def test_table_with_many_rows_of_another_length_is_refused() -> None:
    unquoted = [f"{n},Series {n},Action, Drama,{n}.jpg" if n % 4 else row for n, row in enumerate(rows())]
    assert "225 of 300 rows have another number of cells" in error_of("\n".join([HEADER, *unquoted]))


@pytest.mark.parametrize(
    "files",
    [
        {"anime.csv": CSV},
        {"./anime.csv": CSV},
        {"archive/": b"", "archive/anime.csv.gz": gzip.compress(CSV, mtime=0), "archive/posters/1.jpg": b"\xff"},
        {"anime.CSV": CSV, "__MACOSX/._anime.CSV": b"\0\1", ".hidden.csv": b"", "README.txt": b"About the data."},
    ],
)
def test_table_in_a_zip_archive_is_read_if_it_is_the_only_one(files: dict[str, bytes]) -> None:
    assert read(zipped(files)) == ROWS


def test_index_with_a_name_in_a_parquet_file_is_a_column() -> None:
    assert read(parquet(TABLE.set_index(["id", "title"]))) == ROWS


def test_bytes_in_a_parquet_file_are_text_unless_they_are_an_image_or_other_data() -> None:
    table = TABLE.assign(title=[b"Two\nlines", b"\x89PNG\r\n"], genres=[[b"Action", b"Drama"], [b"\x00\x01"]])
    assert [row[1:3] for row in read(parquet(table))] == [["Two\nlines", '["Action", "Drama"]'], ["", "[null]"]]


def test_numbers_before_the_rows_are_no_column_of_the_header() -> None:
    for start in (0, 1):
        numbered = [f'"{start + n}",{row}' for n, row in enumerate(rows())]
        table = read_cells("\n".join([HEADER, *numbered]).encode(), "table.csv").table
        assert table.iloc[7].tolist() == [str(start + 7), "7", "Series 7", "Action|Drama", "7.jpg"]
    missing_comma = [f"{n},1998,Series {n},Action,{n}.jpg" for n in range(100, 150)]
    assert "50 of 50 rows have another number of cells" in error_of("\n".join([HEADER, *missing_comma]))


@pytest.mark.parametrize(("header_end", "row_end"), [("", ","), (",", ","), (",", ",,"), (",", ",checked")])
def test_cells_beyond_the_header_do_not_shift_ids_that_count_the_rows(header_end: str, row_end: str) -> None:
    lines = [row + row_end.removesuffix("checked") for row in rows()]
    lines[8] = rows()[8] + row_end
    cells = read_cells("\n".join([HEADER + header_end, *lines]).encode(), "table.csv")
    assert cells.table.iloc[7].tolist() == ["7", "Series 7", "Action|Drama", "7.jpg"]
    assert cells.dropped.to_numpy().tolist() == ([["row 10", RAGGED]] if "checked" in row_end else [])


def test_quotes_that_are_not_closed_are_part_of_the_cells_of_a_tab_separated_table() -> None:
    text = (
        HEADER.replace(",", "\t")
        + "\n"
        + '1\t"Rome\tAction\t1.jpg\n2\tThe "Gun"\tDrama\t2.jpg\n3\t"A" b\tDrama\t3.jpg\n'
    )
    assert [row[1] for row in read(text)] == ['"Rome', 'The "Gun"', '"A" b']


def test_cell_of_any_length_is_read() -> None:
    assert read(f'{HEADER}\n1,"{"x" * 140_000}",Action,1.jpg\n')[0][1] == "x" * 140_000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04", "is damaged"),
        (zipped({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), "an Excel workbook; export it as CSV"),
        (zipped({"mimetype": b"", "content.xml": b""}), "a spreadsheet; export it as CSV"),
        (zipped({"a.csv": CSV, "b/c.json": b"[]"}), "has 2 tables, 'a.csv' and 'b/c.json'; unpack the one to read"),
        (zipped({"posters/1.jpg": b"", "notes.md": b""}), "has no table"),
        (b"\xd0\xcf\x11\xe0", "an Excel workbook; export it as CSV"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (bytes(range(256)) * 9, "binary"),
        (gzip.compress(b"id,genres\n1,Action\n", mtime=0)[:-6], "damaged"),
        (b"PAR1abc", "Parquet"),
        (b"\xff\xfea", "damaged"),
        (b'[{"id": 1}, {"id": 2', "damaged JSON"),
        (b'{"id": 1}\n{"id": 2}\n{"id": ', "line 3"),
        (b"[[[[" * 5000, "JSON"),
        (b'{"a": 1}', "not a table"),
        (b"[]", "no rows"),
    ],
)
def test_file_that_is_no_table_is_refused_with_a_sentence(data: bytes, said: str) -> None:
    assert said in error_of(data)


TITLES = {
    "a title": ["My anime list export 2024"],
    "blank lines": ["", ""],
    "a title of Excel, padded": ["My anime list,,,", ",,,"],
    "a title, a date and a blank line": ["My anime list", "Exported: 2024-05-03", ""],
    "a title with commas": ['"My list, of anime"', "Exported,3 May 2024,by me"],
    "a title of several lines": ['"My list', 'of anime"', ""],
    "a comment": ["# My list, 2024"],
}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("title", TITLES)
def test_lines_above_the_header_are_left_out_with_a_notice(title: str, delimiter: str) -> None:
    above = [line.replace(",,,", delimiter * 3) for line in TITLES[title]]
    body = TABLE.replace({"Action|Drama": "Action, Drama"}).to_csv(index=False, sep=delimiter).splitlines()
    cells = read_cells("\n".join([*above, *body, "7"]).encode(), "table.csv")
    assert list(cells.table) == COLUMNS
    assert cells.table.to_numpy().tolist() == [[*row[:2], row[2].replace("|", ", "), row[3]] for row in ROWS]
    assert list(cells.dropped["id"]) == [f"row {len(above) + 4}"], "lines are those of the file"
    said = [notice for notice in cells.notices if notice.startswith("Left out above the header: ")]
    assert len(said) == ("My" in "".join(above))


@pytest.mark.parametrize(
    "text",
    [
        "genre\n" + "1,A,Action\n2,B,Drama\n3,C,Comedy\n4,D,Action\n",
        "title,genres\n" + "A,Action,Drama\nB,Drama,Comedy\nC,Drama,Action\nD,Comedy,Action\n",
        "My list\n" + "1,A,Action\n2,B,Drama\n3,C,Comedy\n4,D,Action\n",
    ],
)
def test_row_is_not_taken_for_the_header(text: str) -> None:
    assert "rows have another number of cells than the header" in error_of(text)


def hugging_face(columns: Mapping[str, list[Any]], features: Mapping[str, Any]) -> bytes:
    """A Parquet file as `datasets` writes it."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    stream = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)).replace_schema_metadata(metadata), stream)
    return stream.getvalue()


CLASS = {"names": ["Action", "Drama", "Comedy"], "_type": "ClassLabel"}
TEXT = {"dtype": "string", "_type": "Value"}


@pytest.mark.parametrize(
    ("name", "values", "feature"),
    [
        ("label", [0, 2, -1], CLASS),
        ("genres", [[0, 1], [2], []], {"feature": CLASS, "_type": "Sequence"}),
        ("genres", [[0, 1], [2], None], {"feature": CLASS, "_type": "List"}),
        ("genres", [[0, 1], [2], [-1]], [CLASS]),
        (
            "genres",
            [[{"id": 1, "name": "Action"}, {"id": 8, "name": "Drama"}], [{"id": 4, "name": "Comedy"}], []],
            None,
        ),
        ("genres", [{"name": ["Action", "Drama"], "id": [1, 8]}, {"name": ["Comedy"], "id": [4]}, None], None),
        ("genres", [[{"name": 0}, {"name": 1}], [{"name": 2}], []], [{"name": CLASS}]),
        ("genres", [{"name": [0, 1]}, {"name": [2]}, {"name": []}], {"feature": {"name": CLASS}, "_type": "Sequence"}),
    ],
)
def test_classes_and_objects_of_a_parquet_file_are_read_by_their_names(
    name: str, values: list[Any], feature: Any
) -> None:
    image = [{"bytes": b"\xff\xd8", "path": f"{n}.jpg"} for n in range(3)]
    features = {name: feature or TEXT, "image": {"_type": "Image"}}
    data = hugging_face({name: values, "image": image, "year": [1, 2, 3]}, features)
    rows = read_rows(data, "table.csv", TableOptions()).rows
    several = name == "genres"
    assert rows["genres"].tolist() == ["Action|Drama" if several else "Action", "Comedy", ""]
    assert rows["file"].tolist() == ["0.jpg", "1.jpg", "2.jpg"]
