"""Scrapy, set up to do the same as the collector's client and nothing else, for bench_collector.py."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import scrapy
import scrapy.core.downloader.handlers.http11  # otherwise imported by the first request and measured
from parsel import Selector, SelectorList
from scrapy import signals
from scrapy.crawler import AsyncCrawlerProcess, Crawler
from scrapy.http import Request, Response

if TYPE_CHECKING:
    from bench_collector import Crawl

_TYPES = ("TV", "OVA", "Movie", "Special", "ONA", "Music", "CM", "PV", "TV Special")


def run_spider(crawl: Crawl, pages: list[str], posters: list[str], concurrency: int, parse: bool) -> None:
    """Crawl the URLs and add the result to `crawl`."""
    process = AsyncCrawlerProcess(
        {
            "CONCURRENT_REQUESTS": concurrency,
            "CONCURRENT_REQUESTS_PER_DOMAIN": concurrency,
            "DOWNLOAD_DELAY": 0,
            "AUTOTHROTTLE_ENABLED": False,
            "ROBOTSTXT_OBEY": True,
            "HTTPERROR_ALLOW_ALL": True,
            # The collector's client has none of these features.
            "COOKIES_ENABLED": False,
            "HTTPPROXY_ENABLED": False,
            "METAREFRESH_ENABLED": False,
            "REFERER_ENABLED": False,
            "DOWNLOADER_STATS": False,
            "STATS_CLASS": "scrapy.statscollectors.DummyStatsCollector",
            "STATS_DUMP": False,
            "LOGSTATS_INTERVAL": 0,
            "LOG_LEVEL": "ERROR",
            "MEMUSAGE_ENABLED": False,
            "REMOTE_CONTROL_ENABLED": False,
            "TELNETCONSOLE_ENABLED": False,
        }
    )
    process.crawl(_Spider, crawl=crawl, pages=pages, posters=posters, parse=parse)
    process.start()


class _Spider(scrapy.Spider):
    name = "seasons"

    def __init__(self, crawl: Crawl, pages: list[str], posters: list[str], parse: bool) -> None:
        super().__init__()
        self._crawl = crawl
        self._pages, self._read_page = pages, self._parse if parse else self._count
        self._posters = posters

    @classmethod
    def from_crawler(cls, crawler: Crawler, *args: Any, **kwargs: Any) -> _Spider:
        spider = super().from_crawler(crawler, *args, **kwargs)
        crawler.signals.connect(spider._end, signals.spider_closed)
        return spider

    async def start(self) -> AsyncIterator[Request]:
        self._crawl.begin()
        for addresses, read in ((self._pages, self._read_page), (self._posters, self._count)):
            for address in addresses:
                yield Request(address, read, dont_filter=True)  # all URLs are different

    def _end(self) -> None:
        self._crawl.end()

    def _count(self, response: Response) -> None:
        self._crawl.count(len(response.body) if response.status == 200 else None)

    def _parse(self, response: Response) -> None:
        self._count(response)
        # A list is faster than items, which Scrapy passes through its pipelines.
        self._crawl.records[response.url] = list(_titles(response.selector))


def _titles(page: Selector) -> Iterator[tuple[Any, ...]]:
    """The fields `bench_collector.FIELDS` of each card of a season page."""
    for card in page.css("div.seasonal-anime"):
        link = card.css("a.link-title")
        kind = re.search(r"\bjs-anime-type-(\d+)", card.attrib["class"])
        rows = {row.css("span.caption::text").get("").removesuffix("s"): row for row in card.css("div.property")}
        source = rows["Source"].css("span.item::text").get("").strip() if "Source" in rows else ""
        episodes = card.css("div.info").re_first(r"(\d+) eps?\b")
        score = card.css("span.js-score::text").re_first(r"[\d.]+")
        members = card.css("span.js-members::text").re_first(r"\d+")
        poster = card.css("div.image img")
        yield (
            link.attrib["href"].partition("/anime/")[2].partition("/")[0],
            link.css("::text").get("").strip(),
            _TYPES[int(kind[1]) - 1] if kind and kind[1] != "0" else None,
            source if source not in ("", "-", "Unknown") else None,
            _date(card.css("span.js-start_date::text").get("")),
            int(episodes) if episodes else None,
            (float(score) or None) if score else None,
            int(members) if members else None,
            *_genres(card.css("div.genres a")),
            _names(rows.get("Theme")),
            _names(rows.get("Demographic")),
            _names(rows.get("Studio")),
            _poster(poster.attrib) if poster else None,
        )


def _date(digits: str) -> str | None:
    digits = digits.strip()
    year, month, day = digits[:4], digits[4:6], digits[6:8]
    if not year.strip("0"):
        return None
    return "-".join([year, *([month, *([day] if day.strip("0") else [])] if month.strip("0") else [])])


def _genres(links: SelectorList) -> tuple[list[str], list[int]]:
    addresses = links.css("::attr(href)").getall()
    return _texts(links), [int(address.partition("/genre/")[2].partition("/")[0]) for address in addresses]


def _names(row: Selector | None) -> list[str]:
    return _texts(row.css("a")) if row is not None else []


def _texts(links: SelectorList) -> list[str]:
    return [text.strip() for text in links.css("::text").getall()]


def _poster(attributes: dict[str, str]) -> str | None:
    address = attributes.get("data-src") or attributes.get("src", "")
    if "/images/anime/" not in address:
        return None
    return re.sub(r"/r/\d+x\d+/", "/", address).partition("?")[0]
