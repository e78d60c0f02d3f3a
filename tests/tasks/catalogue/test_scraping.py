"""Reads season pages from a server and merges their titles."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.local.site.invented_titles import invented_titles
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.scraping import merge
from tasks.catalogue.titles import Title
from tasks.errors import EmptyCatalogueError, PageLayoutError, SeasonError
from tasks.myanimelist.source import MyAnimeList
from tests.small_site import small_site

Scrape = Callable[[str, str], Awaitable[pd.DataFrame]]

EMPTY = '<html><title>Fall 2010 - Anime</title><div class="seasonal-anime-list"></div></html>'


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with small_site(titles=80, seed=3) as base_url:
        yield base_url


@pytest.fixture
def scrape(tmp_path: Path) -> Iterator[Scrape]:
    collectors: list[Collector] = []

    async def scrape(site_url: str, seasons: str) -> pd.DataFrame:
        collectors.append(Collector(tmp_path, MyAnimeList(site_url), CollectConfig(details=0)))
        return await collectors[0].read_catalogue(seasons)

    yield scrape
    for collector in collectors:
        collector.ledger.close()


def server_of(html: str) -> TestServer:
    """A server with one page, that of the fall of 2010."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    application = web.Application()
    application.router.add_get("/anime/season/2010/fall", respond)
    return TestServer(application)


async def test_scraping_reads_every_title_once_with_the_season_in_which_it_began(site: str, scrape: Scrape) -> None:
    titles = sorted(invented_titles(80, 3), key=lambda title: title.mal_id)
    first, last = min(t.season for t in titles)[:4], max(p for t in titles for p in t.pages)[:4]
    catalogue = await scrape(site, f"{first}-winter..{last}-fall")
    assert list(catalogue["id"]) == [str(title.mal_id) for title in titles]
    assert list(catalogue["title"]) == [title.title for title in titles]
    assert list(catalogue["season"]) == [title.season for title in titles]
    assert list(catalogue["genres"]) == ["|".join(genre.name for genre in title.genres) for title in titles]


async def test_scraping_skips_seasons_that_the_site_lacks_with_a_warning(
    site: str, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    first = min(title.season for title in invented_titles(80, 3))
    with caplog.at_level(logging.WARNING):
        assert len(await scrape(site, f"1995-fall..{first}"))
    assert "has no page of 1995-fall, " in caplog.text and ": skipped" in caplog.text


async def test_scraping_fails_if_the_site_lacks_all_seasons(site: str, scrape: Scrape) -> None:
    with pytest.raises(SeasonError, match="has no page of 1917-winter, 1917-spring"):
        await scrape(site, "1917-winter..1917-spring")


async def test_scraping_fails_if_no_page_lists_a_title(scrape: Scrape) -> None:
    async with server_of(EMPTY) as server:
        with pytest.raises(EmptyCatalogueError, match="no title"):
            await scrape(str(server.make_url("")), "2010-fall")


async def test_scraping_names_the_page_with_an_unknown_layout(scrape: Scrape) -> None:
    async with server_of("<html><p>Log in</p></html>") as server:
        with pytest.raises(PageLayoutError, match=r"The page of 2010-fall: ") as caught:
            await scrape(str(server.make_url("")), "2010-fall")
    assert not caught.value.retryable


def on_page(id: str, season: str | None, *, continuing: bool = False, start_date: str | None = None) -> Title:
    return Title(id, f"title {id}", season=season, continuing=continuing, start_date=start_date)


def test_merge_sorts_titles_and_keeps_the_earliest_season() -> None:
    later = [on_page("17", "2011-winter", continuing=True), on_page("5", "2011-winter")]
    earlier = [on_page("17", "2010-fall"), on_page("3", "2010-fall")]
    merged = [(title.id, title.season) for title in merge([later, earlier])]
    assert merged == [("3", "2010-fall"), ("5", "2011-winter"), ("17", "2010-fall")]


def test_merge_prefers_the_page_on_which_a_title_began_in_any_order() -> None:
    # The site counts late December as winter, whose page comes after the autumn's.
    pages = [[on_page("7", "2010-fall", continuing=True)], [on_page("7", "2011-winter")]]
    assert [title.season for title in merge(pages)] == ["2011-winter"]
    assert [title.season for title in merge(reversed(pages))] == ["2011-winter"]


def test_merge_gives_a_continuing_title_the_season_of_its_start_date() -> None:
    (title,) = merge([[on_page("21", "2015-winter", continuing=True, start_date="1999-10-20")]])
    assert title.season == "1999-fall"
    (title,) = merge([[on_page("21", "2015-winter", continuing=True, start_date="1999")]])
    assert title.season == "2015-winter"


def test_merge_keeps_the_first_of_titles_without_a_season() -> None:
    first, second = on_page("b/1", None), on_page("b/1", None, start_date="1999")
    assert merge([[first], [second]]) == [first]
