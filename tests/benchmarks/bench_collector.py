"""Compares the collector's client with Scrapy: requests per second, peak memory and CPU time, with and without parsing.

    pip install scrapy
    PYTHONPATH=. python tests/benchmarks/bench_collector.py [--data FOLDER] [--runs 5] [--concurrency 8]

Both request the same real URLs: the season pages that `replay/serve.py` in FOLDER replays (`../shared`, or
ANIME_GENRE_REAL_DATA), then the posters on these pages, of which some are missing (404). There is no pace limit, both
obey robots.txt, and nothing is written to disk. "downloading" discards each body. "with parsing" also reads the pages'
titles, in Scrapy with parsel's selectors. The benchmark fails if the results differ.

The server is a separate process on 127.0.0.1 with all responses of serve.py in memory. serve.py itself sends a
response in two pieces, and TCP delays the second one by 40 ms, which would dominate the measurement. Each crawl runs in
a new process, and the two clients take turns. Seconds and CPU time are measured from the first request, for robots.txt,
to the last response, without the process's start and imports. The memory is the process's peak.
"""

import argparse
import asyncio
import importlib.util
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Everything else is imported where it is used: the peak memory of a new process includes that of its parent.

SERVER = Path("replay") / "serve.py"
SEASONS = "1974-winter..2024-fall"
FIELDS = (
    "id",
    "title",
    "type",
    "source",
    "start_date",
    "episodes",
    "score",
    "members",
    "genres",
    "genre_ids",
    "themes",
    "demographics",
    "studios",
    "poster_url",
)


@dataclass
class Crawl:
    """The result and cost of a crawl. `records` are the titles of each page by URL."""

    found: int = 0
    missing: int = 0
    size: int = 0  # bytes of all bodies
    records: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0
    cpu_seconds: float = 0
    peak_bytes: int = 0

    def begin(self) -> None:
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def end(self) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()
        self.peak_bytes = peak_bytes()

    def count(self, size: int | None) -> None:
        """Count a response: the size of its body, None if it is a 404."""
        if size is None:
            self.missing += 1
        else:
            self.found += 1
            self.size += size

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return (self.found + self.missing) / self.seconds


def peak_bytes() -> int:
    """The peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def crawl_with_client(pages: list[str], posters: list[str], concurrency: int, parse: bool) -> Crawl:
    """Crawl with the collector's client."""
    crawl = Crawl()
    asyncio.run(_fetch_all(crawl, pages, posters, concurrency, parse))
    return crawl


async def _fetch_all(crawl: Crawl, pages: list[str], posters: list[str], concurrency: int, parse: bool) -> None:
    from tasks.catalogue.poster_download import for_each
    from tasks.crawl.client import SiteClient
    from tasks.errors import NotOnSite

    if parse:
        from tasks.myanimelist.season_pages import parse_season_page

    def read_page(body: bytes) -> tuple[int, Any]:
        return len(body), parse_season_page(body) if parse else None

    def read_poster(body: bytes) -> tuple[int, Any]:
        return len(body), None

    async def fetch(item: tuple[str, Callable[[bytes], tuple[int, Any]]]) -> None:
        address, read = item
        try:
            fetched = await client.fetch(address, read)
        except NotOnSite:
            crawl.count(None)
            return
        assert fetched is not None
        size, records = fetched.content
        crawl.count(size)
        if records is not None:
            crawl.records[address] = records

    addresses = [(page, read_page) for page in pages] + [(poster, read_poster) for poster in posters]
    crawl.begin()
    async with SiteClient(requests_per_second=None, connections=concurrency) as client:
        await for_each(addresses, fetch, concurrency)
        crawl.end()
    values = attrgetter(*FIELDS)
    crawl.records = {page: [values(record) for record in records] for page, records in crawl.records.items()}


def crawl_with_scrapy(pages: list[str], posters: list[str], concurrency: int, parse: bool) -> Crawl:
    """Crawl with Scrapy."""
    from scrapy_crawl import run_spider

    crawl = Crawl()
    run_spider(crawl, pages, posters, concurrency, parse)
    return crawl


@contextmanager
def another_process(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Run `work` in a new process, with the other end of the returned connection as its first argument."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def in_new_process(crawl: Callable[..., Crawl], *arguments: Any) -> Crawl:
    """Run a crawl in a new process."""
    with another_process(_crawl, crawl, *arguments) as connection:
        result: Crawl = connection.recv()
    if result.peak_bytes <= peak_bytes():
        raise RuntimeError("The peak memory is that of the parent process, not of the crawl.")
    return result


def _crawl(owner: Connection, crawl: Callable[..., Crawl], *arguments: Any) -> None:
    owner.send(crawl(*arguments))


@dataclass(frozen=True)
class Site:
    """The URLs that the server has."""

    pages: list[str]
    posters: list[str]


@contextmanager
def serving(data: Path) -> Iterator[Site]:
    """Serve the site on a free port of this machine inside the block."""
    with another_process(_serve, data) as connection:
        yield connection.recv()


def _serve(owner: Connection, data: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the connection is closed
    asyncio.run(_serve_until_closed(owner, data))


async def _serve_until_closed(owner: Connection, data: Path) -> None:
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    responses: dict[bytes, bytes] = {}
    server = await loop.create_server(lambda: _ServerProtocol(responses), "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    owner.send(_fill(responses, data, base_url))
    loop.add_reader(owner.fileno(), closed.set)
    async with server:
        await closed.wait()


def _fill(responses: dict[bytes, bytes], data: Path, base_url: str) -> Site:
    """Fill in the responses to all URLs by path, each with its header."""
    from tasks.catalogue.catalogue_table import catalogue_of
    from tasks.catalogue.seasons import parse_seasons
    from tasks.myanimelist.page_addresses import season_path
    from tasks.myanimelist.season_pages import parse_season_page
    from tasks.myanimelist.source import MyAnimeList

    spec = importlib.util.spec_from_file_location("serve", data / SERVER)
    assert spec and spec.loader
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    replayed = serve.Site(data / "myanimelist" / "replay.zip", None, data / "posters" / "anime.zip", base_url)

    def fill(path: str) -> bytes:
        status, kind, body = replayed.answer(path)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        responses[path.encode()] = head.encode() + b"\r\n\r\n" + body
        return body

    fill("/robots.txt")
    seasons = [season_path(season) for season in parse_seasons(SEASONS)]
    records = [record for path in seasons for record in parse_season_page(fill(path))]
    catalogue = catalogue_of(records)
    posters = dict.fromkeys(catalogue.loc[~MyAnimeList().is_explicit(catalogue), "poster_url"])
    posters.pop("", None)
    for poster in posters:
        fill(urlsplit(poster).path)
    return Site([base_url + path for path in seasons], list(posters))


class _ServerProtocol(asyncio.Protocol):
    """The server's side of a connection."""

    def __init__(self, responses: dict[bytes, bytes]) -> None:
        self._responses = responses
        self._incomplete = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._incomplete = (self._incomplete + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._responses[request.split(b" ", 2)[1]])


def check_equal(ours: Crawl, theirs: Crawl) -> None:
    """Check that both results are equal, and drop the titles. Raises ValueError if they differ."""
    counts = attrgetter("found", "missing", "size")
    if counts(ours) != counts(theirs):
        raise ValueError(f"found, missing and bytes: {counts(ours)} with the collector, {counts(theirs)} with Scrapy")
    for page in ours.records.keys() | theirs.records.keys():
        for our_title, their_title in zip_longest(ours.records.get(page, []), theirs.records.get(page, [])):
            if our_title != their_title:
                raise ValueError(f"{page} is read differently: {our_title} by the collector, {their_title} by Scrapy")
    ours.records, theirs.records = {}, {}


@dataclass(frozen=True)
class Measure:
    """A compared figure: its name, unit, decimal places, and its value for a crawl."""

    name: str
    unit: str
    digits: int
    value: Callable[[Crawl], float]


MEASURES = (
    Measure("requests per second", "", 0, lambda crawl: crawl.per_second),
    Measure("peak memory", " MB of", 1, lambda crawl: crawl.peak_bytes / 1e6),
    Measure("CPU time", " s of", 2, lambda crawl: crawl.cpu_seconds),
)


def figures(crawls: list[Crawl]) -> str:
    """The median of each measure, with minimum and maximum."""
    parts = []
    for measure in MEASURES:
        values = [measure.value(crawl) for crawl in crawls]
        three = (statistics.median(values), min(values), max(values))
        median, least, most = (f"{value:.{measure.digits}f}" for value in three)
        parts.append(f"{median}{measure.unit} {measure.name} ({least} to {most})")
    return ", ".join(parts)


def ratios(ours: list[Crawl], theirs: list[Crawl]) -> str:
    """The ratio of the medians of each measure, collector to Scrapy."""
    parts = []
    for measure in MEASURES:
        our_median, their_median = (statistics.median(map(measure.value, crawls)) for crawls in (ours, theirs))
        parts.append(f"{our_median / their_median:.2f} times the {measure.name}")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=8, help="simultaneous requests")
    arguments = parser.parse_args()
    data = Path(arguments.data)
    if not (data / SERVER).exists():
        parser.error(f"{data / SERVER} does not exist; set --data to the folder of the real data")
    try:
        their_name = f"Scrapy {version('scrapy')}"
    except PackageNotFoundError:
        parser.error("Scrapy is not installed: pip install scrapy")
    with serving(data) as site:
        for task, parse in (("downloading", False), ("with parsing", True)):
            ours, theirs = [], []
            for _ in range(arguments.runs):
                for crawl, results in ((crawl_with_client, ours), (crawl_with_scrapy, theirs)):
                    results.append(in_new_process(crawl, site.pages, site.posters, arguments.concurrency, parse))
                check_equal(ours[-1], theirs[-1])
            print(
                f"{task}: {len(site.pages)} pages and {len(site.posters)} posters ({ours[0].missing} missing), "
                f"{ours[0].size / 1e6:.1f} MB, {arguments.concurrency} simultaneous requests; "
                f"median (minimum to maximum) of {arguments.runs} runs"
            )
            print(f"  collector: {figures(ours)}")
            print(f"  {their_name}: {figures(theirs)}")
            print(f"  collector / {their_name}: {ratios(ours, theirs)}", flush=True)


if __name__ == "__main__":
    main()
