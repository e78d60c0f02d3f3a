"""A title's own page, `/anime/{id}/{name}`, as laid out for large (2021, 2024) and small screens."""

import re
from collections import defaultdict

from bs4 import Tag

from tasks.catalogue.titles import Related, Title
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

# Every title's page has these fields, even where they only say "Unknown".
_REQUIRED = ("Type", "Episode", "Aired", "Source", "Rating")

_LINK = Part({"img": Part(text=False)})  # on large screens a related title's picture is a link, too
_CELL = Part({"a": _LINK})
_TABLE = Part({"tr": Part({"td": _CELL}, text=False)}, text=False, is_root=True)
_TILE = Part({"a": _LINK}, text=False)
_LAYOUT = Layout(
    root_names=("meta", "h1", "img", "div", "table"),
    by_class={
        "title-name": Part(is_root=True),  # the heading
        "spaceit_pad": Part({"a": Part()}, is_root=True),  # a field, on large screens
        "dark_text": Part(),  # its name
        "score-label": Part(),
        "table-list": _TABLE,  # the fields, on small screens
        "entries-tile": Part(text=False, is_root=True),  # related titles with a picture ...
        "entry": _TILE,
        "slider": _TILE,
        "relation": Part(),
        "text": Part(),
        "title": _TILE,
        "entries-table": _TABLE,  # ... the others ...
        "anime_detail_related_anime": _TABLE,  # ... and all of them, until 2022
    },
    by_attribute={
        ("property", "og:url"): Part(text=False),
        ("property", "og:image"): Part(text=False),
        ("itemprop", "image"): Part(text=False),
    },
)


def parse_detail_page(html: str | bytes) -> Title:
    """Read a title's page.

    `members` is None on pages for small screens, which do not give it. `genres` is what the page lists under
    "Genres": in 2021 the site counted some themes of today as genres.

    Raises:
        PageLayoutError: the page is not a title's page in a layout known here; says what is missing.
        PageCutError: the page ends too early.
    """
    trees: dict[str, list[SparseTree]] = defaultdict(list)
    for tree in _LAYOUT.trees(whole_page(html)):
        trees[tree.told_by].append(tree)
    tags = {name: found[0].tag for name, found in trees.items()}
    title = title_of(tags.get("title-name"))
    if title is None:
        raise PageLayoutError("This is no title's page: it has no heading with the title (h1.title-name).")
    title_id = anime_id(attribute(tags["og:url"], "content")) if "og:url" in tags else None
    if title_id is None:
        raise PageLayoutError(f"The page of {title!r} has no address with the title's id (meta og:url).")
    fields = _fields(trees)
    for name in _REQUIRED:
        if name not in fields:
            raise PageLayoutError(f'The page of {title!r} ({title_id}) has no field "{name}".')
    start_date, _, aired_to = (text_of(fields["Aired"]) or "").partition(" to ")
    genres = _labels(fields, "Genre") + _labels(fields, "Explicit Genre")
    return Title(
        id=title_id,
        title=title,
        type=known(text_of(fields["Type"])),
        source=known(text_of(fields["Source"])),
        start_date=date_in(start_date),
        episodes=number_in(text_of(fields["Episode"])),
        score=score_in(text_of(_child(fields["Score"], "score-label"))) if "Score" in fields else None,
        members=number_in(text_of(fields.get("Member"))),
        genres=[name for _, name in genres],
        genre_ids=[genre_id for genre_id, _ in genres],
        themes=[name for _, name in _labels(fields, "Theme")],
        demographics=[name for _, name in _labels(fields, "Demographic")],
        studios=producer_names(fields["Studio"]) if "Studio" in fields else [],
        poster_url=poster_address(tags.get("image")) or poster_address(tags.get("og:image")),
        season=season_in(text_of(fields.get("Premiered"))),
        rating=known(text_of(fields["Rating"])),
        aired_to=date_in(aired_to),
        related=_related(trees),
    )


def _fields(trees: dict[str, list[SparseTree]]) -> dict[str, Tag]:
    """The elements with the values of the page's fields, by name in the singular: "Genres:" is "Genre"."""
    fields: dict[str, Tag] = {}
    for field in trees["spaceit_pad"]:
        for label in field.parts["dark_text"]:
            label.extract()  # what stays is the value
            fields.setdefault(_singular(label), field.tag)
    for table in trees["table-list"]:
        for row in tags_in(table.tag):
            cells = tags_in(row)
            if len(cells) == 2:
                fields.setdefault(_singular(cells[0]), cells[1])
    return fields


def _singular(label: Tag) -> str:
    return (text_of(label) or "").removesuffix(":").removesuffix("s")


def _labels(fields: dict[str, Tag], name: str) -> list[tuple[int, str]]:
    return genre_links(fields[name]) if name in fields else []


def _child(tag: Tag, *classes: str) -> Tag | None:
    """The first element in another with one of some classes."""
    wanted = set(classes)
    return next((child for child in tags_in(tag) if not wanted.isdisjoint(attribute(child, "class").split())), None)


def _related(trees: dict[str, list[SparseTree]]) -> list[Related]:
    """The related anime: first those shown as tiles, then those in the table below; manga is left out."""
    related = []
    for tiles in trees["entries-tile"]:
        for tile in tags_in(tiles.tag):
            relation = text_of(_child(tile, "relation", "text"))
            for link in tags_in(_child(tile, "title") or tile):
                image = next(iter(tags_in(link)), None)
                title = title_of(link) or (attribute(image, "alt") if image else "")
                related += _related_by(relation, link, title)
    for table in trees["entries-table"] + trees["anime_detail_related_anime"]:
        for row in tags_in(table.tag):
            cells = tags_in(row)
            relation = text_of(cells[0]) if cells else None
            for link in (link for cell in cells for link in tags_in(cell)):
                related += _related_by(relation, link, title_of(link) or "")
    return related


def _related_by(relation: str | None, link: Tag, title: str) -> list[Related]:
    """The related title that a link leads to, none where it leads elsewhere; "Prequel (OVA)" is "Prequel"."""
    title_id = anime_id(attribute(link, "href"))
    if relation is None or title_id is None:
        return []
    return [Related(re.sub(r"(?: \([^()]*\)|:)$", "", relation), title_id, title)]
