"""A title's own page, `/anime/{id}/{name}`, as laid out for large (2021, 2024) and small screens."""

import re
from collections.abc import Mapping

from bs4 import BeautifulSoup, Tag

from tasks.errors import PageLayoutError
from tasks.myanimelist.fields import (
    anime_id,
    attribute,
    date_in,
    genre_links,
    known,
    number_in,
    poster_address,
    producer_names,
    score_in,
    season_in,
    text_of,
    title_of,
    whole_page,
)
from tasks.myanimelist.records import AnimeRecord, Related
from tasks.myanimelist.sparse_tree import sparse_tree

# Every title's page has these fields, even where they only say "Unknown".
_REQUIRED = ("Type", "Episode", "Aired", "Source", "Rating")
_CLASSES = frozenset(
    {
        "title-name",  # the heading
        "spaceit_pad",  # a field, on large screens
        "dark_text",  # its name
        "table-list",  # the table of fields, on small screens
        "score-label",
        "entries-tile",  # related titles with a picture ...
        "entry",
        "slider",
        "relation",
        "text",
        "title",
        "entries-table",  # ... the others ...
        "anime_detail_related_anime",  # ... and all of them, until 2022
    }
)


def parse_detail_page(html: str | bytes) -> AnimeRecord:
    """Read a title's page.

    `members` is None on pages for small screens, which do not give it. `genres` is what the page lists under
    "Genres": in 2021 the site counted some themes of today as genres.

    Raises:
        PageLayoutError: the page is not a title's page in a layout known here; says what is missing.
        PageCutError: the page ends too early.
    """
    soup = sparse_tree(whole_page(html), _is_read)
    title = title_of(soup.find("h1", class_="title-name"))
    if title is None:
        raise PageLayoutError("This is no title's page: it has no heading with the title (h1.title-name).")
    mal_id = anime_id(_meta(soup, "og:url") or "")
    if mal_id is None:
        raise PageLayoutError(f"The page of {title!r} has no address with the title's id (meta og:url).")
    fields = _fields(soup)
    for name in _REQUIRED:
        if name not in fields:
            raise PageLayoutError(f'The page of {title!r} ({mal_id}) has no field "{name}".')
    start_date, _, aired_to = (text_of(fields["Aired"]) or "").partition(" to ")
    genres = _labels(fields, "Genre") + _labels(fields, "Explicit Genre")
    return AnimeRecord(
        mal_id=mal_id,
        title=title,
        type=known(text_of(fields["Type"])),
        source=known(text_of(fields["Source"])),
        start_date=date_in(start_date),
        episodes=number_in(text_of(fields["Episode"])),
        score=score_in(text_of(fields["Score"].find(class_="score-label"))) if "Score" in fields else None,
        members=number_in(text_of(fields.get("Member"))),
        genres=[name for _, name in genres],
        genre_ids=[genre_id for genre_id, _ in genres],
        themes=[name for _, name in _labels(fields, "Theme")],
        demographics=[name for _, name in _labels(fields, "Demographic")],
        studios=producer_names(fields["Studio"]) if "Studio" in fields else [],
        poster_url=_poster(soup),
        season=season_in(text_of(fields.get("Premiered"))),
        rating=known(text_of(fields["Rating"])),
        aired_to=date_in(aired_to),
        related=_related(soup),
    )


def _is_read(name: str, attributes: Mapping[str, str]) -> bool:
    """Whether an element belongs to the tree: the classes above, cells, links, images, the head's addresses."""
    return (
        name in ("a", "td", "tr", "img", "strong")
        or not _CLASSES.isdisjoint(attributes.get("class", "").split())
        or attributes.get("itemprop") == "image"
        or attributes.get("property") in ("og:url", "og:image")
    )


def _meta(soup: BeautifulSoup, name: str) -> str | None:
    tag = soup.find("meta", property=name)
    return attribute(tag, "content") if tag else None


def _fields(soup: BeautifulSoup) -> dict[str, Tag]:
    """The elements with the values of the page's fields, by name in the singular: "Genres:" is "Genre"."""
    fields: dict[str, Tag] = {}
    for label in soup.find_all("span", class_="dark_text"):
        value = label.parent
        if value:
            label.extract()  # what stays is the value
            fields.setdefault(_singular(label), value)
    for table in soup.find_all("table", class_="table-list"):
        for row in table.find_all("tr"):
            cells = row.find_all("td", recursive=False)
            if len(cells) == 2:
                fields.setdefault(_singular(cells[0]), cells[1])
    return fields


def _singular(label: Tag) -> str:
    return (text_of(label) or "").removesuffix(":").removesuffix("s")


def _labels(fields: dict[str, Tag], name: str) -> list[tuple[int, str]]:
    return genre_links(fields[name]) if name in fields else []


def _poster(soup: BeautifulSoup) -> str | None:
    for tag in (soup.find(itemprop="image"), soup.find("meta", property="og:image")):
        if address := poster_address(tag):
            return address
    return None


def _related(soup: BeautifulSoup) -> list[Related]:
    """The related anime: first those shown as tiles, then those in the table below; manga is left out."""
    related = []
    for tiles in soup.find_all("div", class_="entries-tile"):
        for tile in tiles.find_all("div", class_=["entry", "slider"]):
            relation = text_of(tile.find("div", class_=["relation", "text"]))
            # On large screens the picture, too, is a link.
            for link in (tile.find("div", class_="title") or tile).find_all("a"):
                image = link.find("img")
                title = title_of(link) or (attribute(image, "alt") if image else "")
                related += _related_by(relation, link, title)
    for table in soup.find_all("table", class_=["entries-table", "anime_detail_related_anime"]):
        for row in table.find_all("tr"):
            relation = text_of(row.find("td"))
            for link in row.find_all("a"):
                related += _related_by(relation, link, title_of(link) or "")
    return related


def _related_by(relation: str | None, link: Tag, title: str) -> list[Related]:
    """The related title that a link leads to, none where it leads elsewhere; "Prequel (OVA)" is "Prequel"."""
    mal_id = anime_id(attribute(link, "href"))
    if relation is None or mal_id is None:
        return []
    return [Related(re.sub(r"(?: \([^()]*\)|:)$", "", relation), mal_id, title)]
