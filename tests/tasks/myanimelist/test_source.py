"""MyAnimeList as a source: everything but parsing."""

import time

import pytest

from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.titles import Title
from tasks.errors import SeasonError
from tasks.myanimelist.source import MyAnimeList

SOURCE = MyAnimeList("http://site.test/")


def test_pages_of_older_seasons_have_more_quiet_days() -> None:
    old, new = SOURCE.pages("1998-spring", 1.6e9)[0], SOURCE.pages("2010-winter..now", time.time())[-1]
    assert (old.url, old.name, old.group) == ("http://site.test/anime/season/1998/spring", "1998-spring", "1998-spring")
    assert (old.quiet_days, new.quiet_days) == (365, 0)
    with pytest.raises(SeasonError, match="2015-sumer"):
        SOURCE.pages("2015-sumer", 0)


def test_detail_page_is_as_old_as_the_season_of_its_title() -> None:
    page = SOURCE.detail_page(Title("21", "Bells", season="1998-spring"), 1.6e9)
    assert (page.url, page.name, page.quiet_days) == ("http://site.test/anime/21", "Bells", 365)
    assert SOURCE.detail_page(Title("21", "Bells"), 1.6e9).quiet_days == 365


@pytest.mark.parametrize(
    ("genre_ids", "rating", "explicit"),
    [
        ([4, 12], None, True),
        ([49], None, True),
        ([], "Rx - Hentai", True),
        ([4, 1], "R - 17+ (violence & profanity)", False),
        ([112, 120], None, False),
        ([], None, False),
    ],
)
def test_title_is_explicit_by_genre_or_rating(genre_ids: list[int | None], rating: str | None, explicit: bool) -> None:
    catalogue = catalogue_of([Title("1", "Bells", genre_ids=genre_ids, rating=rating)])
    assert list(SOURCE.is_explicit(catalogue)) == [explicit]


@pytest.mark.parametrize(
    ("name", "placeholder"),
    [("qm_50.gif", True), ("apple-touch-icon-256.png", True), ("na.gif", True), ("anime/1508/129576.jpg", False)],
)
def test_placeholder_is_recognised_by_its_address(name: str, placeholder: bool) -> None:
    assert SOURCE.is_placeholder(f"https://cdn.myanimelist.net/images/{name}") is placeholder
