"""HTML of the site becomes records: pure functions, no network."""

from tasks.catalogue.titles import EXPLICIT_GENRE_IDS, AnimeRecord, Related, is_explicit
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.season_pages import parse_season_page

__all__ = [
    "EXPLICIT_GENRE_IDS",
    "AnimeRecord",
    "Related",
    "is_explicit",
    "parse_detail_page",
    "parse_season_page",
]
