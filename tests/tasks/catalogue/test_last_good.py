"""The last good catalogue of a folder: what a new one is compared with, and what replaces it."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from serving.bundle.files import sha256_of_file
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.last_good import (
    ABOUT,
    CATALOGUE,
    HISTORY,
    about_last_good,
    known_key,
    read_last_good,
    replace_last_good,
)
from tasks.catalogue.titles import Related, Title
from tasks.errors import CatalogueError
from tasks.myanimelist.source import MyAnimeList
from tasks.records import CatalogueRecord
from tests.messages import project_messages

SITE = "https://myanimelist.net"
SEASONS = "2010-summer..2011-winter"
TITLES = [
    Title("5", "Bells, early", genres=["Comedy"], genre_ids=[4], score=6.9, season="2010-summer"),
    Title("7", 'The "Lamp"', type="TV", season="2010-fall", rating="PG", related=[Related("Sequel", "8")]),
    Title("10", "Lamps", type="TV", season="2011-winter"),
]


def replaced(
    folder: Path, titles: Sequence[Title] = TITLES, site_url: str = SITE, seasons: str = SEASONS
) -> CatalogueRecord:
    """Read the last good catalogue and replace it, as a run does."""
    source = MyAnimeList(site_url)
    last = read_last_good(folder, source, seasons)
    return replace_last_good(folder, source, seasons, catalogue_of(titles), last)


def known(folder: Path, site_url: str = SITE) -> pd.DataFrame:
    return read_last_good(folder, MyAnimeList(site_url), SEASONS).titles


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_last_good_catalogue_is_read_back(tmp_path: Path) -> None:
    about = replaced(tmp_path)
    last = read_last_good(tmp_path, MyAnimeList(), "2010-summer..2010-fall")
    pd.testing.assert_frame_equal(last.titles, catalogue_of(TITLES))
    assert list(last.selected) == [True, True, False]
    assert about_last_good(tmp_path) == about


def test_last_good_record_describes_the_catalogue(tmp_path: Path) -> None:
    about = replaced(tmp_path, site_url=f"{SITE}/")
    sha256 = sha256_of_file(tmp_path / CATALOGUE)
    assert about == CatalogueRecord(
        key=f"catalogues/{sha256}.csv",
        sha256=sha256,
        site_url=SITE,
        seasons=SEASONS,
        titles=3,
        changes=0,
        snapshot_date=datetime.now(UTC).date().isoformat(),
        accepted=about.accepted,
    )
    assert 0 <= datetime.now(UTC).timestamp() - about.accepted < 60


def test_last_good_history_lists_what_changed(tmp_path: Path) -> None:
    replaced(tmp_path)
    assert history(tmp_path) == []
    about = replaced(tmp_path, [replace(TITLES[0], genres=["Comedy", "Drama"], genre_ids=[4, 8]), TITLES[2]])
    assert about.changes == 2
    assert [(row["mal_id"], row["field"], row["after"]) for row in history(tmp_path)] == [
        ("5", "genres", "Comedy|Drama"),
        ("7", "(gone)", ""),
    ]
    replaced(tmp_path, [TITLES[0], TITLES[2]])
    assert [row["field"] for row in history(tmp_path)] == ["genres", "(gone)", "genres"]
    assert replaced(tmp_path).changes == 1
    assert replaced(tmp_path).changes == 0
    assert [(row["mal_id"], row["field"], row["after"]) for row in history(tmp_path)][3:] == [("7", "(gone)", "back")]


def test_last_good_is_empty_in_a_new_folder(tmp_path: Path) -> None:
    assert about_last_good(tmp_path) is None
    assert known(tmp_path).empty


@pytest.mark.parametrize("other", ["https://example.org", "http://myanimelist.net:8000", "http://127.0.0.1:8000"])
def test_last_good_ignores_the_catalogue_of_another_site(tmp_path: Path, other: str) -> None:
    replaced(tmp_path)
    assert known(tmp_path, other).empty


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (SITE, "https://MyAnimeList.net"),
        (SITE, "https://api.myanimelist.net/v2"),
        ("http://127.0.0.1:8000", "http://localhost:46011"),
        ("http://[::1]:8000", "http://site.localhost"),
    ],
)
def test_last_good_knows_a_site_by_its_other_addresses(tmp_path: Path, before: str, now: str) -> None:
    replaced(tmp_path, site_url=before)
    assert len(known(tmp_path, now)) == 3


def test_last_good_keeps_the_titles_of_other_seasons(tmp_path: Path) -> None:
    replaced(tmp_path)
    about = replaced(tmp_path, [replace(TITLES[1], type="OVA")], seasons="2010-fall")
    assert (about.titles, about.changes, about.seasons) == (1, 1, "2010-fall")
    assert list(known(tmp_path)["id"]) == ["5", "7", "10"]
    assert list(known(tmp_path)["type"]) == ["", "OVA", "TV"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"key": "catalogues/1.csv"}', b'"catalogue"'])
def test_last_good_record_that_is_damaged_is_an_error(tmp_path: Path, damage: bytes) -> None:
    replaced(tmp_path)
    (tmp_path / ABOUT).write_bytes(damage)
    with pytest.raises(CatalogueError, match=r"catalogue\.json cannot be read\. Move it away"):
        about_last_good(tmp_path)
    assert (tmp_path / ABOUT).read_bytes() == damage


def test_last_good_table_and_history_that_are_damaged_are_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replaced(tmp_path)
    damaged = [tmp_path / known_key(SITE), tmp_path / HISTORY]
    for file in damaged:
        file.write_bytes(b"mal_id\n1\n")
    assert replaced(tmp_path).changes == 0
    for file in damaged:
        (_,) = [message for message in project_messages(caplog) if f"The file {file} is damaged" in message]
        assert file.with_name(f"{file.name}.damaged").read_bytes() == b"mal_id\n1\n"
    assert len(known(tmp_path)) == 3


@pytest.mark.parametrize("file", [HISTORY, CATALOGUE, ABOUT])
def test_last_good_survives_a_run_that_fails_and_the_repeated_run_adds_no_change_twice(
    tmp_path: Path, file: str
) -> None:
    replaced(tmp_path)
    in_the_way = tmp_path / f".{file}.{os.getpid()}.part"  # where the file is written first
    in_the_way.mkdir()
    with pytest.raises(OSError):
        replaced(tmp_path, TITLES[:1])
    about = about_last_good(tmp_path)
    assert about is not None and about.titles == 3
    in_the_way.rmdir()
    replaced(tmp_path, TITLES[:1])
    about = about_last_good(tmp_path)
    assert about is not None and about.sha256 == sha256_of_file(tmp_path / CATALOGUE)
    assert [row["mal_id"] for row in history(tmp_path)] == ["7", "10"]
