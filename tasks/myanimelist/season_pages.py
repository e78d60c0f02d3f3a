"""A season's page, `/anime/season/{year}/{season}`: a card for every title of the season."""

import re

from bs4 import Tag
from bs4.element import NavigableString

from tasks.catalogue.titles import Title
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
    tags_in,
    text_of,
    title_of,
    whole_page,
)
from tasks.myanimelist.sparse_trees import Layout, Part, SparseTree

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

_LAYOUT = Layout(
    root_names=("div",),
    by_class={
        "seasonal-anime-list": Part(is_root=True, text=False),
        "anime-header": Part(is_root=True),
        "seasonal-anime": Part(is_root=True, text=False),
        "link-title": Part(),
        "js-members": Part(),
        "js-score": Part(),
        "js-start_date": Part(),
        "info": Part(),
        "genres": Part({"a": Part()}, text=False),
        "image": Part({"img": Part()}, text=False),
        "property": Part({"a": Part()}),
    },
    by_name={"title": Part()},
)


def parse_season_page(html: str | bytes) -> list[Title]:
    """Read a season's page: its titles in the page's order, each once.

    `season` is the page's season, for titles too that only continue in it (those have `continuing`). A season
    in which nothing began is an empty list: the site has such pages.

    Raises:
        PageLayoutError: the page is not a season's page in the layout known here; says what is missing.
        PageCutError: the page ends too early.
    """
    season: str | None = None
    continuing: bool | None = None  # None as long as there is no list
    records: dict[str, Title] = {}
    for tree in _LAYOUT.trees(whole_page(html)):
        if tree.told_by == "title":
            season = season or season_in(text_of(tree.tag))
        elif tree.told_by == "seasonal-anime-list":
            continuing = False
        elif tree.told_by == "anime-header" and continuing is not None:
            continuing = "Continuing" in (text_of(tree.tag) or "")
        elif tree.told_by == "seasonal-anime" and continuing is not None and season:
            record = _read_card(tree, season, continuing)
            records.setdefault(record.id, record)
    if continuing is None:
        raise PageLayoutError("This is no season's page: it has no list of titles (div.seasonal-anime-list).")
    if season is None:
        raise PageLayoutError('This is no season\'s page: its title names no season, such as "Fall 2010".')
    return list(records.values())


def _read_card(card: SparseTree, season: str, continuing: bool) -> Title:
    link, genres, image = card.first("link-title"), card.first("genres"), card.first("image")
    title, title_id = title_of(link), anime_id(attribute(link, "href")) if link else None
    if title is None or title_id is None:
        raise PageLayoutError("A card of the season's page has no title with its address (a.link-title).")
    if genres is None:
        raise PageLayoutError(f"The card of {title!r} ({title_id}) has no place for genres (div.genres).")
    labels = genre_links(genres)
    properties = _properties(card.parts["property"])
    return Title(
        id=title_id,
        title=title,
        type=_type(card.tag),
        source=known(_value(properties["Source"])) if "Source" in properties else None,
        # Hidden in each card for the page's sorting buttons; the figures shown are rounded ("690K").
        start_date=date_in(text_of(card.first("js-start_date"))),
        episodes=_episodes(card.first("info")),
        score=score_in(text_of(card.first("js-score"))),
        members=number_in(text_of(card.first("js-members"))),
        genres=[name for _, name in labels],
        genre_ids=[genre_id for genre_id, _ in labels],
        themes=_names(properties.get("Theme")),
        demographics=_names(properties.get("Demographic")),
        studios=producer_names(properties["Studio"]) if "Studio" in properties else [],
        poster_url=poster_address(next(iter(tags_in(image)), None)) if image else None,
        season=season,
        continuing=continuing,
    )


def _type(card: Tag) -> str | None:
    number = re.search(r"\bjs-anime-type-(\d+)", attribute(card, "class"))
    return _TYPES.get(int(number[1])) if number else None


def _episodes(info: Tag | None) -> int | None:
    match = re.search(r"(\d+) eps?\b", text_of(info) or "")
    return int(match[1]) if match else None


def _properties(rows: list[Tag]) -> dict[str, Tag]:
    """The captioned rows of a card by their caption in the singular: "Studios" is "Studio"."""
    return {str(row.contents[0]).strip().removesuffix(":").removesuffix("s"): row for row in rows if row.contents}


def _value(row: Tag) -> str:
    """The text behind the caption of a row."""
    strings = (child for child in row.contents[1:] if isinstance(child, NavigableString))
    return " ".join("".join(strings).split())


def _names(row: Tag | None) -> list[str]:
    return [name for _, name in genre_links(row)] if row else []
