"""Where the site's pages and its API are."""

from tasks.catalogue.seasons import NAMES, Season

SITE_URL = "https://myanimelist.net"
API_PATH = "/v2"


def api_url(site_url: str) -> str:
    """The address of a site's API. MyAnimeList's has a host of its own, that of another site is on the same host."""
    host = site_url.rstrip("/")
    return ("https://api.myanimelist.net" if host == SITE_URL else host) + API_PATH


def season_path(season: Season) -> str:
    """The path of a season's page."""
    return f"/anime/season/{season.year}/{NAMES[season.quarter]}"
