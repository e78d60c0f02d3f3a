"""A season's page, `/anime/season/{year}/{season}`: a card for every title of the season."""

import re
from collections.abc import Mapping

from bs4 import Tag

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
from tasks.myanimelist.records import AnimeRecord
from tasks.myanimelist.sparse_tree import sparse_tree

# The numbers in a card's class `js-anime-type-N`; 0 is "Unknown".
_TYPES = {
    1: "TV",
    2: "OVA",
    3: "Movie",
    4: "Special",
    5: "ONA",
    6: "Music",
    7: "CM",
    8: "PV",
    9: "TV Special",
}


_CLASSES = frozenset(
    {
        "seasonal-anime-list",
        "anime-header",
        "seasonal-anime",
        "link-title",
        "js-members",
        "js-score",
        "js-start_date",
        "info",
        "genres",
        "image",
        "properties",
        "property",
        "caption",
        "item",
    }
)


def parse_season_page(html: str | bytes) -> list[AnimeRecord]:
    """Read a season's page: its titles in the page's order, each once.

    `season` is the page's season, for titles too that only continue in it (those have `continuing`). A season
    in which nothing began is an empty list: the site has such pages.

    Raises:
        PageLayoutError: the page is not a season's page in the layout known here; says what is missing.
        PageCutError: the page ends too early.
    """
    soup = sparse_tree(whole_page(html), _is_read)
    lists = soup.find_all("div", class_="seasonal-anime-list")
    if not lists:
        raise PageLayoutError("This is no season's page: it has no list of titles (div.seasonal-anime-list).")
    season = season_in(text_of(soup.title))
    if season is None:
        raise PageLayoutError('This is no season\'s page: its title names no season, such as "Fall 2010".')
    records: dict[int, AnimeRecord] = {}
    for listing in lists:
        continuing = "Continuing" in (text_of(listing.find(class_="anime-header")) or "")
        for card in listing.find_all("div", class_="seasonal-anime"):
            record = _read_card(card, season, continuing)
            records.setdefault(record.mal_id, record)
    return list(records.values())


def _is_read(name: str, attributes: Mapping[str, str]) -> bool:
    """Whether an element belongs to the tree: the classes above, genres and companies, images, and bare spans."""
    if name in ("title", "img"):
        return True
    classes = attributes.get("class")
    if classes is not None:
        return not _CLASSES.isdisjoint(classes.split())
    address = attributes.get("href", "")
    return name == "span" or "/anime/genre/" in address or "/anime/producer/" in address


def _read_card(card: Tag, season: str, continuing: bool) -> AnimeRecord:
    parts = _first_by_class(card)
    link, genres, image = parts.get("link-title"), parts.get("genres"), parts.get("image")
    title, mal_id = title_of(link), anime_id(attribute(link, "href")) if link else None
    if title is None or mal_id is None:
        raise PageLayoutError("A card of the season's page has no title with its address (a.link-title).")
    if genres is None:
        raise PageLayoutError(f"The card of {title!r} ({mal_id}) has no place for genres (div.genres).")
    labels = genre_links(genres)
    properties = _properties(parts.get("properties"))
    return AnimeRecord(
        mal_id=mal_id,
        title=title,
        type=_type(card),
        source=known(text_of(properties["Source"].find(class_="item"))) if "Source" in properties else None,
        # Hidden in each card for the page's sorting buttons; the figures shown are rounded ("690K").
        start_date=date_in(text_of(parts.get("js-start_date"))),
        episodes=_episodes(parts.get("info")),
        score=score_in(text_of(parts.get("js-score"))),
        members=number_in(text_of(parts.get("js-members"))),
        genres=[name for _, name in labels],
        genre_ids=[genre_id for genre_id, _ in labels],
        themes=_names(properties.get("Theme")),
        demographics=_names(properties.get("Demographic")),
        studios=producer_names(properties["Studio"]) if "Studio" in properties else [],
        poster_url=poster_address(image.find("img")) if image else None,
        season=season,
        continuing=continuing,
    )


def _first_by_class(card: Tag) -> dict[str, Tag]:
    """The first element of each class in a card, in one walk: a search for each takes far longer."""
    parts: dict[str, Tag] = {}
    for tag in card.find_all(True):
        for name in attribute(tag, "class").split():
            parts.setdefault(name, tag)
    return parts


def _type(card: Tag) -> str | None:
    number = re.search(r"\bjs-anime-type-(\d+)", attribute(card, "class"))
    return _TYPES.get(int(number[1])) if number else None


def _episodes(info: Tag | None) -> int | None:
    match = re.search(r"(\d+) eps?\b", text_of(info) or "")
    return int(match[1]) if match else None


def _properties(properties: Tag | None) -> dict[str, Tag]:
    """The captioned rows of a card by their caption in the singular: "Studios" is "Studio"."""
    rows = {}
    for row in properties.find_all("div", class_="property") if properties else []:
        caption = text_of(row.find("span", class_="caption"))
        if caption:
            rows[caption.removesuffix(":").removesuffix("s")] = row
    return rows


def _names(row: Tag | None) -> list[str]:
    return [name for _, name in genre_links(row)] if row else []
