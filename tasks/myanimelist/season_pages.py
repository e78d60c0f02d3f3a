"""Parser of a season's page, `/anime/season/{year}/{season}`, which has one card per title."""

import re
from collections.abc import Mapping
from typing import Any

from bs4 import Tag
from bs4.element import NavigableString

from tasks.catalogue.titles import Title, UnreadCard
from tasks.errors import NotOnSite, PageLayoutError, excerpt
from tasks.myanimelist.fields import (
    anime_id,
    attribute,
    caption_of,
    date_in,
    genre_links,
    known,
    number_in,
    poster_address,
    producer_names,
    score_in,
    season_in,
    tags_in,
    text_of,
    title_of,
    whole_page,
)
from tasks.myanimelist.page_addresses import SITE_URL
from tasks.myanimelist.page_elements import roots_of, tags_by_class

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

_ROOTS = frozenset({"seasonal-anime-list", "anime-header", "seasonal-anime"})
_PARTS = frozenset(
    {"link-title", "js-members", "js-score", "js-start_date", "info", "genres", "image", "property", "caption"}
)


def parse_season_page(
    html: str | bytes, page_url: str = SITE_URL, expected: str | None = None
) -> list[Title | UnreadCard]:
    """Read the titles of a season page, each once, in the order of the page. An UnreadCard stands for an odd one.

    `season` is the season of the page, also for titles that began earlier (these have `continuing`). The list is empty
    if no title began in the season: the site has such pages.

    Raises:
        NotOnSite: the page is that of another season than the `expected` one.
        PageLayoutError: the page is not a season page in the known layout. The message says what is missing.
        PageCutError: the end of the page is missing.
    """
    roots = roots_of(whole_page(html), _is_root, _is_part)
    season = next((season for root in roots if root.name == "title" and (season := season_in(text_of(root)))), None)
    continuing: bool | None = None  # None before the first list of titles
    records: dict[str, Title | UnreadCard] = {}
    position = 0
    for root in roots:
        classes = attribute(root, "class").split()
        if "seasonal-anime-list" in classes:
            continuing = False
        elif "anime-header" in classes and continuing is not None:
            continuing = "Continuing" in (text_of(root) or "")
        elif "seasonal-anime" in classes and continuing is not None and season:
            position += 1
            try:
                record = _read_card(root, season, continuing, page_url)
                records.setdefault(record.id, record)
            except PageLayoutError as error:
                records[f"card {position}"] = UnreadCard(position, str(error), _only_id(root))
    if continuing is None:
        raise PageLayoutError("This is not a season page: it has no list of titles (div.seasonal-anime-list).")
    if season is None:
        raise PageLayoutError('This is not a season page: its title names no season, such as "Fall 2010".')
    if expected and season != expected:  # the site redirects to the current season in place of one that it lacks
        raise NotOnSite(f"The page is that of another season, {season}.")
    return list(records.values())


def _is_root(name: str, attributes: Mapping[str, Any]) -> bool:
    if name == "div":
        return not _ROOTS.isdisjoint(attributes.get("class", "").split())
    return name == "title"


def _is_part(name: str, attributes: Mapping[str, Any]) -> bool:
    if name == "a" and re.search("/anime/(genre|producer)/", attributes.get("href", "")):
        return True
    return name == "img" or not _PARTS.isdisjoint(attributes.get("class", "").split())


def _read_card(card: Tag, season: str, continuing: bool, page_url: str) -> Title:
    parts = tags_by_class(card)
    link, genres, image = (next(iter(parts[name]), None) for name in ("link-title", "genres", "image"))
    title, title_id = title_of(link), anime_id(attribute(link, "href")) if link else None
    if title is None or title_id is None:
        raise PageLayoutError("It has no title with its address (a.link-title).")
    if genres is None:
        raise PageLayoutError(
            f"The card of {excerpt(title)!r} ({excerpt(title_id)}) has no element for genres (div.genres)."
        )
    labels = genre_links(genres)
    properties = _properties(parts["property"])
    return Title(
        id=title_id,
        title=title,
        type=_type(card),
        source=known(_value(properties["Source"])) if "Source" in properties else None,
        # Each card has hidden figures for the sort buttons of the page. The visible figures are rounded ("690K").
        start_date=date_in(_text(parts["js-start_date"])),
        episodes=_episodes(_text(parts["info"])),
        score=score_in(_text(parts["js-score"])),
        members=number_in(_text(parts["js-members"])),
        genres=[name for _, name in labels],
        genre_ids=[genre_id for genre_id, _ in labels],
        themes=_names(properties.get("Theme")),
        demographics=_names(properties.get("Demographic")),
        studios=producer_names(properties["Studio"]) if "Studio" in properties else [],
        poster_url=poster_address(image.find("img"), page_url) if image else None,
        season=season,
        continuing=continuing,
    )


def _only_id(card: Tag) -> str | None:
    """The id that a card's link and its element for genres name; None if they name none, or two."""
    parts = tags_by_class(card)
    ids = {anime_id(attribute(link, "href")) for link in parts["link-title"]}
    ids |= {attribute(genres, "id") for genres in parts["genres"]}
    ids = {id for id in ids if id and id.isdecimal()}
    return ids.pop() if len(ids) == 1 else None


def _text(tags: list[Tag]) -> str | None:
    """The text of the first of some tags, None if there is none."""
    return text_of(tags[0]) if tags else None


def _type(card: Tag) -> str | None:
    number = re.search(r"\bjs-anime-type-(\d{1,4})(?!\d)", attribute(card, "class"))
    return _TYPES.get(int(number[1])) if number else None


def _episodes(info: str | None) -> int | None:
    # Digits before a blank may belong to the number ("1 234 eps").
    match = re.search(r"((?:(?<!\S)\d{1,3} )?\S+) eps?\b", info or "")
    return number_in(match[1]) if match else None


def _properties(rows: list[Tag]) -> dict[str, Tag]:
    """The rows of a card by caption."""
    return {caption_of(tags[0]): row for row in rows if (tags := tags_in(row))}


def _value(row: Tag) -> str:
    """The text of a row without its caption and links."""
    strings = (child for child in row.contents if isinstance(child, NavigableString))
    return " ".join("".join(strings).split())


def _names(row: Tag | None) -> list[str]:
    return [name for _, name in genre_links(row)] if row else []
