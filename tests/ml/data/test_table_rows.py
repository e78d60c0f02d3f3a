import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.table_rows import IDENTICAL, JOINED, NO_ID, UNREADABLE_GENRES, TableOptions, TableRows, read_rows
from ml.errors import DatasetError

GENRES = ["Action", "Comedy", "Drama"]
LISTS = [list(dict.fromkeys([GENRES[n % 3], GENRES[n // 3 % 3]])) for n in range(27)]
ADDRESS = "https://cdn.example/images/{}.jpg"


def table(columns: str, row: Callable[[int, list[str]], Sequence[object]]) -> bytes:
    """A CSV table with these columns and 27 rows, given by their numbers and genres."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns.split(","))
    writer.writerows(row(n, names) for n, names in enumerate(LISTS))
    return stream.getvalue().encode()


def read(data: bytes, **options: Any) -> TableRows:
    return read_rows(data, "table.csv", TableOptions(**options))


def roles(data: bytes, **options: Any) -> dict[str, str]:
    """The cells of the second row that are not empty, by role. All genres are read."""
    rows = read(data, **options).rows
    assert [set(names.split("|")) for names in rows["genres"]] == [set(names) for names in LISTS]
    return {name: cell for name, cell in rows.iloc[1].items() if cell and name not in ("genres", "genre_ids")}


MAL = "anime_id,Name,English name,Score,Genres,Synopsis,Rating,Image URL"
PUBLIC_TABLES = {
    "MyAnimeList 2023": (
        table(MAL, lambda n, g: [n, f"A{n}", "UNKNOWN", "8.1", ", ".join(g), "a\nb", "R - 17+", ADDRESS.format(n)]),
        {"id": "1", "title": "A1", "poster_url": ADDRESS.format(1), "rating": "R - 17+"},
    ),
    "MyAnimeList reviews": (
        table("uid,title,genre,score,img_url,link", lambda n, g: [n, f"A{n}", g, 8, ADDRESS.format(n), "https://a/b"]),
        {"id": "1", "title": "A1", "poster_url": ADDRESS.format(1)},
    ),
    "recommendations": (
        table("MAL_ID,Name,Score,Genres", lambda n, g: [f"{n}.0", f"A{n}", 8, ", ".join(g)]),
        {"id": "1", "title": "A1"},
    ),
    "ratings of anime": (
        table("anime_id,name,genre,type,episodes,rating", lambda n, g: [n, f"A{n}", ", ".join(g), "TV", 12, 9.37]),
        {"id": "1", "title": "A1"},
    ),
    "films with dictionaries": (
        table(
            "adult,belongs_to_collection,genres,id,imdb_id,poster_path,title",
            lambda n, g: [
                *("False", {"id": 9, "name": "A Collection"}, [{"id": 27 + GENRES.index(x), "name": x} for x in g]),
                *(n, f"tt{n}", f"/{n}.jpg", f"F{n}"),
            ],
        ),
        {"id": "1", "title": "F1", "franchise": "A Collection", "file": "/1.jpg"},
    ),
    "MovieLens": (
        table("movieId,title,genres", lambda n, g: [n, f"F{n} (1999)", "|".join(g)]),
        {"id": "1", "title": "F1 (1999)"},
    ),
    "IMDb posters": (
        table(
            "imdbId,Imdb Link,Title,IMDB Score,Genre,Poster",
            lambda n, g: [n, "http://www.imdb.com/title/tt1", f"Fée {n}", 8.3, "|".join(g), ADDRESS.format(n)],
        )
        .decode()
        .encode("cp1252"),
        {"id": "1", "title": "Fée 1", "poster_url": ADDRESS.format(1)},
    ),
    "streaming": (
        table("filename,listed_in", lambda n, g: [f"{n}.jpg", ", ".join(g)]),
        {"id": "1", "file": "1.jpg"},
    ),
    "film posters, one column per genre": (
        table("Id,Genre,Action,Comedy,Drama", lambda n, g: [f"tt{n}", g, *(int(x in g) for x in GENRES)]),
        {"id": "tt1"},
    ),
    "one column per genre": (
        table(
            "Image_Paths,genre_Action,genre_Comedy,genre_Drama", lambda n, g: [f"{n}.png", *(x in g for x in GENRES)]
        ),
        {"id": "1", "file": "1.png"},
    ),
    "numbered columns": (
        table("animeID,genre_1,genre_2,img", lambda n, g: [n, *[*g, ""][:2], f"{n}.png"]),
        {"id": "1", "file": "1.png"},
    ),
    "a main genre and others": (
        table("id,name,main_genre,side_genre", lambda n, g: [n, f"F{n}", g[0], "".join(g[1:])]),
        {"id": "1", "title": "F1"},
    ),
    "translated titles of most": (
        table("id,title_romaji,title_english,genres", lambda n, g: [n, f"A{n}", f"E{n}" if n % 3 else "", g]),
        {"id": "1", "title": "E1"},
    ),
    "translated titles of few": (
        table("id,title_romaji,title_english,genres", lambda n, g: [n, f"A{n}", "" if n % 3 else f"E{n}", g]),
        {"id": "1", "title": "A1"},
    ),
    "books": (
        table("book_id,title,genres,image_url", lambda n, g: [n, f"B{n}", dict.fromkeys(g, 30), ADDRESS.format(n)]),
        {"id": "1", "title": "B1", "poster_url": ADDRESS.format(1)},
    ),
    "records": (
        table("album_id,album,artist_genres,cover_url", lambda n, g: [n, f"R{n}", g, f"https://i.example/image/ab{n}"]),
        {"id": "1", "title": "R1", "poster_url": "https://i.example/image/ab1"},
    ),
    "games": (
        table(
            "appid,name,categories,genres,tags,header_image,screenshots",
            lambda n, g: [n, f"G{n}", "Solo;Co-op", ";".join(g), "FPS;RPG", ADDRESS.format(n), ADDRESS.format(f"s{n}")],
        ),
        {"id": "1", "title": "G1", "poster_url": ADDRESS.format(1)},
    ),
    "a list from an API": (
        json.dumps(
            [
                {
                    **{"mal_id": n, "title": {"romaji": f"A{n}", "english": None}, "isAdult": False},
                    "images": {"jpg": {"image_url": ADDRESS.format(n), "large_image_url": ADDRESS.format(f"{n}l")}},
                    "genres": [{"mal_id": 7 + GENRES.index(x), "name": x} for x in g],
                }
                for n, g in enumerate(LISTS)
            ]
        ).encode(),
        {"id": "1", "title": "A1", "poster_url": ADDRESS.format("1l")},
    ),
    "games with pictures of genres and shops": (
        json.dumps(
            [
                {
                    **{"id": n, "name": f"G{n}", "background_image": ADDRESS.format(n)},
                    "genres": [
                        {"id": 7 + GENRES.index(x), "name": x, "image_background": ADDRESS.format(x)} for x in g
                    ],
                    "stores": [{"store": {"name": "A", "image_background": ADDRESS.format("a")}}],
                    "series": {"name": "S", "image_background": ADDRESS.format("s")},
                }
                for n, g in enumerate(LISTS)
            ]
        ).encode(),
        {"id": "1", "title": "G1", "poster_url": ADDRESS.format(1)},
    ),
    "columns of unknown names": (
        table("Nr ID,Titel,Genre,Bild", lambda n, g: [n, f"A{n}", "/".join(g), f"bilder/{n}.JPG"]),
        {"id": "1", "title": "A1", "file": "bilder/1.JPG"},
    ),
}


@pytest.mark.parametrize("kind", PUBLIC_TABLES)
def test_columns_of_public_tables_are_found_by_names_and_values(kind: str) -> None:
    data, expected = PUBLIC_TABLES[kind]
    assert roles(data) == expected
    (sentence,) = [notice for notice in read(data).notices if notice.startswith("Columns: ")]
    assert "genres from '" in sentence


def test_columns_option_decides() -> None:
    data = table("id,Genre,Genres,path,poster", lambda n, g: [n, g[0], "|".join(g), f"{n}.jpg", f"x{n}.jpg"])
    with pytest.raises(DatasetError, match="'Comedy' with --columns genres=Genre") as raised:
        read(data)
    assert "--columns genres=Genres" in str(raised.value)
    assert roles(data, columns={"genres": "genres", "file": "Poster"})["file"] == "x1.jpg"
    with pytest.raises(DatasetError, match=r"no column 'plot' for genres.*\nColumns: id, Genre, Genres, path"):
        read(data, columns={"genres": "plot"})
    with pytest.raises(DatasetError, match="--columns does not know 'genre': choose from id, title"):
        read(data, columns={"genre": "Genre"})


def test_flags_are_no_genres() -> None:
    flags = table("id,file,airing,video,windows", lambda n, g: [n, f"{n}.jpg", n % 2, "False", 1])
    with pytest.raises(DatasetError, match="no column of genres"):
        read(flags)
    own = table("id,file,Kaiju,Mecha,Isekai", lambda n, g: [n, f"{n}.jpg", *(int(x in g) for x in GENRES)])
    rows = read(own, columns={"genres": "Kaiju|mecha|Isekai"}).rows
    assert rows["genres"].iloc[1] == "Kaiju|Mecha"


@pytest.mark.parametrize("role", ["poster_url", "file"])
def test_two_columns_of_posters_with_unknown_names_stop_with_both(role: str) -> None:
    value = ADDRESS if role == "poster_url" else "{}.jpg"
    data = table("id,genres,front,back", lambda n, g: [n, "|".join(g), value.format(n), value.format(f"b{n}")])
    with pytest.raises(DatasetError, match=rf"--columns {role}=front\n.* --columns {role}=back"):
        read(data)


def test_relative_addresses_are_completed_by_the_image_base() -> None:
    data = table("id,title,genres,poster_path", lambda n, g: [n, f"F{n}", "|".join(g), f"/{n}.jpg"])
    assert any("--image-base" in notice for notice in read(data).notices)
    for base in ("https://image.example/t/p/w500", "https://image.example/t/p/w500/"):
        assert roles(data, image_base=base)["poster_url"] == "https://image.example/t/p/w500/1.jpg"
    protocol = table("id,genres,cover", lambda n, g: [n, "|".join(g), f"//images.example/t_thumb/{n}.jpg"])
    assert roles(protocol)["poster_url"] == "https://images.example/t_thumb/1.jpg"


def test_fillers_are_unknown_in_genres_ids_and_addresses_but_not_in_titles() -> None:
    text = "id,title,genres,image_url\n1,Unknown,UNKNOWN,N/A\n2,None,[],null\nnan,x,Action,-\n3,NaN,Action|Drama,https://a/b.jpg\n"
    result = read(text.encode())
    assert result.rows[["id", "title", "genres", "poster_url"]].to_numpy().tolist() == [
        ["1", "Unknown", "", ""],
        ["2", "None", "", ""],
        ["3", "NaN", "Action|Drama", "https://a/b.jpg"],
    ]
    assert result.dropped.to_numpy().tolist() == [["row 4", NO_ID]]


def test_identical_rows_are_dropped_and_counted() -> None:
    text = "id,genres,views\n5,Action|Drama,10\n5.0,Action|Drama,11\n 5 ,Drama|Action,12\n7,Drama,1\n7,Drama,1\n"
    with pytest.raises(DatasetError, match=r"the id '5'.*\nrow 2: id '5', genres 'Action\|Drama'\nrow 4: id"):
        read(text.encode())
    result = read(text.replace(" 5 ", "6").encode())
    assert list(result.rows["id"]) == ["5", "6", "7"]
    assert result.dropped.to_numpy().tolist() == [["5", IDENTICAL], ["7", IDENTICAL]]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("movie_id,genre\n9,Action\n9,Drama\n5,Drama\n", [["9", "Action|Drama"], ["5", "Drama"]]),
        ("movie_id,n,genre\n9,1,Action\n5,2,Drama\n9,3,Drama\n", [["9", "Action|Drama"], ["5", "Drama"]]),
        ("title,genre\nGun,Action\nGun,Drama\nBebop,Drama\n", [["Gun", "Action|Drama"], ["Bebop", "Drama"]]),
        ("title,genre,path\nGun,Action,1.jpg\nGun,Drama,1.jpg\n", [["1", "Action|Drama"]]),
        ("title,genre,path\nGun,Action,1.jpg\nGun,Drama,2.jpg\n", [["1", "Action"], ["2", "Drama"]]),
    ],
)
def test_rows_that_differ_only_in_their_genres_are_joined(text: str, rows: list[list[str]]) -> None:
    result = read(text.encode())
    assert result.rows[["id", "genres"]].to_numpy().tolist() == rows
    joined = text.count("\n") - 1 - len(rows)
    assert list(result.dropped["reason"]) == [JOINED] * joined
    said = f"Rows that differ only in their genres are joined: {joined} of {joined + len(rows)} rows."
    assert (said in result.notices) == (joined > 0)


def test_rows_that_are_repeated_in_a_table_with_a_row_per_genre_are_identical() -> None:
    result = read(b"movie_id,genre\n9,Action\n9,Drama\n9,Action\n5,Drama\n")
    assert list(result.dropped["reason"]) == [JOINED, IDENTICAL]


def test_titles_of_one_name_are_not_joined_if_anything_else_differs() -> None:
    result = read(b"title,genre,year\nKing Kong,Adventure,1933\nKing Kong,Drama,2005\n")
    assert list(result.rows["genres"]) == ["Adventure", "Drama"] and result.rows["id"].is_unique
    for row in ("9,Gun 2,Drama", "9,Gun,Drama|Action"):  # another title; another reading of one title
        with pytest.raises(DatasetError, match=r"\nrow 2: id '9'.*\nrow 3: id '9'"):
            read(f"movie_id,title,genre\n9,Gun,Action\n{row}\n5,Bebop,Drama\n".encode(), separator="|")


def test_genre_ids_of_joined_rows_stay_with_their_genres() -> None:
    row = read(b"movie_id,genre,genre_id\n9,Action,1\n9,Drama,8\n9,Action,1\n").rows.iloc[0]
    assert (row["genres"], row["genre_ids"]) == ("Action|Drama", "1|8")


@pytest.mark.parametrize("ids", ["1", "1|x", "[1, 24, 3]", "1.5|2"])
def test_genre_ids_that_do_not_fit_are_named_with_row_and_value(ids: str) -> None:
    text = f'id,genres,genre_ids\n4,A|B,"[1, 24]"\n5,A|B,"{ids}"\n6,B|A,\n'
    with pytest.raises(DatasetError) as raised:
        read(text.encode())
    assert f"genre ids '{ids}' in row 3 (id '5')" in str(raised.value)
    rows = read(text.encode(), columns={"genre_ids": ""}).rows
    assert list(rows["genre_ids"]) == ["", "", ""]
    rows = read(text.replace(f'"{ids}"', "1|24").encode()).rows
    assert list(rows["genre_ids"]) == ["1|24", "1|24", "24|1"]


def test_lists_that_were_cut_off_leave_the_row_out() -> None:
    data = table("id,genres", lambda n, g: [n, "['Action', 'Dr" if n == 4 else g])
    rows = read(data)
    assert rows.dropped.to_numpy().tolist() == [["4", UNREADABLE_GENRES]]
    assert "The genres of 1 row cannot be read: '['Action', 'Dr' in row 6." in rows.notices


def test_rare_row_with_another_separator_is_left_out_and_named_with_its_line() -> None:
    lines = [f'{n},"{("Action, Drama", "Drama, Comedy", "Comedy, Action")[n % 3]}"' for n in range(250)]
    lines[40], lines[90] = "40,Action/Drama", '90,"Action;Comedy"'
    rows = read("\n".join(["id,genres", *lines]).encode())
    assert rows.dropped.to_numpy().tolist() == [["40", UNREADABLE_GENRES], ["90", UNREADABLE_GENRES]]
    assert len(rows.rows) == 248 and set("|".join(rows.rows["genres"]).split("|")) == {"Action", "Drama", "Comedy"}
    assert "The genres of 2 rows cannot be read: 'Action/Drama' in row 42, 'Action;Comedy' in row 92." in rows.notices


@pytest.mark.parametrize(
    ("columns", "explicit"),
    [
        ("id,genres\n1,Action|HENTAI\n2,Action\n", ["1"]),
        ("id,genres\n1,Erotica\n2,Young Adult\n3,adult|Drama\n4,Drama\n", ["1", "3"]),
        ("id,genres,rating\n1,Action|Drama,Rx - Hentai\n2,Action,R+ - Mild Nudity\n3,Drama,rx\n", ["1", "3"]),
        ("id,genres,nsfw\n1,Action|Drama,black\n2,Action,white\n3,Drama,gray\n", ["1"]),
        ("id,genres,Is_Adult\n1,Action|Drama,True\n2,Action,False\n3,Drama,1\n", ["1", "3"]),
        ("id,genres,nsfw\n1,Action|Drama,NSFW\n2,Action,SFW\n3,Drama,\n", ["1"]),
        ("id,genres,adult\n1,Action|Drama,Adult\n2,Action,Safe\n3,Drama,False\n", ["1"]),
        ("id,genres,sfw\n1,Action|Drama,False\n2,Action,True\n3,Drama,\n", ["1"]),
        ("id,Action,Drama,sfw\n1,1,0,0\n2,1,1,1\n3,0,1,1\n", ["1"]),
        ("id,genres,Is SFW\n1,Action|Drama,0\n2,Action,1\n3,Drama,nsfw\n", ["1", "3"]),
        ("id,Action,Drama,Hentai\n1,1,0,1\n2,1,1,0\n3,0,1,0\n", ["1"]),
        ('id,genres\n1,"[{""id"": 12, ""name"": ""H""}]"\n2,"[{""id"": 1, ""name"": ""Action""}]"\n', ["1"]),
        ('id,genres\n1,"[{""id"": 12, ""name"": ""Adventure""}]"\n2,"[{""id"": 28, ""name"": ""Action""}]"\n', []),
        ("id,genres,genre_ids\n1,Steamy|Drama,49|8\n2,Drama,8\n", ["1"]),
        ("id,genres,genre_ids\n1,Role-playing,12\n2,Shooter|Role-playing,5|12\n3,Pinball,131\n", []),
        ("id,genre,genre_id\n1,Easy Listening,12\n2,Opera,49\n3,Rock,1\n", []),
        ("id,genre_id\n1,12\n2,49\n3,1\n", ["1", "2"]),
        ("id,genres,genre_ids\n1,\u0425\u0435\u043d\u0442\u0430\u0439,12\n2,\u0414\u0440\u0430\u043c\u0430,8\n", ["1"]),
    ],
)
def test_explicit_titles_are_marked_by_name_id_rating_or_column(columns: str, explicit: list[str]) -> None:
    rows = read(columns.encode(), separator="|").rows
    assert list(rows["id"][rows["explicit"] == "yes"]) == explicit


def test_ids_of_genres_without_names_may_be_explicit_and_the_notice_says_how_to_keep_them() -> None:
    text = b"id,genre_id\n1,12\n2,49\n3,1\n"
    notice = "Explicit only by a genre, such as '12': 2 rows; --columns explicit= keeps them."
    assert notice in read(text).notices
    assert list(read(text, columns={"explicit": ""}).rows["explicit"]) == ["", "", ""]


def test_adult_books_are_kept_without_a_column_of_explicit_titles_and_the_notice_says_how() -> None:
    text = "id,genres,rating,nsfw\n1,Adult|Drama,,0\n2,Erotica,Rx,0\n3,Drama,,1\n4,adult,,1\n5,Drama,,0\n"
    result = read(text.encode())
    assert list(result.rows["id"][result.rows["explicit"] == "yes"]) == ["1", "2", "3", "4"]
    said = "Explicit only by a genre, such as 'Adult': 2 rows; --columns explicit= keeps them."
    assert [notice for notice in result.notices if "explicit=" in notice] == [said]
    result = read(text.encode(), columns={"explicit": ""})
    assert list(result.rows["id"][result.rows["explicit"] == "yes"]) == ["2"]
    assert not any("explicit=" in notice for notice in result.notices)
    text = "id,genres,genre_ids\n1,Role-playing|Action,12|1\n2,Action,1\n"
    for columns, kept in (({}, ["2"]), ({"explicit": ""}, ["1", "2"])):
        rows = read(text.encode(), columns=columns).rows
        assert list(rows["id"][rows["explicit"] == ""]) == kept


def test_column_of_explicit_titles_that_is_not_understood_is_named() -> None:
    text = b"id,genres,adult\n1,Action,Kinder\n2,Drama,Erwachsene\n"
    said = "The column 'adult' is not understood, so no title is explicit by it."
    assert any(notice.startswith(said) for notice in read(text).notices)
    assert not any("not understood" in notice for notice in read(text, columns={"explicit": ""}).notices)


def test_ids_are_taken_from_files_addresses_or_titles_without_a_column_of_ids() -> None:
    assert list(read(b"genres,path\nA|B,x/7.jpg\nB|A,x\\8.JPG\n").rows["id"]) == ["7", "8"]
    assert list(read(b"genres,cover\nA|B,https://a/7.jpg?x=1\nB|A,https://a/8.jpg\n").rows["id"]) == ["7", "8"]
    assert list(read(b"genres,name\nA|B,Bebop\nB|A,Trigun\n").rows["id"]) == ["Bebop", "Trigun"]


@pytest.mark.parametrize("start", ["", "posters/", "D:\\\\data\\\\posters\\\\", "/kaggle/input/posters/"])
def test_ids_of_files_with_one_name_in_several_folders_are_their_paths(start: str) -> None:
    def ids(*files: str) -> list[str]:
        lines = [f"{('A|B', 'B|A', 'C|A')[n]},{start}{file}" for n, file in enumerate(files)]
        return list(read("\n".join(["genres,path", *lines, lines[0]]).encode()).rows["id"])

    assert ids("Action/1.jpg", "Comedy\\1.JPG", "2.jpg") == ["Action/1", "Comedy/1", "2"]
    assert ids("Action/1.jpg", "Comedy/3.jpg", "2.jpg") == ["1", "3", "2"]
    with pytest.raises(DatasetError, match="different rows with the same id, such as the id '1'"):
        ids("Action/1.jpg", "Action/1.jpg", "Comedy/1.jpg")


def test_ids_of_a_table_without_ids_stay_if_rows_are_added_or_moved() -> None:
    rows = ["A|B,Bebop,", "A|B,Bebop,", "A,Bebop,", "A|B,Gun,https://a/1/x.jpg", "A|B,Gun,https://a/2/x.jpg", "B,One,"]
    rows += ["A,,https://a/3/x.jpg", "B,,https://a/3/x.jpg", "B,Two,https://a/4/x.jpg"]

    def ids(*rows: str) -> dict[str, str]:
        result = read("\n".join(["genres,name,cover", *rows]).encode())
        assert list(result.dropped["reason"]) == [IDENTICAL]
        return {"|".join(row): id for id, *row in result.rows[["id", "title", "genres", "poster_url"]].to_numpy()}

    before = ids(*rows)
    assert before["One|B|"] == "One" and len(set(before.values())) == len(rows) - 1
    hashed = ["Bebop", "Bebop", "Gun", "Gun", "row", "row"]
    assert sorted(id.rpartition("-")[0] for id in before.values()) == ["", "", *hashed]
    after = ids("A,New,https://a/5/x.jpg", *reversed(rows), "A,Gun,https://a/6/x.jpg")
    assert {row: after[row] for row in before} == before
    changed = ids(*(row.replace("A|B,Gun", "B,Gun") for row in rows))
    for poster in ("https://a/1/x.jpg", "https://a/2/x.jpg"):
        assert changed[f"Gun|B|{poster}"] == before[f"Gun|A|B|{poster}"]


def test_rows_of_one_title_with_other_columns_of_genres_have_ids_of_their_own() -> None:
    result = read(b"name,genre_1,genre_2\nBebop,A,B\nBebop,A,C\nBebop,A,C\nGun,A,B\n")
    assert result.rows["id"].is_unique and list(result.dropped["reason"]) == [IDENTICAL]


def test_ids_have_one_line_each_also_if_titles_have_two() -> None:
    rows = read(b'title,genres\n"Ice\r\n Age",Action|Drama\n"Snow\nWhite",Drama|Action\nOne  Two,Drama\n').rows
    assert list(rows["id"]) == ["Ice Age", "Snow White", "One  Two"]


def test_largest_of_several_sizes_of_one_picture_is_taken() -> None:
    data = table(
        "id,genres,coverImage_medium,coverImage_large,bannerImage",
        lambda n, g: [n, g, *(ADDRESS.format(f"{size}{n}") for size in "mlb")],
    )
    assert roles(data)["poster_url"] == ADDRESS.format("l1")


def test_table_without_a_header_is_read_by_the_numbers_of_its_columns() -> None:
    data = table("0,0.jpg,Action,The Mouse", lambda n, g: [n + 1, f"{n + 1}.jpg", "/".join(g), f"B{n}"])
    with pytest.raises(DatasetError, match=r"no column of genres.*\nColumns: 1, 2, 3, 4\nThe table has no header"):
        read(data)
    rows = read(data, columns={"id": "1", "file": "2", "genres": "3", "title": "4"}).rows
    assert len(rows) == 28
    assert rows.iloc[0][["id", "title", "genres", "file"]].tolist() == ["0", "The Mouse", "Action", "0.jpg"]


def test_rows_are_accounted_for() -> None:
    text = "id,genres\n1,Action|Drama\n1,Action|Drama\nNone,Drama\n2,\n3,Drama,x\n4,['Action\n"
    result = read(text.encode())
    assert len(result.rows) + len(result.dropped) == 6
    assert isinstance(result.rows, pd.DataFrame)
    assert list(result.rows["genres"]) == ["Action|Drama", ""]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(PUBLIC_TABLES)),
    edits=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 30),
            st.sampled_from(
                [b"", b'"', b",", b"\n", b"\r", b"|", b"[", b"]", b"'", b"\\", b"\0", b"\xff", b"\xef\xbb\xbf"]
            ),
        ),
        max_size=8,
    ),
)
def test_random_bytes_in_a_table_end_in_rows_or_a_sentence(kind: str, edits: list[tuple[float, int, bytes]]) -> None:
    data = PUBLIC_TABLES[kind][0]
    for place, removed, added in edits:
        at = int(place * len(data))
        data = data[:at] + added + data[at + removed :]
    try:
        result = read(data)
    except DatasetError as error:
        assert len(str(error)) < 1000
        return
    assert (result.rows["id"] != "").all()
    assert result.rows["id"].is_unique
    for names, ids in zip(result.rows["genres"], result.rows["genre_ids"], strict=True):
        assert not ids or len(names.split("|")) == len(ids.split("|"))


@pytest.mark.parametrize(
    "data",
    [
        json.dumps([{"id": "1", "title": "Bebop \ud83d", "genres": ["Action \ud83d"]}]).encode(),
        b"\n".join(json.dumps({"id": n, "title": "Bebop \ud83d", "genres": ["Action \ud83d"]}).encode() for n in "12"),
        table("id,title,genres", lambda n, g: [n + 1, r'{"name": "Bebop \ud83d"}', r'["Action \ud83d"]']),
        table("id,title,genres", lambda n, g: [n + 1, r"{'name': 'Bebop \ud83d'}", r"['Action \ud83d']"]),
    ],
    ids=["JSON", "JSON lines", "CSV with JSON", "CSV with literals"],
)
def test_half_an_emoji_is_replaced(data: bytes) -> None:
    """Texts that were cut end in one; no file can hold it."""
    row = read(data).rows.iloc[0]
    assert (row["title"], row["genres"]) == ("Bebop \N{REPLACEMENT CHARACTER}", "Action \N{REPLACEMENT CHARACTER}")


def test_emoji_of_two_escapes_stays_whole() -> None:
    data = table("id,title,genres", lambda n, g: [n, r"{'name': 'Bebop \ud83d\ude00'}", ", ".join(g)])
    assert read(data).rows["title"][0] == "Bebop \N{GRINNING FACE}"


def services(n: int, g: list[str]) -> dict[str, dict[str, Any]]:
    """The record of a title in the answer of each service."""
    pictures = {"medium": ADDRESS.format(n), "large": ADDRESS.format(f"{n}l")}
    genres = [{"id": GENRES.index(each) + 7, "name": each} for each in g]
    return {
        "MyAnimeList": {
            "node": {"id": n, "title": f"A{n}", "main_picture": pictures, "genres": genres},
            "list_status": {"status": "completed", "score": 8},
        },
        "AniList": {"id": n, "title": {"romaji": f"A{n}", "english": f"E{n}"}, "genres": g, "coverImage": pictures},
        "AniList's edges": {
            "id": n + 900,
            "node": {"id": n, "title": {"romaji": f"A{n}"}, "genres": g, "cover": pictures},
        },
        "Jikan": {
            **{"mal_id": n, "title": f"A{n}", "genres": [{"mal_id": each["id"], **each} for each in genres]},
            "images": {"jpg": {"image_url": ADDRESS.format(n), "large_image_url": ADDRESS.format(f"{n}l")}},
        },
        "RAWG": {"id": n, "name": f"A{n}", "genres": genres, "background_image": ADDRESS.format(f"{n}l")},
        "Kitsu": {
            **{"id": str(n), "type": "anime", "links": {"self": f"https://kitsu.example/anime/{n}"}},
            "attributes": {
                "canonicalTitle": f"A{n}",
                "titles": {"en": f"E{n}"},
                "posterImage": pictures,
                "nsfw": False,
            },
            "relationships": {
                "genres": {"data": [{"type": "genres", "id": str(each["id"])} for each in genres]},
                "castings": {"links": {"related": "https://kitsu.example/castings"}},
            },
        },
    }


INCLUDED = [
    *({"id": str(GENRES.index(each) + 7), "type": "genres", "attributes": {"name": each}} for each in GENRES),
    *({"id": str(n), "type": "people", "attributes": {"name": "x"}} for n in range(99)),
]
PAGES: dict[str, Callable[[list[dict[str, Any]]], dict[str, Any]]] = {
    "MyAnimeList": lambda rows: {"data": rows, "paging": {"next": "https://api.example/?offset=100"}},
    "AniList": lambda rows: {"data": {"Page": {"pageInfo": {"total": 5000}, "media": rows}}},
    "AniList's edges": lambda rows: {
        "data": {"Media": {"recommendations": {"edges": rows}}},
        "extensions": {"cost": 1},
    },
    "Jikan": lambda rows: {"pagination": {"has_next_page": True, "items": {"count": 25}}, "data": rows},
    "RAWG": lambda rows: {"count": 27, "next": None, "results": rows},
    "Kitsu": lambda rows: {"data": rows, "included": INCLUDED, "meta": {"count": 27}},
}
FORMS: dict[str, Callable[[list[Any], Callable[[list[Any]], Any]], Any]] = {
    "one page": lambda rows, page: page(rows),
    "a wrapped page": lambda rows, page: {"status": "ok", "response": page(rows)},
    "a list of pages": lambda rows, page: [page(rows[:20]), page(rows[20:]), page([])],
    "pages by their numbers": lambda rows, page: {"1": page(rows[:20]), "2": page(rows[20:])},
    "lines of pages": lambda rows, page: "\n".join(json.dumps(page(part)) for part in (rows[:20], rows[20:])),
    "lines of rows": lambda rows, page: "\n".join(
        json.dumps({**page([]), "data": row} if "type" in row else row) for row in rows
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("service", PAGES)
def test_answers_of_services_are_tables_in_any_number_of_pages(service: str, form: str) -> None:
    rows = [services(n, g)[service] for n, g in enumerate(LISTS)]
    data = FORMS[form](rows, PAGES[service])
    data = data if isinstance(data, str) else json.dumps(data, indent=1)
    assert roles(data.encode()) == {"id": "1", "title": "A1", "poster_url": ADDRESS.format("1l")}


def test_lists_inside_of_rows_are_no_pages() -> None:
    row = {"title": {"romaji": "A"}, "tags": [{"name": "Action"}, {"name": "Drama"}]}
    films = [
        {"id": n, "title": "F", "genres": ["Action", "Drama"], "data": {"tags": [{"name": "x"}], "n": n}}
        for n in range(3)
    ]
    assert list(read(json.dumps([row, row]).encode()).rows["genres"]) == ["Action|Drama"]
    assert list(read(json.dumps(films).encode()).rows["genres"]) == ["Action|Drama"] * 3
    with pytest.raises(DatasetError, match="is not a table"):
        read(json.dumps({"a": {"x": films}, "b": {"y": films}}).encode())


@pytest.mark.parametrize(
    "columns",
    [
        *("ID,Título,Géneros,Imagen", "id,TÍTULO,Gênero,Imagem", "ID, Titolo ,Genere ,Locandina"),
        *("id,titre(s),genre(s),affiche", "id,Titel,Gattung,Bild", "id,Titel,Genres (by comma),Poster [path]"),
        *("ID,タイトル,ジャンル,画像", "ID,标题,类型,海报", "ID,제목,장르,포스터"),
        *("id,Название,Жанр,постер", "id,title,жанры,файл"),
        "\uff29\uff24,Ti\u0301tulo,Ge\u0301neros,file",
    ],
)
@pytest.mark.parametrize("role", ["file", "poster_url"])
def test_names_of_columns_may_be_in_other_languages_and_have_accents_or_remarks(columns: str, role: str) -> None:
    poster = "{}.jpg" if role == "file" else ADDRESS
    data = table(columns, lambda n, g: [n, f"A{n}", ", ".join(g), poster.format(n)])
    assert roles(data) == {"id": "1", "title": "A1", role: poster.format(1)}


def test_numbered_columns_of_genres_may_be_in_other_languages() -> None:
    data = table("id,Género 1,Género 2", lambda n, g: [n, *[*g, ""][:2]])
    assert roles(data) == {"id": "1"}


def test_two_columns_of_genres_with_remarks_stop_with_both() -> None:
    data = table("id,Genre (main),Genre (other)", lambda n, g: [n, g[0], g[-1]])
    with pytest.raises(
        DatasetError, match=r"(?s)two columns of genres.*genres=Genre \(main\)\n.*genres=Genre \(other\)"
    ):
        read(data)


@pytest.mark.parametrize("value", ["{}.jpg", ADDRESS])
@pytest.mark.parametrize(
    ("columns", "largest"),
    [
        ("image_small,image_medium,image_large", 3),
        ("image_large,image_medium,image_small", 1),
        ("poster_url,poster_url_large,poster_url_small", 2),
        ("cover_w92,cover_w500,cover_w185", 2),
        ("cover,cover_thumb,cover_original", 3),
        ("art 300x450,art 600x900,art 60x90", 2),
        ("Poster (small),Poster (large),Poster (tiny)", 2),
        ("images.jpg.image_url,images.jpg.small_image_url,images.jpg.large_image_url", 3),
    ],
)
def test_largest_column_of_one_picture_in_several_sizes_is_read_and_named(
    columns: str, largest: int, value: str
) -> None:
    data = table(f"id,genres,{columns}", lambda n, g: [n, g, *(value.format(f"{size}-{n}") for size in (1, 2, 3))])
    role = "file" if value == "{}.jpg" else "poster_url"
    assert roles(data) == {"id": "1", role: value.format(f"{largest}-1")}
    name = columns.split(",")[largest - 1]
    assert f"Of 3 columns with one picture in several sizes, '{name}' is read." in read(data).notices


def test_column_of_larger_pictures_that_lacks_most_of_them_is_not_read() -> None:
    data = table("id,genres,cover,cover_large", lambda n, g: [n, g, f"{n}.jpg", f"l{n}.jpg" if n < 9 else ""])
    assert roles(data)["file"] == "1.jpg"
