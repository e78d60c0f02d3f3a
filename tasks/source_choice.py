"""Chooses the source that reads a site. Another site is added here."""

from urllib.parse import urlsplit

from infra.settings import read_settings
from tasks.catalogue.source import Source
from tasks.crawl.addresses import is_file
from tasks.myanimelist.api import MyAnimeListApi
from tasks.myanimelist.page_addresses import API_PATH
from tasks.myanimelist.source import MyAnimeList
from tasks.table.source import Table


def source_for(site_url: str) -> Source:
    """The source for an address: MyAnimeList or a site with its pages, its API, whose path is `/v2`, or a table."""
    if is_file(site_url):
        return Table(site_url)
    if urlsplit(site_url).path.rstrip("/") == API_PATH:
        return MyAnimeListApi(site_url, read_settings().mal_client_id)
    return MyAnimeList(site_url)
