"""Addresses of the site's pages, and what is left out of their hashes."""

from tasks.catalogue.seasons import parse_season
from tasks.myanimelist.page_addresses import season_path
from tasks.myanimelist.source import MyAnimeList


def test_season_path_has_year_and_name() -> None:
    assert season_path(parse_season("2010-fall")) == "/anime/season/2010/fall"


def test_csrf_token_is_removed_and_nothing_else() -> None:
    page = b"<head><meta name='csrf_token' content='%s'><title>A</title></head>"
    pages = {MyAnimeList().normalise(page % token) for token in (b"abc", b"def")}
    assert pages == {b"<head><title>A</title></head>"}
