"""MyAnimeList as a `Source`."""

import re
from collections.abc import Sequence

import pandas as pd

from tasks.catalogue.seasons import FIRST_YEAR, Season, parse_season, parse_seasons, quiet_days
from tasks.catalogue.source import SourcePage
from tasks.catalogue.titles import Details, Title, UnreadCard
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.label_ids import DEMOGRAPHIC_IDS, THEME_IDS
from tasks.myanimelist.page_addresses import SITE_URL, season_path
from tasks.myanimelist.season_pages import parse_season_page

# Hentai and Erotica.
EXPLICIT_GENRE_IDS = frozenset({12, 49})
# The site's 21 genres since 2022. Themes and demographics are not among them.
GENRE_IDS = EXPLICIT_GENRE_IDS | {1, 2, 4, 5, 7, 8, 9, 10, 14, 22, 24, 26, 28, 30, 36, 37, 41, 46, 47}
# The site's question mark and its icon.
_PLACEHOLDER_URL = re.compile(r"/(?:qm_\d+|questionmark_\d+|apple-touch-icon[^/]*|na|no_?image)\.\w+$")
_CSRF_TOKEN = re.compile(rb"<meta name=['\"]csrf_token['\"][^>]*>")
_EXPLICIT_GENRE = rf"(?:^|\|)(?:{'|'.join(map(str, sorted(EXPLICIT_GENRE_IDS)))})(?:\||$)"
OLDEST_SEASON = Season(FIRST_YEAR, 0)


class MyAnimeList:
    """MyAnimeList's pages of seasons and titles, or a site with the same pages. A selection is a range of seasons.

    A title's group is its season.
    """

    requests_per_second = 1.0  # users who went faster were blocked for hours
    posters_per_second = 4.0  # from a host that only serves images
    genre_ids = GENRE_IDS
    label_ids = THEME_IDS | DEMOGRAPHIC_IDS
    # One crossover would join dozens of franchises.
    weak_relations = frozenset({"Character"})

    def __init__(self, site_url: str = SITE_URL) -> None:
        self.site_url = site_url.rstrip("/")

    def pages(self, selection: str, started: float) -> list[SourcePage]:
        """The pages of a range of seasons such as "2015-winter..now"; raises SeasonError if it is invalid."""
        return [
            SourcePage(self.site_url + season_path(season), str(season), quiet_days(season, started), str(season))
            for season in parse_seasons(selection)
        ]

    def parse_page(self, page: SourcePage, body: bytes) -> Sequence[Title | UnreadCard]:
        """The titles of a season's page; raises NotOnSite if it is another season's."""
        return parse_season_page(body, page.url, page.group)

    def detail_page(self, title: Title, started: float) -> SourcePage:
        """The detail page of a title, as old as the title's season."""
        season = parse_season(title.season) if title.season else OLDEST_SEASON
        return SourcePage(f"{self.site_url}/anime/{title.id}", title.title, quiet_days(season, started))

    def parse_details(self, body: bytes) -> Details:
        """What a detail page says."""
        return parse_detail_page(body)

    def normalise(self, body: bytes) -> bytes:
        """The page without its CSRF token, which differs in each response."""
        return _CSRF_TOKEN.sub(b"", body)

    def group_of(self, catalogue: pd.DataFrame) -> "pd.Series[str]":
        """The season of each title."""
        return catalogue["season"]

    def is_explicit(self, catalogue: pd.DataFrame) -> "pd.Series[bool]":
        """Whether each title is explicit by its genres or its rating ("Rx - Hentai")."""
        return catalogue["genre_ids"].str.contains(_EXPLICIT_GENRE) | catalogue["rating"].str.startswith("Rx")

    def is_placeholder(self, poster_url: str) -> bool:
        """Whether this is the address of the site's question mark or icon."""
        return _PLACEHOLDER_URL.search(poster_url) is not None
