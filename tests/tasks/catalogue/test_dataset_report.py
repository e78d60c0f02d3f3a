"""The report of a dataset: what it says and shows, and what it must never show."""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from infra.local.site.invented_titles import invented_titles
from tasks.catalogue import dataset_report as module
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.poster_download import POSTER_COLUMNS
from tasks.catalogue.titles import Title
from tasks.myanimelist.source import MyAnimeList

DATE = "2026-07-25"
HOSTILE = "<script>alert(\"x\")</script> & 'more'"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a reader finds on the page: sections with their text and tables, pictures, and every address."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {"": ""}
        self.rows: dict[str, list[list[str]]] = {"": []}
        self.headings: list[int] = []
        self.terms: list[str] = []
        self.pictures: list[tuple[str, bytes]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.section = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = values["id"] or ""
            self.texts[self.section], self.rows[self.section] = "", []
        elif tag == "tr":
            self.rows[self.section].append([])
        elif tag in ("th", "td"):
            assert tag == "td" or values["scope"] in ("row", "col")
            self.rows[self.section][-1].append("")
        elif tag == "img":
            data = base64.b64decode((values["src"] or "").removeprefix("data:image/jpeg;base64,"), validate=True)
            self.pictures.append((values["alt"] or "", data))
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts[self.section] += data
        if self.open and self.open[-1] in ("dt", "dd"):
            self.terms.append(data)
        if self.open and {"th", "td"} & set(self.open):
            self.rows[self.section][-1][-1] += data

    def text(self, section: str) -> str:
        return " ".join(self.texts[section].split())

    @property
    def figures(self) -> dict[str, str]:
        """The headline figures by their names."""
        return dict(zip(self.terms[::2], self.terms[1::2], strict=True))

    def table(self, section: str) -> dict[str, list[str]]:
        """The cells beside the first one of each row, by the first one."""
        cells = [[" ".join(cell.split()) for cell in row] for row in self.rows[section]]
        return {row[0]: row[1:] for row in cells}


def picture(path: Path, size: tuple[int, int] = (60, 90), colour: tuple[int, int, int] = (200, 30, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "JPEG")


def title(id: int, *genres: str, members: int | None = None, season: str | None = "2015-fall") -> Title:
    return Title(str(id), f"title {id}", genres=list(genres), members=members, season=season)


# Status and reason of each poster by the title's id.
Posters = dict[str, tuple[str, str]]


def usable(*titles: Title) -> Posters:
    return {title.id: ("present", "") for title in titles}


def poster_table(posters: Posters) -> pd.DataFrame:
    rows = [(id, status, reason, "", "") for id, (status, reason) in posters.items()]
    return pd.DataFrame(rows, columns=POSTER_COLUMNS, dtype=str)


def dataset_report(titles: Sequence[Title], posters: Posters, folder: Path, snapshot_date: str = DATE) -> str:
    catalogue, table = catalogue_of(titles), poster_table(posters)
    return module.dataset_report(catalogue, table, MyAnimeList(), folder, snapshot_date)


def dataset_summary(titles: Sequence[Title], posters: Posters) -> str:
    return module.dataset_summary(catalogue_of(titles), poster_table(posters))


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
    for index, invented in enumerate(invented_titles(120)):
        id = str(invented.mal_id)
        labels = {name: [label.name for label in getattr(invented, name)] for name in ("genres", "themes", "studios")}
        titles.append(
            Title(
                id,
                invented.title,
                invented.type,
                members=invented.members,
                genre_ids=[label.id for label in invented.genres],
                season=invented.season,
                **labels,  # type: ignore[arg-type]
            )
        )
        if index % 10 == 9:
            posters[id] = "missing", f"https://host/{index}.jpg answered 404."
        else:
            picture(folder / f"{id}.jpg", colour=(index, 2 * index, 255 - index))
            posters[id] = "new", ""
    return titles, posters, folder


def test_report_headline_figures_are_those_of_the_catalogue(posters: Path) -> None:
    records = [title(1, "Action"), title(2, "Action", "Drama", season="1998-spring"), title(3, season=None)]
    assert Page(dataset_report(records, usable(records[0]), posters)).figures == {
        "titles": "3",
        "with genres": "2",
        "usable posters": "1",
        "genres": "2",
        "snapshot": DATE,
        "seasons": "1998-spring to 2015-fall",
    }


def test_report_loads_nothing_and_links_nowhere(site: Site) -> None:
    html = dataset_report(*site)
    page = Page(html)
    assert page.pictures
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert page.tags.isdisjoint({"script", "iframe", "object", "form"})
    assert "url(" not in html and "@import" not in html
    assert "http://" not in html and "https://" not in html


def test_report_is_the_same_for_the_same_input(site: Site) -> None:
    records, outcomes, folder = site
    assert dataset_report(records, outcomes, folder) == dataset_report(records, outcomes, folder)
    # Genres in another order are the same genres.
    turned = [replace(record, genres=record.genres[::-1]) for record in records]
    assert dataset_report(turned, outcomes, folder) == dataset_report(records, outcomes, folder)


def test_report_headings_skip_no_level_and_sections_are_linked(site: Site) -> None:
    page = Page(dataset_report(*site))
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(page.headings))
    linked = {address[1:] for address in page.addresses if address.startswith("#")}
    assert linked == page.texts.keys() - {""}


def test_report_escapes_text_from_the_site(posters: Path) -> None:
    picture(posters / "1.jpg")
    shown = Title("1", HOSTILE, genres=[HOSTILE, "Drama"], season="2015-fall")
    absent = Title("2", HOSTILE, genres=[HOSTILE])
    outcomes = usable(shown) | {"2": (HOSTILE, HOSTILE)}
    html = dataset_report([shown, absent], outcomes, posters, HOSTILE)
    page = Page(html)
    assert "script" not in page.tags
    assert [alt for alt, _ in page.pictures] == [HOSTILE, HOSTILE]
    assert page.table("genres")[HOSTILE][:2] == ["2", "1"]
    assert page.table("missing")[HOSTILE] == ["1", f"{HOSTILE} For example {HOSTILE}"]


def test_report_without_titles_says_so_in_every_section(posters: Path) -> None:
    page = Page(dataset_report([], {}, posters))
    assert page.figures["titles"] == "0" and page.figures["seasons"] == "unknown"
    assert page.rows.keys() == page.texts.keys() and not any(page.rows.values())
    assert all(text.strip().endswith(".") for section, text in page.texts.items() if section)


def test_report_of_unknown_values_is_in_words(posters: Path) -> None:
    page = Page(dataset_report([Title("1", "a"), Title("2", "b")], {}, posters))
    assert "No title has a season or a start date." in page.text("years")
    assert "No title has a genre." in page.text("genres")
    assert "There is no poster to show." in page.text("sheet")
    assert page.table("missing")["no outcome"][:2] == ["2", "100 %"]


def test_report_years_include_those_without_titles(posters: Path) -> None:
    records = [
        title(1, season="2001-fall"),
        title(2, season="2001-spring"),
        replace(title(3, season=None), start_date="2004-04"),
        replace(title(4, season="2003-autumn"), start_date=None),
    ]
    page = Page(dataset_report(records, usable(records[1]), posters))
    years = page.table("years")
    del years["Year"]
    assert years == {"2001": ["2", "1"], "2002": ["0", "0"], "2003": ["0", "0"], "2004": ["1", "0"]}
    assert "1 title has neither a season nor a start date." in page.text("years")


@pytest.mark.parametrize(("titles", "axis"), [(1, "2 1 0"), (93, "100 50 0"), (100, "100 50 0"), (1101, "1,200 600 0")])
def test_report_axis_of_years_ends_at_a_round_number(posters: Path, titles: int, axis: str) -> None:
    records = [title(number) for number in range(titles)]
    assert axis in Page(dataset_report(records, {}, posters)).text("years")


def test_report_genres_are_sorted_by_titles_and_count_usable_posters(posters: Path) -> None:
    records = [title(1, "Drama", "Action"), title(2, "Action"), title(3, "Comedy"), title(4)]
    page = Page(dataset_report(records, usable(records[0]), posters))
    assert list(page.table("genres").items())[1:] == [
        ("Action", ["2", "1", ""]),
        ("Comedy", ["1", "0", ""]),
        ("Drama", ["1", "1", ""]),
    ]
    assert "1 title has none." in page.text("genres")


def test_report_genres_together_are_shares_of_each_row(posters: Path) -> None:
    records = [title(1, "Action", "Drama"), *(title(number, "Action") for number in (2, 3, 4)), title(5, "Gourmet")]
    rows = Page(dataset_report(records, {}, posters)).table("together")
    assert rows[""] == ["Action", "Drama", "Gourmet"]
    assert rows["Action 4"] == ["–", "25", "0"]  # noqa: RUF001
    assert rows["Drama 1"] == ["100", "–", "0"]  # noqa: RUF001


def test_report_shows_a_dozen_posters_of_the_most_popular_titles(posters: Path) -> None:
    records = [title(number, "Action", members=100 if number < 3 else number) for number in range(1, 31)]
    for record in records:
        picture(posters / f"{record.id}.jpg")
    (posters / "30.jpg").write_bytes(b"no picture")
    whole = (posters / "29.jpg").read_bytes()
    (posters / "29.jpg").write_bytes(whole[: len(whole) - 20])
    outcomes = usable(*records) | {"28": ("broken", "")}
    page = Page(dataset_report(records, outcomes, posters))
    assert [alt for alt, _ in page.pictures] == [f"title {number}" for number in (1, 2, *range(27, 17, -1))]


def test_report_counts_explicit_titles_but_does_not_show_or_name_them(posters: Path) -> None:
    by_genre = replace(title(1, "Hentai", "Action", members=10**6), title="unseemly", genre_ids=[12, 1])
    by_rating = replace(title(2, "Action", members=10**6), title="unseemly", rating="Rx - Hentai")
    refused = replace(title(3, "Hentai"), title="unseemly", genre_ids=[12])
    decent = title(4, "Action")
    records = [by_genre, by_rating, refused, decent]
    for record in records:
        picture(posters / f"{record.id}.jpg")
    outcomes = usable(by_genre, by_rating, decent) | {"3": ("explicit", "not downloaded")}
    html = dataset_report(records, outcomes, posters)
    page = Page(html)
    assert [alt for alt, _ in page.pictures] == ["title 4"]
    assert "unseemly" not in html
    assert page.table("genres")["Hentai"][:2] == ["2", "1"]
    assert page.table("missing")["explicit"] == ["1", "not downloaded"]


@pytest.mark.parametrize(("width", "height"), [(800, 1200), (1200, 300), (3, 2), (1, 900)])
def test_report_thumbnails_are_small_and_keep_their_aspect_ratio(posters: Path, width: int, height: int) -> None:
    picture(posters / "1.jpg", (width, height))
    record = title(1, "Action")
    ((_, data),) = Page(dataset_report([record], usable(record), posters)).pictures
    with Image.open(BytesIO(data)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.width <= 112 and thumbnail.height <= 160
        assert abs(thumbnail.width - thumbnail.height * width / height) <= 1


def test_report_stays_small_with_large_posters(posters: Path) -> None:
    genres = [f"genre {number}" for number in range(21)]
    records = [title(number, *genres, members=number) for number in range(1, 13)]
    for record in records:
        noise = Image.effect_noise((300, 450), 100).convert("RGB")
        posters.mkdir(exist_ok=True)
        noise.save(posters / f"{record.id}.jpg", quality=95)
    html = dataset_report(records, usable(*records), posters)
    assert len(Page(html).pictures) == 21 * 12
    assert len(html.encode()) < 3_000_000


def test_report_sizes_are_those_of_readable_files(posters: Path) -> None:
    records = [title(number) for number in range(1, 7)]
    for number, size in enumerate(((60, 90), (60, 90), (90, 60)), start=1):
        picture(posters / f"{number}.jpg", size)
    (posters / "4.jpg").write_bytes(b"")
    (posters / "5.jpg").write_bytes(b"GIF89a")
    page = Page(dataset_report(records, usable(*records), posters))
    rows = page.table("sizes")
    assert rows["60 × 90"][:2] == ["2", "67 %"]  # noqa: RUF001
    assert rows["0.66 to 0.68"][:2] == ["2", "67 %"]
    assert rows["from 1.00 on"][:2] == ["1", "33 %"]
    assert rows["below 5"][:2] == ["3", "100 %"]
    text = page.text("sizes")
    assert "3 files were read. Width: 60 to 90 pixels, median 60." in text
    assert "1 usable poster is not in the folder." in text
    assert "2 files in the folder cannot be read as an image." in text


def test_report_sizes_sum_up_the_rare_ones(posters: Path) -> None:
    records = [title(number) for number in range(1, 15)]
    for record in records:
        picture(posters / f"{record.id}.jpg", (60 + int(record.id), 90))
    rows = Page(dataset_report(records, usable(*records), posters)).table("sizes")
    assert rows["4 other sizes"][:2] == ["4", "29 %"]


def test_report_counts_missing_values_per_field(posters: Path) -> None:
    full = Title(
        "1",
        "a",
        "TV",
        "Manga",
        "2015-04",
        0,
        0.0,
        0,
        ["Action"],
        [1],
        ["School"],
        ["Josei"],
        ["Tidepool"],
        "http://x/1",
    )
    rows = Page(dataset_report([full, Title("2", "b"), Title("3", "c")], {}, posters)).table("lacking")
    del rows["Field"]
    assert list(rows) == [
        "type", "source", "start_date", "episodes", "score", "members", "genres", "themes", "demographics", "studios",
        "poster_url",
    ]  # fmt: skip
    assert all(row[:2] == ["2", "67 %"] for row in rows.values())


def test_report_shares_near_0_and_1_are_not_shown_as_these(posters: Path) -> None:
    records = [Title(str(number), "a", type="TV" if number > 1 else None) for number in range(1, 1001)]
    records[0] = replace(records[0], source="Manga")
    rows = Page(dataset_report(records, {}, posters)).table("lacking")
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
    page = Page(dataset_report([title(number) for number in reasons], outcomes, posters))
    assert [" ".join(row[2].split()) for row in page.rows["missing"] if len(row) == 3][1:] == [
        "the same image as that of … (sha256 …) For example title 6 and title 7",
        "[address] answered 404 Not Found: the site has nothing there. For example title 1 and title 2",
        "image file is truncated (… bytes not processed). For example title 4 and title 5",
        "[address] answered 410 Gone: the site has nothing there. For example title 3",
    ]


def test_report_reasons_sum_up_the_rare_ones(posters: Path) -> None:
    records = [title(number) for number in range(1, 24)]
    outcomes = {record.id: ("failed", "why " * int(record.id)) for record in records}
    text = Page(dataset_report(records, outcomes, posters)).text("missing")
    assert text.endswith("3 titles have 3 rarer reasons.")


def test_report_counts_any_status_and_posters_of_other_titles(posters: Path) -> None:
    records = [title(number) for number in range(1, 6)]
    statuses = {"1": "new", "2": "stolen", "3": "placeholder", "4": "placeholder", "99": "new"}
    outcomes = {id: (status, "") for id, status in statuses.items()}
    page = Page(dataset_report(records, outcomes, posters))
    rows = [row[:2] for row in page.rows["missing"]]
    assert rows == [["Status", "Titles"], ["placeholder", "2"], ["no outcome", "1"], ["stolen", "1"]]
    assert "1 poster of titles that are not in this catalogue is not counted." in page.text("missing")
    assert page.figures["usable posters"] == "1"


def test_report_says_that_no_poster_is_missing(posters: Path) -> None:
    record = title(1)
    assert "Every title has a usable poster." in Page(dataset_report([record], usable(record), posters)).text("missing")


def test_summary_has_the_main_figures() -> None:
    records = [title(1, "Drama", "A*ction"), title(2, "A*ction"), title(3)]
    outcomes = usable(records[0]) | {"2": ("missing", ""), "3": ("no_address", "")}
    assert dataset_summary(records, outcomes) == (
        "3 titles, 1 usable posters.\n\n"
        "| genre | titles | posters |\n| --- | ---: | ---: |\n| A\\*ction | 2 | 1 |\n| Drama | 1 | 1 |\n\n"
        "Missing:\n\n- missing: 1\n- no_address: 1"
    )


def test_summary_of_no_titles_says_so() -> None:
    assert dataset_summary([], {}) == "0 titles, 0 usable posters.\n\nNo title has a genre.\n\nMissing:\n\n- none"
