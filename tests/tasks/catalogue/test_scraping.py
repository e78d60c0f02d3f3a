"""From season pages on a server to the catalogue's records, through the collector."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.local.site.invented_titles import invented_titles
from infra.local.site.server import small_site
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.seasons import Season, parse_seasons
from tasks.errors import EmptyCatalogueError, PageLayoutError, SeasonError, SiteUnavailable
from tasks.myanimelist.pages import AnimeRecord

Scrape = Callable[[str, Sequence[Season]], Awaitable[list[AnimeRecord]]]

EMPTY = '<html><title>Fall 2010 - Anime</title><div class="seasonal-anime-list"></div></html>'


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with small_site(titles=80, seed=3) as base_url:
        yield base_url


@pytest.fixture
def scrape(tmp_path: Path) -> Iterator[Scrape]:
    collectors: list[Collector] = []

    async def scrape(site_url: str, seasons: Sequence[Season]) -> list[AnimeRecord]:
        collectors.append(Collector(tmp_path, site_url, CollectConfig()))
        return await collectors[0].read_catalogue(seasons)

    yield scrape
    for collector in collectors:
        collector.ledger.close()


def server_of(html: str, cut: int = 0) -> TestServer:
    """A server whose every page is the same, cut in half the first `cut` times but of the length it tells."""
    asked = iter(range(1_000_000))

    async def answer(request: web.Request) -> web.Response:
        whole = next(asked) >= cut
        return web.Response(text=html if whole else html[: len(html) // 2], content_type="text/html")

    application = web.Application()
    application.router.add_get("/anime/season/2010/fall", answer)
    return TestServer(application)


async def test_every_title_of_the_site_is_read_once_with_the_season_in_which_it_began(
    site: str, scrape: Scrape
) -> None:
    titles = invented_titles(80, 3)
    seasons = parse_seasons(
        f"{min(t.season for t in titles)[:4]}-winter..{max(p for t in titles for p in t.pages)[:4]}-fall"
    )
    records = await scrape(site, seasons)
    assert [(record.mal_id, record.title, record.season) for record in records] == sorted(
        (title.mal_id, title.title, title.season) for title in titles
    )
    by_id = {title.mal_id: title for title in titles}
    assert all(record.genres == [genre.name for genre in by_id[record.mal_id].genres] for record in records)


async def test_seasons_that_the_site_does_not_have_are_left_out_with_a_warning(
    site: str, scrape: Scrape, caplog: pytest.LogCaptureFixture
) -> None:
    season = invented_titles(80, 3)[0].season
    with caplog.at_level(logging.WARNING):
        records = await scrape(site, parse_seasons(season) + parse_seasons("1917-winter..1917-spring"))
    assert records
    assert "has no page of 1917-winter, 1917-spring: left out" in caplog.text


async def test_a_site_with_none_of_the_seasons_is_an_error_that_names_them(site: str, scrape: Scrape) -> None:
    with pytest.raises(SeasonError, match="has no page of 1917-winter, 1917-spring"):
        await scrape(site, parse_seasons("1917-winter..1917-spring"))


async def test_pages_without_a_title_are_an_error(scrape: Scrape) -> None:
    async with server_of(EMPTY) as server:
        with pytest.raises(EmptyCatalogueError, match="no title"):
            await scrape(str(server.make_url("")), parse_seasons("2010-fall"))


async def test_a_page_in_another_layout_names_its_season_and_what_is_missing(scrape: Scrape) -> None:
    async with server_of("<html><p>Log in</p></html>") as server:
        with pytest.raises(PageLayoutError, match=r"2010-fall.*no list of titles") as caught:
            await scrape(str(server.make_url("")), parse_seasons("2010-fall"))
    assert not caught.value.retryable


async def test_half_a_page_is_downloaded_again(scrape: Scrape) -> None:
    async with server_of(EMPTY, cut=2) as server:
        with pytest.raises(EmptyCatalogueError):  # and not PageCutError
            await scrape(str(server.make_url("")), parse_seasons("2010-fall"))


async def test_a_site_that_is_not_there_is_unavailable(scrape: Scrape) -> None:
    with pytest.raises(SiteUnavailable):
        await scrape("http://127.0.0.1:9", parse_seasons("2010-fall"))
