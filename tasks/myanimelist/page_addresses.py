"""Where the site's pages and its API are, how fast the site may be read, and which part of a page changes with each
request."""

import re

from tasks.catalogue.seasons import NAMES, Season

SITE_URL = "https://myanimelist.net"
API_PATH = "/v2"
# The site tolerates this pace. Users who went faster were blocked for hours.
REQUESTS_PER_SECOND = 1.0

_CSRF_TOKEN = re.compile(rb"<meta name=['\"]csrf_token['\"][^>]*>")


def api_url(site_url: str) -> str:
    """The address of a site's API. MyAnimeList's has a host of its own, that of another site is on the same host."""
    host = site_url.rstrip("/")
    return ("https://api.myanimelist.net" if host == SITE_URL else host) + API_PATH


def season_path(season: Season) -> str:
    """The path of a season's page."""
    return f"/anime/season/{season.year}/{NAMES[season.quarter]}"


def without_csrf_token(body: bytes) -> bytes:
    """A page without its CSRF token, which differs in each response. Unchanged pages then have the same hash."""
    return _CSRF_TOKEN.sub(b"", body)
