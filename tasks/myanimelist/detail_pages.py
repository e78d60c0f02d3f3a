"""Parser of a detail page, `/anime/{id}/{name}`, in the layouts for large (2021, 2024) and small screens."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from bs4 import Tag

from tasks.catalogue.titles import Details, Related
from tasks.errors import PageLayoutError, excerpt
from tasks.myanimelist.fields import (
    anime_id,
    attribute,
    caption_of,
    date_in,
    known,
    tags_in,
    text_of,
    title_of,
    whole_page,
)
from tasks.myanimelist.page_elements import roots_of

# Every detail page has these fields. Their value may be "Unknown".
_REQUIRED = ("Type", "Episode", "Aired", "Source", "Rating")

_ROOTS = {
    "title-name",  # the heading
    "spaceit_pad",  # a field, on large screens
    "table-list",  # the fields, on small screens
    "entries-tile",  # related titles with a picture
    "entries-table",  # the other related titles
    "anime_detail_related_anime",  # all related titles, until 2022
}
_PARTS = {
    "dark_text",  # the caption of a field, on large screens
    "entry",  # a related title, on large screens
    "slider",  # a related title, on small screens
    "relation",
    "text",
    "title",
}


def parse_detail_page(html: str | bytes) -> Details:
    """Read a detail page.

    Raises:
        PageLayoutError: the page is not a detail page in a known layout. The message says what is missing.
        PageCutError: the page ends too early.
    """
    roots = _roots_by_kind(whole_page(html))
    tags = {kind: found[0] for kind, found in roots.items()}
    title = title_of(tags.get("title-name"))
    if title is None:
        raise PageLayoutError("This is not a detail page: it has no heading with the title (h1.title-name).")
    title_id = anime_id(attribute(tags["og:url"], "content")) if "og:url" in tags else None
    if title_id is None:
        raise PageLayoutError(f"The page of {excerpt(title)!r} has no address with the title's id (meta og:url).")
    fields = _fields(roots)
    for name in _REQUIRED:
        if name not in fields:
            raise PageLayoutError(f'The page of {excerpt(title)!r} ({excerpt(title_id)}) has no field "{name}".')
    start_date, _, aired_to = (text_of(fields["Aired"]) or "").partition(" to ")
    return Details(
        id=title_id,
        title=title,
        start_date=date_in(start_date),
        rating=known(text_of(fields["Rating"])),
        aired_to=date_in(aired_to),
        related=_related(roots),
    )


def _roots_by_kind(page: str) -> dict[str, list[Tag]]:
    """The roots of a page by the class or property that identifies them."""
    roots: dict[str, list[Tag]] = defaultdict(list)
    for root in roots_of(page, _is_root, _is_part):
        roots[_kind(root.name, root.attrs) or ""].append(root)
    return roots


def _kind(name: str, attributes: Mapping[str, Any]) -> str | None:
    """The class or property that identifies a root; None if the element is not a root."""
    if name not in ("h1", "div", "table", "meta"):
        return None
    for kind in str(attributes.get("class", "")).split():
        if kind in _ROOTS:
            return kind
    return "og:url" if attributes.get("property") == "og:url" else None


def _is_root(name: str, attributes: Mapping[str, Any]) -> bool:
    return _kind(name, attributes) is not None


def _is_part(name: str, attributes: Mapping[str, Any]) -> bool:
    return name in ("a", "img", "tr", "td") or not _PARTS.isdisjoint(attributes.get("class", "").split())


def _fields(roots: dict[str, list[Tag]]) -> dict[str, Tag]:
    """The elements with the values of the page's fields, by caption."""
    fields: dict[str, Tag] = {}
    for field in roots["spaceit_pad"]:
        caption = _child(field, "dark_text")
        if caption:
            fields.setdefault(caption_of(caption.extract()), field)  # the value remains
    for table in roots["table-list"]:
        for row in tags_in(table):
            cells = tags_in(row)
            if len(cells) == 2:
                fields.setdefault(caption_of(cells[0]), cells[1])
    return fields


def _child(tag: Tag, *classes: str) -> Tag | None:
    """The first child element that has one of the classes."""
    wanted = set(classes)
    return next((child for child in tags_in(tag) if not wanted.isdisjoint(attribute(child, "class").split())), None)


def _related(roots: dict[str, list[Tag]]) -> list[Related]:
    """The related anime: first those with a picture, then those in the table. Manga is omitted."""
    related = []
    for tiles in roots["entries-tile"]:
        for tile in tags_in(tiles):
            relation = text_of(_child(tile, "relation", "text"))
            for link in tags_in(_child(tile, "title") or tile):
                image = next(iter(tags_in(link)), None)
                title = title_of(link) or (attribute(image, "alt") if image else "")
                related += _related_by(relation, link, title)
    for table in roots["entries-table"] + roots["anime_detail_related_anime"]:
        for row in tags_in(table):
            cells = tags_in(row)
            relation = text_of(cells[0]) if cells else None
            for link in (link for cell in cells for link in tags_in(cell)):
                related += _related_by(relation, link, title_of(link) or "")
    return related


def _related_by(relation: str | None, link: Tag, title: str) -> list[Related]:
    """The related title of a link, empty if the link leads elsewhere. "Prequel (OVA)" is "Prequel"."""
    title_id = anime_id(attribute(link, "href"))
    if relation is None or title_id is None:
        return []
    return [Related(re.sub(r"(?: \([^()]*\)|:)$", "", relation), title_id, title)]
