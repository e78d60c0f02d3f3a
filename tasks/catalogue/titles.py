"""What is known of one title, whichever page it was read from."""

from dataclasses import dataclass, field

# Hentai and Erotica: titles whose posters are never downloaded.
EXPLICIT_GENRE_IDS = frozenset({12, 49})
# The site's 21 genres since 2022; themes and demographics are counted apart.
GENRE_IDS = EXPLICIT_GENRE_IDS | {1, 2, 4, 5, 7, 8, 9, 10, 14, 22, 24, 26, 28, 30, 36, 37, 41, 46, 47}

# Titles that only share a character are no franchise: one crossover would make one of dozens.
CROSSOVERS = frozenset({"Character"})


@dataclass(frozen=True)
class Related:
    """Another anime that a detail page names, and what it is to this one ("Sequel", "Side Story", ...)."""

    relation: str
    mal_id: int
    title: str = ""


@dataclass(frozen=True)
class AnimeRecord:
    """One title. The fields are the columns of catalogue.csv, in its order, but for the last one.

    None and empty lists are what the site does not say; in particular a title without genres is of unknown
    genre, not of none. Dates are ISO and as exact as the site's: "1998-04-03", "1998-04" or "1998".
    """

    mal_id: int
    title: str
    type: str | None = None
    source: str | None = None
    start_date: str | None = None
    episodes: int | None = None
    score: float | None = None
    members: int | None = None
    genres: list[str] = field(default_factory=list)
    genre_ids: list[int] = field(default_factory=list)
    themes: list[str] = field(default_factory=list)
    demographics: list[str] = field(default_factory=list)
    studios: list[str] = field(default_factory=list)
    poster_url: str | None = None
    season: str | None = None
    # Only detail pages know these.
    rating: str | None = None
    aired_to: str | None = None
    related: list[Related] = field(default_factory=list)
    # Only season pages know this: the title began in an earlier season than the page's, which `season` is.
    continuing: bool = False


def is_explicit(record: AnimeRecord) -> bool:
    """Whether a title is pornographic by the site's own genres or rating."""
    return not EXPLICIT_GENRE_IDS.isdisjoint(record.genre_ids) or (record.rating or "").startswith("Rx")
