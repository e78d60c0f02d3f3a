"""One title as the pages of a source describe it, one that cannot be read, and the order of ids."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Related:
    """A related title, and how it is related ("Sequel", "Side Story", ...)."""

    relation: str
    id: str
    title: str = ""


@dataclass(frozen=True)
class Title:
    """One title. The fields are the columns of the catalogue (`catalogue_table`), except for the last one.

    None and empty lists are values that the source does not give. A title without genres has unknown genres. Dates are
    ISO dates as exact as the source's: "1998-04-03", "1998-04" or "1998". `genre_ids` is empty or parallel to `genres`,
    with None for a genre without id.
    """

    id: str
    title: str
    type: str | None = None
    source: str | None = None
    start_date: str | None = None
    episodes: int | None = None
    score: float | None = None
    members: int | None = None
    genres: list[str] = field(default_factory=list)
    genre_ids: list[int | None] = field(default_factory=list)
    themes: list[str] = field(default_factory=list)
    demographics: list[str] = field(default_factory=list)
    studios: list[str] = field(default_factory=list)
    poster_url: str | None = None
    season: str | None = None
    # Given only by the title's detail page.
    rating: str | None = None
    aired_to: str | None = None
    related: list[Related] = field(default_factory=list)
    own_page: bool = False
    # Given only by pages of seasons: the title began before the page's season, which is in `season`.
    continuing: bool = False


@dataclass(frozen=True)
class Details:
    """What a title's detail page says; the fields are as in `Title`."""

    id: str
    title: str
    start_date: str | None = None
    rating: str | None = None
    aired_to: str | None = None
    related: list[Related] = field(default_factory=list)


@dataclass(frozen=True)
class UnreadCard:
    """A title of a page that could not be read. `position` counts the page's titles from 1; `missing` is a sentence."""

    position: int
    missing: str
    id: str | None = None


def is_number(id: str) -> bool:
    """Whether an id is a whole number in its usual form, without leading zeros."""
    return _NUMBER.fullmatch(id) is not None


def id_sort_key(ids: Iterable[str]) -> Callable[[str], Any]:
    """The key that sorts these ids: as numbers if all are numbers, else as text."""
    return int if all(map(is_number, ids)) else str
