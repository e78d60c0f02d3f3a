"""The report of a dataset: its figures and pictures, and what it must never show."""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from infra.local.site.invented_titles import invented_titles
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.dataset_report import dataset_report, dataset_summary
from tasks.catalogue.poster_download import POSTER_COLUMNS
from tasks.catalogue.titles import Title
from tasks.myanimelist.source import MyAnimeList

DATE = "2026-07-25"
HOSTILE = "<script>alert(\"x\")</script> & 'more'"
VOID = {"meta", "link", "img"}

# Status and reason of each poster by the title's id.
Posters = dict[str, tuple[str, str]]


class Page:
    """A report as a reader sees it: the text and tables of its sections, and its pictures."""

    def __init__(self, html: str) -> None:
        self.html = html
        self.tree = BeautifulSoup(html, "lxml")

    def text(self, section: str) -> str:
        return " ".join(self.tree.find("section", id=section).get_text().split())

    def rows(self, section: str) -> list[list[str]]:
        rows = self.tree.find("section", id=section).find_all("tr")
        return [[" ".join(cell.get_text().split()) for cell in row.find_all(["th", "td"])] for row in rows]

    def table(self, section: str) -> dict[str, list[str]]:
        """The cells of each row after the first one, by the first one."""
        return {name: cells for name, *cells in self.rows(section)}

    @property
    def figures(self) -> dict[str, str]:
        names, values = ([tag.get_text() for tag in self.tree.find_all(kind)] for kind in ("dt", "dd"))
        return dict(zip(names, values, strict=True))

    @property
    def pictures(self) -> list[tuple[str, bytes]]:
        """Alternative text and content of each image."""
        prefix = "data:image/jpeg;base64,"
        return [
            (image["alt"], base64.b64decode(image["src"].removeprefix(prefix), validate=True))
            for image in self.tree.find_all("img")
        ]


def report(titles: Sequence[Title], posters: Posters, folder: Path, snapshot_date: str = DATE) -> Page:
    table = poster_table(posters)
    return Page(dataset_report(catalogue_of(titles), table, MyAnimeList(), folder, snapshot_date))


def poster_table(posters: Posters) -> pd.DataFrame:
    rows = [(id, status, reason, "", "") for id, (status, reason) in posters.items()]
    return pd.DataFrame(rows, columns=POSTER_COLUMNS, dtype=str)


def picture(path: Path, size: tuple[int, int] = (60, 90), colour: tuple[int, int, int] = (200, 30, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "JPEG")


def title(id: int, *genres: str, members: int | None = None, season: str | None = "2015-fall") -> Title:
    return Title(str(id), f"title {id}", genres=list(genres), members=members, season=season)


def usable(*titles: Title) -> Posters:
    return {title.id: ("present", "") for title in titles}


@pytest.fixture
def posters(tmp_path: Path) -> Path:
    return tmp_path / "posters"


Site = tuple[list[Title], Posters, Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The invented titles of the built-in site. Nine of ten have a poster."""
    folder = tmp_path_factory.mktemp("site") / "posters"
    titles: list[Title] = []
    posters: Posters = {}
    for index, invented in enumerate(invented_titles(60)):
        id, genres = str(invented.mal_id), [genre.name for genre in invented.genres]
        titles.append(Title(id, invented.title, invented.type, genres=genres, season=invented.season))
        if index % 10 == 9:
            posters[id] = "missing", f"https://host/{index}.jpg answered 404."
        else:
            picture(folder / f"{id}.jpg", colour=(index, 2 * index, 255 - index))
            posters[id] = "new", ""
    return titles, posters, folder


def test_report_has_the_main_figures(posters: Path) -> None:
    titles = [title(1, "Action"), title(2, "Action", "Drama", season="1998-spring"), title(3, season=None)]
    assert report(titles, usable(titles[0]), posters).figures == {
        "titles": "3",
        "with genres": "2",
        "usable posters": "1",
        "genres": "2",
        "snapshot": DATE,
        "seasons": "1998-spring to 2015-fall",
    }


def test_report_is_a_well_formed_page_that_loads_nothing(site: Site) -> None:
    page = report(*site)
    open_tags: list[str] = []
    for slash, tag in re.findall(r"<(/?)([a-z][a-z0-9]*)", page.html):
        if slash:
            assert open_tags.pop() == tag
        elif tag not in VOID:
            open_tags.append(tag)
    assert open_tags == []

    levels = [int(tag.name[1]) for tag in page.tree.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert all(cell.get("scope") in ("row", "col") for cell in page.tree.find_all("th"))
    links = {link["href"] for link in page.tree.find_all("a")}
    assert links == {f"#{section['id']}" for section in page.tree.find_all("section")}

    assert page.pictures
    assert page.tree.find(["script", "iframe", "object", "form"]) is None
    for address in ("url(", "@import", "http://", "https://", "srcset", "action="):
        assert address not in page.html


def test_report_is_the_same_for_the_same_input(site: Site) -> None:
    titles, outcomes, folder = site
    reordered = [replace(title, genres=title.genres[::-1]) for title in titles]
    assert report(titles, outcomes, folder).html == report(reordered, outcomes, folder).html


def test_report_escapes_text_from_the_site(posters: Path) -> None:
    picture(posters / "1.jpg")
    titles = [Title("1", HOSTILE, genres=[HOSTILE, "Drama"], season="2015-fall"), Title("2", HOSTILE, genres=[HOSTILE])]
    page = report(titles, usable(titles[0]) | {"2": (HOSTILE, HOSTILE)}, posters, HOSTILE)
    assert page.tree.find("script") is None
    assert [alt for alt, _ in page.pictures] == [HOSTILE, HOSTILE]
    assert page.table("genres")[HOSTILE][:2] == ["2", "1"]
    assert page.table("missing")[HOSTILE] == ["1", f"{HOSTILE} For example {HOSTILE}"]


def test_report_without_titles_says_so_in_every_section(posters: Path) -> None:
    page = report([], {}, posters)
    assert page.figures["titles"] == "0" and page.figures["seasons"] == "unknown"
    for section in page.tree.find_all("section"):
        assert page.rows(section["id"]) == []
        assert page.text(section["id"]).endswith(".")


def test_report_without_values_says_so(posters: Path) -> None:
    page = report([Title("1", "a"), Title("2", "b")], {}, posters)
    assert "No title has a season or a start date." in page.text("years")
    assert "No title has a genre." in page.text("genres")
    assert "There is no poster to show." in page.text("sheet")
    assert page.table("missing")["no outcome"][:2] == ["2", "100 %"]


def test_report_years_include_those_without_titles(posters: Path) -> None:
    titles = [
        title(1, season="2001-fall"),
        title(2, season="2001-spring"),
        replace(title(3, season=None), start_date="2004-04"),
        replace(title(4, season="2003-autumn"), start_date=None),
    ]
    page = report(titles, usable(titles[1]), posters)
    assert page.rows("years")[1:] == [["2001", "2", "1"], ["2002", "0", "0"], ["2003", "0", "0"], ["2004", "1", "0"]]
    assert "1 title has neither a season nor a start date." in page.text("years")


@pytest.mark.parametrize(("titles", "axis"), [(1, "2 1 0"), (93, "100 50 0"), (100, "100 50 0"), (1101, "1,200 600 0")])
def test_report_axis_of_years_ends_at_a_round_number(posters: Path, titles: int, axis: str) -> None:
    assert axis in report([title(number) for number in range(titles)], {}, posters).text("years")


def test_report_genres_are_sorted_by_titles_and_compared_in_pairs(posters: Path) -> None:
    titles = [
        title(1, "Drama", "Action"),
        *(title(number, "Action") for number in (2, 3, 4)),
        title(5, "Comedy"),
        title(6),
    ]
    page = report(titles, usable(titles[0]), posters)
    assert page.rows("genres")[1:] == [["Action", "4", "1", ""], ["Comedy", "1", "0", ""], ["Drama", "1", "1", ""]]
    assert "1 title has none." in page.text("genres")
    assert page.rows("together") == [
        ["", "Action", "Comedy", "Drama"],
        ["Action 4", "–", "0", "25"],  # noqa: RUF001
        ["Comedy 1", "0", "–", "0"],  # noqa: RUF001
        ["Drama 1", "100", "0", "–"],  # noqa: RUF001
    ]


def test_report_shows_a_dozen_posters_of_the_most_popular_titles(posters: Path) -> None:
    titles = [title(number, "Action", members=100 if number < 3 else number) for number in range(1, 31)]
    for each in titles:
        picture(posters / f"{each.id}.jpg")
    (posters / "30.jpg").write_bytes(b"no picture")
    complete = (posters / "29.jpg").read_bytes()
    (posters / "29.jpg").write_bytes(complete[: len(complete) - 20])
    page = report(titles, usable(*titles) | {"28": ("broken", "")}, posters)
    assert [alt for alt, _ in page.pictures] == [f"title {number}" for number in (1, 2, *range(27, 17, -1))]


def test_report_counts_explicit_titles_but_does_not_show_or_name_them(posters: Path) -> None:
    by_genre = replace(title(1, "Hentai", "Action", members=10**6), title="unseemly", genre_ids=[12, 1])
    by_rating = replace(title(2, "Action", members=10**6), title="unseemly", rating="Rx - Hentai")
    refused = replace(title(3, "Hentai"), title="unseemly", genre_ids=[12])
    other = title(4, "Action")
    titles = [by_genre, by_rating, refused, other]
    for each in titles:
        picture(posters / f"{each.id}.jpg")
    page = report(titles, usable(by_genre, by_rating, other) | {"3": ("explicit", "not downloaded")}, posters)
    assert [alt for alt, _ in page.pictures] == ["title 4"]
    assert "unseemly" not in page.html
    assert page.table("genres")["Hentai"][:2] == ["2", "1"]
    assert page.table("missing")["explicit"] == ["1", "not downloaded"]


@pytest.mark.parametrize(("width", "height"), [(800, 1200), (1200, 300), (3, 2), (1, 900)])
def test_report_thumbnails_are_small_and_keep_their_aspect_ratio(posters: Path, width: int, height: int) -> None:
    picture(posters / "1.jpg", (width, height))
    ((_, data),) = report([title(1, "Action")], usable(title(1)), posters).pictures
    with Image.open(BytesIO(data)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.width <= 112 and thumbnail.height <= 160
        assert abs(thumbnail.width - thumbnail.height * width / height) <= 1


def test_report_stays_small_with_large_posters(posters: Path) -> None:
    genres = [f"genre {number}" for number in range(21)]
    titles = [title(number, *genres, members=number) for number in range(1, 13)]
    posters.mkdir()
    for each in titles:
        Image.effect_noise((300, 450), 100).convert("RGB").save(posters / f"{each.id}.jpg", quality=95)
    page = report(titles, usable(*titles), posters)
    assert len(page.pictures) == 21 * 12
    assert len(page.html.encode()) < 3_000_000


def test_report_sizes_are_those_of_readable_files(posters: Path) -> None:
    titles = [title(number) for number in range(1, 7)]
    for number, size in enumerate(((60, 90), (60, 90), (90, 60)), start=1):
        picture(posters / f"{number}.jpg", size)
    (posters / "4.jpg").write_bytes(b"")
    (posters / "5.jpg").write_bytes(b"GIF89a")
    page = report(titles, usable(*titles), posters)
    rows = page.table("sizes")
    assert rows["60 × 90"][:2] == ["2", "67 %"]  # noqa: RUF001
    assert rows["0.66 to 0.68"][:2] == ["2", "67 %"]
    assert rows["from 1.00 on"][:2] == ["1", "33 %"]
    assert rows["below 5"][:2] == ["3", "100 %"]
    text = page.text("sizes")
    assert "3 files were read. Width: 60 to 90 pixels, median 60." in text
    assert "1 usable poster is not in the folder." in text
    assert "2 files in the folder cannot be read as an image." in text


def test_report_sums_up_rare_sizes_and_reasons(posters: Path) -> None:
    titles = [title(number) for number in range(1, 38)]
    for each in titles[:14]:
        picture(posters / f"{each.id}.jpg", (60 + int(each.id), 90))
    reasons = {each.id: ("failed", "why " * int(each.id)) for each in titles[14:]}
    page = report(titles, usable(*titles[:14]) | reasons, posters)
    assert page.table("sizes")["4 other sizes"][:2] == ["4", "29 %"]
    assert page.text("missing").endswith("3 titles have 3 rarer reasons.")


def test_report_counts_missing_values_per_field(posters: Path) -> None:
    full = Title(
        *("1", "a", "TV", "Manga", "2015-04", 0, 0.0, 0),
        *(["Action"], [1], ["School"], ["Josei"], ["Tidepool"], "http://x/1"),
    )
    rows = report([full, Title("2", "b"), Title("3", "c")], {}, posters).rows("fields")[1:]
    assert [row[0] for row in rows] == [
        "type", "source", "start_date", "episodes", "score", "members", "genres", "themes", "demographics", "studios",
        "poster_url",
    ]  # fmt: skip
    assert all(row[1:3] == ["2", "67 %"] for row in rows)


def test_report_shares_near_0_and_1_are_not_shown_as_these(posters: Path) -> None:
    titles = [Title(str(number), "a", type="TV" if number > 1 else None) for number in range(1, 1001)]
    titles[0] = replace(titles[0], source="Manga")
    rows = report(titles, {}, posters).table("fields")
    assert (rows["type"][1], rows["source"][1], rows["score"][1]) == ("<1 %", ">99 %", "100 %")


def test_report_reasons_ignore_addresses_and_numbers(posters: Path) -> None:
    reasons = {
        1: "https://host/images/1.jpg?s=a answered 404 Not Found: the site has nothing there.",
        2: "https://host/images/2.jpg?s=b answered 404 Not Found: the site has nothing there.",
        3: "https://host/images/3.jpg answered 410 Gone: the site has nothing there.",
        4: "image file is truncated (12 bytes not processed).",
        5: "image file is truncated (7 bytes not processed).",
        6: "the same image as that of 7 (sha256 0123456789abcdef)",
        7: "the same image as that of 40012 (sha256 fedcba9876543210)",
        8: "the same image as that of 512 (sha256 0011223344556677)",
    }
    outcomes = {str(number): ("broken", reason) for number, reason in reasons.items()}
    page = report([title(number) for number in reasons], outcomes, posters)
    assert [row[2] for row in page.rows("missing") if len(row) == 3][1:] == [
        "the same image as that of … (sha256 …) For example title 6 and title 7",
        "[address] answered 404 Not Found: the site has nothing there. For example title 1 and title 2",
        "image file is truncated (… bytes not processed). For example title 4 and title 5",
        "[address] answered 410 Gone: the site has nothing there. For example title 3",
    ]


def test_report_counts_any_status_and_posters_of_other_titles(posters: Path) -> None:
    statuses = {"1": "new", "2": "stolen", "3": "placeholder", "4": "placeholder", "99": "new"}
    page = report([title(number) for number in range(1, 6)], {id: (s, "") for id, s in statuses.items()}, posters)
    rows = [row[:2] for row in page.rows("missing")]
    assert rows == [["Status", "Titles"], ["placeholder", "2"], ["no outcome", "1"], ["stolen", "1"]]
    assert "1 poster of titles that are not in this catalogue is not counted." in page.text("missing")
    assert page.figures["usable posters"] == "1"


def test_report_says_that_no_poster_is_missing(posters: Path) -> None:
    assert "Every title has a usable poster." in report([title(1)], usable(title(1)), posters).text("missing")


def test_summary_has_the_main_figures() -> None:
    titles = [title(1, "Drama", "A*ction"), title(2, "A*ction"), title(3)]
    outcomes = usable(titles[0]) | {"2": ("missing", ""), "3": ("no_address", "")}
    assert dataset_summary(catalogue_of(titles), poster_table(outcomes)) == (
        "3 titles, 1 usable poster.\n\n"
        "| genre | titles | posters |\n| --- | ---: | ---: |\n| A\\*ction | 2 | 1 |\n| Drama | 1 | 1 |\n\n"
        "Missing:\n\n- missing: 1\n- no_address: 1"
    )
    assert dataset_summary(catalogue_of([]), poster_table({})) == (
        "0 titles, 0 usable posters.\n\nNo title has a genre.\n\nMissing:\n\n- none"
    )
