"""Addresses of the site's pages."""

from tasks.catalogue.seasons import parse_season
from tasks.myanimelist.page_addresses import season_path, without_csrf_token


def test_season_path_has_year_and_name() -> None:
    assert season_path(parse_season("2010-fall")) == "/anime/season/2010/fall"


def test_csrf_token_is_removed_and_nothing_else() -> None:
    page = b"<head><meta name='csrf_token' content='%s'><title>A</title></head>"
    assert without_csrf_token(page % b"abc") == without_csrf_token(page % b"def") == b"<head><title>A</title></head>"
