import os
import time
from pathlib import Path

import pandas as pd
import pytest

from ml.data.poster_files import AMBIGUOUS, NO_FILE, NOT_FOUND, find_poster_files
from ml.errors import DatasetError


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def rows_of(*files: str, ids: tuple[str, ...] = (), addresses: tuple[str, ...] = ()) -> pd.DataFrame:
    count = max(len(files), len(ids), len(addresses))
    columns = {"id": ids or tuple(f"row {n}" for n in range(count)), "file": files, "poster_url": addresses}
    return pd.DataFrame({name: list(cells) or [""] * count for name, cells in columns.items()}, dtype=str)


def found(rows: pd.DataFrame, folder: Path) -> list[str | None]:
    return find_poster_files(rows, folder).names


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("posters\\5.jpg", "5.jpg"),
        ("C:\\Users\\me\\posters\\5.jpg", "5.jpg"),
        (" 5.jpg\t", "5.jpg"),
        ("'./5.jpg'", "5.jpg"),
        ("5.JPG", "5.jpg"),
        ("5.jpg", "5.Jpeg"),
        ("IMG_5.jpg", "img_5.jpg"),
        ("/kaggle/input/anime/posters/5.jpg", "5.jpg"),
        ("file:///home/me/train/5.jpg", "train/5.jpg"),
        ("5.jpg", "train/comedy/5.jpg"),
        ("Poke\u0301mon.jpg", "Pok\u00e9mon.jpg"),
        ("Pok\u00e9mon.png", "Poke\u0301mon.png"),
        ("Cowboy%20Bebop.jpg", "Cowboy Bebop.jpg"),
        ("50% off.jpg", "50%25%20off.jpg"),
        ("posters/5", "5.webp"),
        ("5.jpg?size=large", "5.jpg"),
        ("scan.bmp", "scan.BMP"),
        ("scan", "scan.tiff"),
    ],
)
def test_path_of_another_form_leads_to_its_file(cell: str, name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", name, "other.jpg")
    assert found(rows_of(cell, "other.jpg"), folder) == [name, "other.jpg"]


def test_cell_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", "inside.jpg")
    outside = folder_of(tmp_path, "secret.jpg", "posters2/secret.jpg")
    cells = ("inside.jpg", "../secret.jpg", str(outside / "secret.jpg"), "a/../../secret.jpg", "..%2Fsecret.jpg", "..")
    files = find_poster_files(rows_of(*cells), folder)
    assert files.names == ["inside.jpg", *[None] * 5]
    assert files.reasons == ["", *[NOT_FOUND] * 5]


def test_name_that_no_file_system_allows_is_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", "5.jpg")
    files = find_poster_files(rows_of("5.jpg", "x" * 5000 + ".jpg", "a\0b.jpg", "/".join("a" * 3000), ""), folder)
    assert files.reasons == ["", NOT_FOUND, NOT_FOUND, NOT_FOUND, NO_FILE]


def test_ids_lead_to_files_with_any_image_ending_if_there_is_no_column_of_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", "5.jpg", "tt01.PNG", "a%2Fb.jpg", "7.txt", "8.gif", "8.webp")
    assert found(rows_of(ids=("5", "tt01", "a/b", "8", "9")), folder) == [
        "5.jpg",
        "tt01.PNG",
        "a%2Fb.jpg",
        "8.webp",
        None,
    ]
    tmdb = rows_of("/abc.jpg", "/def.jpg", ids=("5", "tt01"))  # the paths are the site's
    assert found(tmdb, folder) == ["5.jpg", "tt01.PNG"]
    downloaded = rows_of(addresses=("https://cdn.example/4/5.jpg?s=1", "https://cdn.example/8.gif"))
    assert found(downloaded, folder) == ["5.jpg", "8.gif"]


def test_numbers_that_lead_to_files_by_chance_do_not_count_as_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", *(f"{n}.jpg" for n in range(9)))
    ids = tuple(str(n) for n in range(9))
    covers = tuple(str(5 + 7 * n) for n in range(9))  # only 5 is also the name of a file
    files = find_poster_files(rows_of(*covers, ids=ids), folder)
    assert files.names == [f"{n}.jpg" for n in range(9)]
    assert files.notices == ("The poster files are found by the ids.",)
    few = tuple(str(8 - n) if n > 3 else "gone" for n in range(9))  # the table's own, of which some are missing
    assert found(rows_of(*few, ids=ids), folder) == [*[None] * 4, "4.jpg", "3.jpg", "2.jpg", "1.jpg", "0.jpg"]


def test_ambiguous_names_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", "action/1.jpg", "drama/1.jpg", "2.jpg")
    assert found(rows_of("action/1.jpg", "drama/1.jpg"), folder) == ["action/1.jpg", "drama/1.jpg"]
    files = find_poster_files(rows_of("1.jpg", "x/2.jpg", "y/2.jpg", "2.jpg"), folder)
    assert files.reasons == [AMBIGUOUS, AMBIGUOUS, AMBIGUOUS, ""]
    siblings = find_poster_files(rows_of("x/2.jpg", "x/2.jpg"), folder)  # two titles with one poster
    assert siblings.reasons == ["", ""]


def test_error_names_a_path_and_similar_files_if_nothing_is_found(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", *(f"poster_{n}.jpg" for n in range(9)), "readme.md")
    with pytest.raises(DatasetError, match=r"2 files, none .*\n.*'img/poster_07\.jpg'.* are\n'poster_7.jpg'\n'.*'\n'"):
        find_poster_files(rows_of("img/poster_07.jpg", "img/poster_08.jpg"), folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty, which has no files"):
        find_poster_files(rows_of("5.jpg"), tmp_path / "empty")
    with pytest.raises(DatasetError, match=r"The folder .*readme\.md cannot be read: Not a directory"):
        find_poster_files(rows_of("5.jpg"), folder / "readme.md")


def test_pipes_and_circular_links_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "posters", "real/5.jpg")
    os.mkfifo(folder / "6.jpg")
    (folder / "7.jpg").mkdir()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "broken.jpg").symlink_to(folder / "absent")
    start = time.monotonic()
    assert found(rows_of("5.jpg", "6.jpg", "7.jpg", "broken.jpg"), folder) == ["real/5.jpg", None, None, None]
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("ids", "names", "missing"),
    [
        (("123", "45", "1000000"), ("0000123.jpg", "0000045.png", "1000000.jpg"), "88"),
        (("0000123", "0000045"), ("123.jpg", "45.jpg"), "0000088"),
        (("12345", "7", "10000001"), ("tt0012345.jpg", "tt0000007.jpg", "tt10000001.jpg"), "88"),
        (("tt12345", "tt7"), ("a/tt0012345.jpg", "b/tt0000007.jpg"), "tt88"),
        (("tt0012345", "tt0000007"), ("12345.webp", "7.webp"), "tt0000088"),
        (("0", "12"), ("anime-000.jpg", "anime-012.jpg"), "88"),
    ],
)
def test_ids_without_their_zeros_or_prefix_lead_to_files_with_a_notice(
    ids: tuple[str, ...], names: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "posters", *names, "banner_99.jpg", "88.txt")
    for rows in (rows_of(ids=(*ids, missing)), rows_of(*ids, missing)):
        files = find_poster_files(rows, folder)
        assert files.names == [*names, None]
        assert files.reasons == [*[""] * len(ids), NOT_FOUND]
        assert f"found by the number in the name, such as '{names[0]}' for '{ids[0]}'." in files.notices[-1]


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (("5", "6"), ("005.jpg", "0006.jpg")),  # zeros up to several lengths
        (("5", "6"), ("5.jpg", "006.jpg")),
        (("5", "6"), ("5.jpg", "banner_6.jpg")),
        (("5", "6"), ("front_5.jpg", "back_6.jpg")),
        (("5", "6"), ("5.jpg", "x006.jpg", "y006.jpg")),
        (("5", "06", "6"), ("a5.jpg", "a6.jpg")),
        (("5", "6"), ("a/005.jpg", "b/005.jpg")),
        (("a5", "a6"), ("b5.jpg", "b6.jpg")),
        (("5", "Apollo 13"), ("005.jpg", "0013.jpg")),
        (("5.jpg", "6.jpg"), ("005.jpg", "006.jpg")),  # whole names are what they say
    ],
)
def test_numbers_that_may_mean_other_files_lead_to_none(
    ids: tuple[str, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "posters", *names)
    exact = [f"{id}.jpg" if f"{id}.jpg" in names else None for id in ids]
    try:
        assert find_poster_files(rows_of(ids=ids), folder).names == exact
    except DatasetError:
        assert not any(exact)
