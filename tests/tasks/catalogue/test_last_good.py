"""The last good catalogue of a folder: what a new one is compared with, and what takes its place."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.files import sha256_of_file
from tasks.catalogue.last_good import (
    ABOUT,
    CATALOGUE,
    HISTORY,
    LastGood,
    about_last_good,
    known_key,
    read_last_good,
    replace_last_good,
)
from tasks.catalogue.titles import AnimeRecord, Related
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord

SITE = "https://myanimelist.net"
SEASONS = "2010-summer..2011-winter"
RECORDS = [
    AnimeRecord(5, "Bells, early", genres=["Comedy"], genre_ids=[4], score=6.9, season="2010-summer"),
    AnimeRecord(7, 'The "Lamp"', type="TV", season="2010-fall", rating="PG", related=[Related("Sequel", 8)]),
    AnimeRecord(8, "Lamps", type="TV", season="2011-winter"),
]


def replaced(
    folder: Path, records: Sequence[AnimeRecord] = RECORDS, site_url: str = SITE, seasons: str = SEASONS
) -> CatalogueRecord:
    """As a run does it: what is there is read, and the new catalogue takes its place."""
    return replace_last_good(folder, site_url, seasons, records, read_last_good(folder, site_url, seasons))


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_took_its_place_is_read_back(tmp_path: Path) -> None:
    about = replaced(tmp_path)
    assert read_last_good(tmp_path, SITE, SEASONS) == LastGood(
        RECORDS, frozenset({"2010-summer", "2010-fall", "2011-winter"})
    )
    assert about_last_good(tmp_path) == about


def test_it_says_what_it_is(tmp_path: Path) -> None:
    about = replaced(tmp_path)
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


def test_what_changed_since_is_written_down(tmp_path: Path) -> None:
    replaced(tmp_path)
    assert history(tmp_path) == []
    about = replaced(tmp_path, [replace(RECORDS[0], genres=["Comedy", "Drama"], genre_ids=[4, 8]), RECORDS[2]])
    assert about.changes == 2
    assert [(row["mal_id"], row["field"], row["after"]) for row in history(tmp_path)] == [
        ("5", "genres", "Comedy|Drama"),
        ("7", "(gone)", ""),
    ]
    replaced(tmp_path, [RECORDS[0], RECORDS[2]])
    assert [row["field"] for row in history(tmp_path)] == ["genres", "(gone)", "genres"]


def test_a_folder_without_a_catalogue_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert about_last_good(tmp_path) is None
    assert read_last_good(tmp_path, SITE, SEASONS).records == []


@pytest.mark.parametrize("other", ["https://example.org", "http://myanimelist.net:8000", "http://127.0.0.1:8000"])
def test_the_catalogue_of_another_site_is_not_compared_with(tmp_path: Path, other: str) -> None:
    replaced(tmp_path)
    assert read_last_good(tmp_path, other, SEASONS).records == []


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (SITE, f"{SITE}/"),
        (SITE, "https://MyAnimeList.net"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:46011"),
        ("http://127.0.0.1:8000", "http://localhost:46011"),
        ("http://[::1]:8000", "http://site.localhost"),
    ],
)
def test_the_same_site_is_known_however_it_is_written(tmp_path: Path, before: str, now: str) -> None:
    replaced(tmp_path, site_url=before)
    assert read_last_good(tmp_path, now, SEASONS).records == RECORDS


def test_a_run_over_few_seasons_forgets_nothing_of_the_others(tmp_path: Path) -> None:
    replaced(tmp_path)
    about = replaced(tmp_path, [replace(RECORDS[1], type="OVA")], seasons="2010-fall")
    assert (about.titles, about.changes) == (1, 1)
    last = read_last_good(tmp_path, SITE, SEASONS)
    assert [record.type for record in last.records] == [None, "OVA", "TV"]
    assert last.seasons == {"2010-summer", "2010-fall", "2011-winter"}


def test_a_narrower_catalogue_has_lost_nothing_by_it(tmp_path: Path) -> None:
    replaced(tmp_path)
    about = replaced(tmp_path, RECORDS[1:2], seasons="2010-fall")
    assert (about.changes, about.seasons, history(tmp_path)) == (0, "2010-fall", [])


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"key": "catalogues/1.csv"}', b'"catalogue"'])
def test_what_it_is_cannot_be_read_and_says_what_to_do(tmp_path: Path, damage: bytes) -> None:
    replaced(tmp_path)
    (tmp_path / ABOUT).write_bytes(damage)
    with pytest.raises(CatalogueError, match=r"catalogue\.json cannot be read; move it away"):
        about_last_good(tmp_path)
    assert (tmp_path / ABOUT).read_bytes() == damage


def test_a_table_that_is_damaged_is_no_empty_one(tmp_path: Path) -> None:
    replaced(tmp_path)
    (tmp_path / known_key(SITE)).write_bytes(b"mal_id\n1\n")
    with pytest.raises(CatalogueError, match="has no column"):
        read_last_good(tmp_path, SITE, SEASONS)


@pytest.mark.parametrize("file", [HISTORY, CATALOGUE, ABOUT])
def test_a_run_that_ends_while_it_writes_a_file_leaves_the_old_catalogue(tmp_path: Path, file: str) -> None:
    replaced(tmp_path)
    (tmp_path / f".{file}.{os.getpid()}.part").mkdir()  # where the file is written to: nothing can be
    with pytest.raises(OSError):
        replaced(tmp_path, RECORDS[:1], seasons="2010-summer")
    assert read_last_good(tmp_path, SITE, SEASONS).records == RECORDS


@pytest.mark.parametrize("file", [HISTORY, CATALOGUE, ABOUT])
def test_a_run_that_is_repeated_after_that_writes_no_change_twice(tmp_path: Path, file: str) -> None:
    replaced(tmp_path)
    in_the_way = tmp_path / f".{file}.{os.getpid()}.part"
    in_the_way.mkdir()
    with pytest.raises(OSError):
        replaced(tmp_path, RECORDS[:1])
    in_the_way.rmdir()
    replaced(tmp_path, RECORDS[:1])
    assert [row["mal_id"] for row in history(tmp_path)] == ["7", "8"]
    about = about_last_good(tmp_path)
    assert about is not None
    assert about.sha256 == sha256_of_file(tmp_path / CATALOGUE)
