"""The parsers compared with an independent reading of real pages by regular expressions."""

import re
import zipfile
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tasks.catalogue.titles import Details, Title
from tasks.errors import PageLayoutError
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.season_pages import parse_season_page
from tasks.myanimelist.source import MyAnimeList

TYPES = {"0": None, "1": "TV", "2": "OVA", "3": "Movie", "4": "Special", "5": "ONA", "9": "TV Special"}
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def pages(archive: Path, folder: str) -> Iterator[tuple[str, str]]:
    """Name and text of the pages of one folder of an archive, read in place."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith(folder) and name.endswith(".html"):
                yield name, file.read(name).decode("utf-8")


def group(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.DOTALL)
    return unescape(match[1]).strip() if match else None


def words(text: str | None) -> str | None:
    """The text without tags, None if it says that the value is unknown."""
    plain = " ".join(unescape(re.sub(r"<[^>]*>", " ", text or "")).split())
    return None if plain in ("", "?", "Unknown", "None", "Not available") else plain


def links(pattern: str, text: str | None) -> list[tuple[str, str]]:
    found = re.findall(rf'<a\s[^>]*href="[^"]*{pattern}[^"]*"[^>]*>(?:<span>)?([^<]*)<', text or "", re.DOTALL)
    return [(match[0], unescape(match[1]).strip()) for match in found]


def names(pattern: str, text: str | None) -> list[str]:
    return [name for _, name in links(pattern, text)]


def iso(date: str | None) -> str | None:
    """The ISO form of "Oct 3, 2010", "Oct 2010" or "2010"."""
    if date is None or date == "?":
        return None
    parts = date.replace(",", "").split()
    month = f"-{MONTHS.index(parts[0]) + 1:02}" if len(parts) > 1 else ""
    return parts[-1] + month + (f"-{int(parts[1]):02}" if len(parts) == 3 else "")


def card_by_expressions(card: str, season: str, continuing: bool) -> dict[str, Any]:
    rows = {
        caption.rstrip("s"): row
        for caption, row in re.findall(r'<span class="caption">(\w+)</span>(.*?)</div>', card, re.DOTALL)
    }
    genres = links(r"/anime/genre/(\d+)/", group(r"js-genre-inner\">(.*?)</div>", card))
    date = group(r'js-start_date">(\d*)<', card) or ""
    image = group(r'<div class="image">.*?(?:data-src| src)="([^"]*)"', card) or ""
    return {
        "id": group(r'js-genre" id="(\d+)"', card),
        "title": group(r'class="js-title">([^<]*)<', card),
        "type": TYPES[group(r'js-anime-type-(\d)"', card) or ""],
        "source": words(rows["Source"]),
        "start_date": "-".join(part for part in (date[:4], date[4:6], date[6:]) if int(part)),
        "episodes": int(group(r"<span>(\d+) eps?<", card) or 0) or None,
        "score": float(group(r'js-score">([\d.]*)<', card) or 0) or None,
        "members": int(group(r'js-members">(\d*)<', card) or 0),
        "genres": [name for _, name in genres],
        "genre_ids": [int(number) for number, _ in genres],
        "themes": names(r"/anime/genre/(\d+)/", rows.get("Theme")),
        "demographics": names(r"/anime/genre/(\d+)/", rows.get("Demographic")),
        "studios": names(r"/anime/producer/(\d+)/", rows.get("Studio")),
        "poster_url": image if "/anime/" in image else None,
        "season": season,
        "continuing": continuing,
    }


def season_by_expressions(html: str, season: str) -> list[dict[str, Any]]:
    found = []
    for listing in html.split('<div class="anime-header">')[1:]:
        for card in listing.split('<div class="js-anime-category-producer ')[1:]:
            found.append(card_by_expressions(card, season, listing.startswith("TV (Continuing)")))
    return found


def detail_by_expressions(html: str, title_id: str) -> dict[str, Any]:
    """A detail page read by its labels, for large screens and for small ones (`td.list-title`)."""
    fields: dict[str, str] = {}
    for label, value in re.findall(r'<span class="dark_text">([^<]*):</span>(.*?)</div>', html, re.DOTALL):
        fields.setdefault(label, value)
    small = re.findall(r'<td class="list-title[^>]*>([^<]*)</td>\s*<td[^>]*>(.*?)</td>', html, re.DOTALL)
    fields |= dict(small)
    aired = (words(fields["Aired"]) or "?").split(" to ")
    related = []
    if '<div class="entry borderClass' in html:
        tile = (
            r'<div class="relation">\s*([^<(]*?)\s*\([^<]*</div>\s*<div class="title">\s*'
            r'<a href="[^"]*?/(anime|manga)/(\d+)[^>]*>([^<]*)<'
        )
        related += [(r[0], r[2], unescape(r[3]).strip()) for r in re.findall(tile, html) if r[1] == "anime"]
    else:
        tile = (
            r'href="[^"]*?/anime/(\d+)[^"]*" class="thumb lazyload ga-click"[^>]*>'
            r'<img alt="([^"]*)"[^>]*></a></div><div class="text">([^<]*)<'
        )
        related += [(r[2], r[0], unescape(r[1])) for r in re.findall(tile, html, re.DOTALL)]
    row = (
        r'<td (?:nowrap=""|valign="top"|class="pr8)[^>]*>\s*([^<]*?):?\s*</td>\s*'
        r'<td[^>]*>(\s*<ul class="entries">.*?|<a.*?)</td>'
    )
    for relation, cell in re.findall(row, html, re.DOTALL):
        related += [(relation, number, name) for number, name in links(r"[a-z]/anime/(\d+)", cell)]
    return {
        "id": title_id,
        "title": group(r'<h1 class="title-name[^>]*>(?:<strong>)?([^<]*)<', html),
        "start_date": iso(aired[0]),
        "aired_to": iso(aired[1]) if len(aired) == 2 else None,
        "rating": words(fields["Rating"]),
        "related": related,
    }


def differences(record: Title | Details, expected: dict[str, Any]) -> dict[str, Any]:
    read = vars(record) | {"related": [(r.relation, r.id, r.title) for r in record.related]}
    return {name: (read[name], value) for name, value in expected.items() if read[name] != value}


def test_season_pages_are_read_as_by_regular_expressions(real_data: Path) -> None:
    titles = 0
    for name, html in pages(real_data / "myanimelist" / "pages.zip", "season/"):
        _, year, quarter = name.removesuffix(".html").split("/")
        records = parse_season_page(html)
        expected = season_by_expressions(html, f"{year}-{quarter}")
        assert [record.id for record in records] == [card["id"] for card in expected], name
        for record, card in zip(records, expected, strict=True):
            assert not differences(record, card), name
        titles += len(records)
    assert titles > 2000


def test_ids_of_themes_and_demographics_are_those_of_the_pages(real_data: Path) -> None:
    found = set()
    for _, html in pages(real_data / "myanimelist" / "pages.zip", "season/"):
        rows = re.findall(r'<span class="caption">(?:Theme|Demographic)s?</span>(.*?)</div>', html, re.DOTALL)
        found |= {link for row in rows for link in links(r"/anime/genre/(\d+)/", row)}
    assert len(found) > 40
    assert {name: int(number) for number, name in found}.items() <= MyAnimeList.label_ids.items()


def test_season_pages_of_the_replayed_site_are_read_completely(real_data: Path) -> None:
    titles = set()
    for name, html in pages(real_data / "myanimelist" / "replay.zip", "season/"):
        records = parse_season_page(html)
        assert [record.id for record in records] == re.findall(r'js-genre" id="(\d+)"', html), name
        titles |= {record.id for record in records}
    assert len(titles) == 1321


@pytest.mark.parametrize("folder", ["anime/", "other/anime-2021"])
def test_detail_pages_are_read_as_by_regular_expressions(real_data: Path, folder: str) -> None:
    seen = 0
    for name, html in pages(real_data / "myanimelist" / "pages.zip", folder):
        title_id = group(r'og:url" content="[^"]*?/anime/(\d+)', html) or ""
        assert not differences(parse_detail_page(html), detail_by_expressions(html, title_id)), name
        seen += 1
    assert seen in (208, 4)


def test_parsers_refuse_other_pages_of_the_site(real_data: Path) -> None:
    refused = 0
    for name, html in pages(real_data / "myanimelist" / "pages.zip", "other/"):
        with pytest.raises(PageLayoutError):
            parse_season_page(html)
        if not name.startswith("other/anime-2021"):
            with pytest.raises(PageLayoutError):
                parse_detail_page(html)
            refused += 1
    assert refused == 6


def test_parsers_refuse_half_a_page(real_data: Path) -> None:
    for archive, folder in (("replay.zip", "season/2010"), ("pages.zip", "anime/10")):
        for _, html in pages(real_data / "myanimelist" / archive, folder):
            with pytest.raises(PageLayoutError, match="cut short"):
                parse_season_page(html[: len(html) // 2])
            with pytest.raises(PageLayoutError, match="cut short"):
                parse_detail_page(html[: len(html) // 2])
