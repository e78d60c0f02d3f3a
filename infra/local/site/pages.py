"""The pages of the small site, with the layout that MyAnimeList had in 2024.

The structure is that of the site: the elements, classes and attributes that a parser reads, in the same order and with
the same gaps, such as an empty source, an unknown studio or images that load lazily. The templates and their texts are
this project's.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra.local.site.invented_titles import EXPLICIT_GENRE, KIDS, InventedTitle, PosterState

# The groups of a season page: the heading, the number in its class, and the title types of the group.
GROUPS = (
    ("TV (New)", 1, ("TV",)),
    ("TV (Continuing)", 1, ("TV",)),
    ("ONA", 5, ("ONA",)),
    ("OVA", 2, ("OVA",)),
    ("Movie", 3, ("Movie",)),
    ("Special", 4, ("Special", "TV Special")),
)
TYPE_NUMBERS = {"TV": 1, "OVA": 2, "Movie": 3, "Special": 4, "ONA": 5, "TV Special": 9}
EAGER_IMAGES = 12  # later images have their address in data-src, as on the real page
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def season_page(titles: Sequence[InventedTitle], season: str, base_url: str) -> str:
    """Render the page of a season such as "2015-winter": all its titles, in the groups of the site."""
    year, name = season.split("-")
    listed = [title for title in titles if season in title.pages]
    groups = []
    for header, number, types in GROUPS:
        cards = [title for title in listed if title.type in types]
        if "TV" in types:
            cards = [title for title in cards if (title.season != season) == (header == "TV (Continuing)")]
        groups.append((header, number, cards))
    eager = [title for _, _, cards in groups for title in cards][:EAGER_IMAGES]
    template = _templates().get_template("season.html")
    return template.render(year=year, name=name, groups=groups, eager=eager, base_url=base_url)


def detail_page(title: InventedTitle, base_url: str) -> str:
    """Render a detail page. Unlike season pages, it has the rating, the last date and the related titles."""
    near = [relation for relation in title.related if relation.kind in ("Prequel", "Sequel")]
    far = [relation for relation in title.related if relation not in near]
    template = _templates().get_template("detail.html")
    return template.render(title=title, near=near, far=far, base_url=base_url)


def not_found_page(base_url: str) -> str:
    """Render the page for the status 404."""
    return _templates().get_template("not_found.html").render(base_url=base_url)


def poster_path(title: InventedTitle) -> str:
    """The path of a title's poster."""
    return f"/images/anime/{1000 + title.mal_id % 997}/{title.mal_id}.jpg"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
    )
    templates.filters.update(slug=_slug, readable=_readable, image_path=_image_path)
    templates.globals.update(type_numbers=TYPE_NUMBERS, explicit_genre=EXPLICIT_GENRE, kids=KIDS)
    return templates


def _slug(title: str) -> str:
    """The last part of an address: spaces become underscores; punctuation is removed except ☆ and hyphens."""
    return quote(re.sub(r"\s", "_", re.sub(r"[^\w\s☆-]", "", title.replace(": ", "  "))), safe="☆")


def _readable(iso: str) -> str:
    """A date in the format of the site: "Apr 3, 2018", or "Apr 2018" without a day."""
    year, month, *day = iso.split("-")
    name = MONTHS[int(month) - 1]
    return f"{name} {int(day[0])}, {year}" if day else f"{name} {year}"


def _image_path(title: InventedTitle) -> str:
    """The path of the poster, or of the placeholder image if there is none."""
    return "/images/qm_50.gif" if title.poster is PosterState.PLACEHOLDER else poster_path(title)
