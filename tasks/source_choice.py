"""Chooses the source that reads a site. Another site is added here."""

from tasks.catalogue.source import Source
from tasks.myanimelist.source import MyAnimeList


def source_for(site_url: str) -> Source:
    """The source for a site's address: MyAnimeList, or a site with the same pages."""
    return MyAnimeList(site_url)
