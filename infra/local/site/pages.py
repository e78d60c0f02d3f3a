"""The small site's pages, in the layout in which MyAnimeList served its own in 2024.

Only the structure is the site's: the elements, classes and attributes that a parser reads, in their order and
with the gaps the real pages have (an empty source, a studio that is not known, images that load lazily). The
words are this project's. The markup is in templates/.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from infra.local.site.invented_titles import EXPLICIT_GENRE, KIDS, InventedTitle, PosterState

# The groups of a season page: heading, the number in its class, and the title types that stand in it.
GROUPS = (
    ("TV (New)", 1, ("TV",)),
    ("TV (Continuing)", 1, ("TV",)),
    ("ONA", 5, ("ONA",)),
    ("OVA", 2, ("OVA",)),
    ("Movie", 3, ("Movie",)),
    ("Special", 4, ("Special", "TV Special")),
)
TYPE_NUMBERS = {"TV": 1, "OVA": 2, "Movie": 3, "Special": 4, "ONA": 5, "TV Special": 9}
EAGER_IMAGES = 12  # images after these carry their address in data-src, as on the real page
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def season_page(titles: Sequence[InventedTitle], season: str, base_url: str) -> str:
    """The page of a season such as "2015-winter": every title that stands on it, in the site's groups."""
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
    """The page of one title, with what only it knows: rating, the last day on air, related titles."""
    near = [relation for relation in title.related if relation.kind in ("Prequel", "Sequel")]
    far = [relation for relation in title.related if relation not in near]
    template = _templates().get_template("detail.html")
    return template.render(title=title, near=near, far=far, base_url=base_url)


def not_found_page(base_url: str) -> str:
    """What the site answers with status 404."""
    return _templates().get_template("not_found.html").render(base_url=base_url)


def poster_path(title: InventedTitle) -> str:
    """Where the title's poster is served."""
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
    """The last part of an address: spaces become underscores, punctuation but ☆ and hyphens goes."""
    return quote(re.sub(r"\s", "_", re.sub(r"[^\w\s☆-]", "", title.replace(": ", "  "))), safe="☆")


def _readable(iso: str) -> str:
    """A date as the site writes it: "Apr 3, 2018" for a day, "Apr 2018" for a month."""
    year, month, *day = iso.split("-")
    name = MONTHS[int(month) - 1]
    return f"{name} {int(day[0])}, {year}" if day else f"{name} {year}"


def _image_path(title: InventedTitle) -> str:
    """The poster's path, or the site's question mark for a title without one."""
    return "/images/qm_50.gif" if title.poster is PosterState.PLACEHOLDER else poster_path(title)
