"""The collector's client beside Scrapy: requests a second, peak memory and CPU time, with and without parsing.

    pip install scrapy
    python tests/benchmarks/bench_collector.py [--data FOLDER] [--runs 5] [--concurrency 8]

Both ask for the same real addresses: the season pages that `replay/serve.py` in FOLDER replays (`../shared`, or where
ANIME_GENRE_REAL_DATA points), then the posters that those show, some of which are not there (404). No pace holds them
back, both obey robots.txt, and nothing is written. "downloading" throws each body away; "with parsing" reads the
pages' titles too, in Scrapy by parsel's selectors. Where the two do not get the same, the benchmark fails.

What answers is a process of its own on 127.0.0.1 that has every answer of serve.py in memory. serve.py itself sends
an answer in two pieces, the second of which TCP holds back for 40 ms: of 8 connections, that is all one would measure.
Each crawl is a fresh process, too, and the two take turns. The seconds are those from the first request, for
robots.txt, to the last answer, without the process's start and its imports, and so is the CPU time; the memory is
the most that the process ever held.
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

# Everything else is imported where it is needed: a process's peak memory begins with that of its parent.

SERVER = Path("replay") / "serve.py"
SEASONS = "1974-winter..2024-fall"
FIELDS = (
    "mal_id",
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
    """What came of a crawl, and what it took. `records` are the titles of each page by its address."""

    found: int = 0
    missing: int = 0
    size: int = 0  # bytes of all that was found
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
        """One more answer: the size of what was found, None where nothing was (404)."""
        if size is None:
            self.missing += 1
        else:
            self.found += 1
            self.size += size

    @property
    def per_second(self) -> float:
        """Requests."""
        return (self.found + self.missing) / self.seconds


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def crawl_with_client(pages: list[str], posters: list[str], concurrency: int, parse: bool) -> Crawl:
    """A crawl of ours, over the collector's client."""
    crawl = Crawl()
    asyncio.run(_ask_all(crawl, pages, posters, concurrency, parse))
    return crawl


async def _ask_all(crawl: Crawl, pages: list[str], posters: list[str], concurrency: int, parse: bool) -> None:
    from tasks.catalogue.poster_download import for_each
    from tasks.crawl.client import SiteClient
    from tasks.errors import NotOnSite

    if parse:
        from tasks.myanimelist.season_pages import parse_season_page

    def read_page(body: bytes) -> tuple[int, Any]:
        return len(body), parse_season_page(body) if parse else None

    def read_poster(body: bytes) -> tuple[int, Any]:
        return len(body), None

    async def ask(what: tuple[str, Callable[[bytes], tuple[int, Any]]]) -> None:
        address, read = what
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
        await for_each(addresses, ask, concurrency)
        crawl.end()
    values = attrgetter(*FIELDS)
    crawl.records = {page: [values(record) for record in records] for page, records in crawl.records.items()}


def crawl_with_scrapy(pages: list[str], posters: list[str], concurrency: int, parse: bool) -> Crawl:
    """A crawl of theirs."""
    from scrapy_crawl import run_spider

    crawl = Crawl()
    run_spider(crawl, pages, posters, concurrency, parse)
    return crawl


@contextmanager
def another_process(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A connection to a process that does `work`, whose first argument is the connection's other end."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join()


def alone(crawl: Callable[..., Crawl], *arguments: Any) -> Crawl:
    """A crawl in a process of its own."""
    with another_process(_crawl, crawl, *arguments) as connection:
        done: Crawl = connection.recv()
    if done.peak_bytes <= peak_bytes():
        raise RuntimeError("the peak memory is not that of the crawl, but of the process that started it")
    return done


def _crawl(owner: Connection, crawl: Callable[..., Crawl], *arguments: Any) -> None:
    owner.send(crawl(*arguments))


@dataclass(frozen=True)
class Site:
    """What is served, by its addresses."""

    pages: list[str]
    posters: list[str]


@contextmanager
def serving(data: Path) -> Iterator[Site]:
    """The site on a free port of this machine, for the length of the block."""
    with another_process(_serve, data) as connection:
        yield connection.recv()


def _serve(owner: Connection, data: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its end is the connection's, however that ends
    asyncio.run(_serve_until_closed(owner, data))


async def _serve_until_closed(owner: Connection, data: Path) -> None:
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    answers: dict[bytes, bytes] = {}
    server = await loop.create_server(lambda: _Answering(answers), "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    owner.send(_fill(answers, data, base_url))
    loop.add_reader(owner.fileno(), closed.set)
    async with server:
        await closed.wait()


def _fill(answers: dict[bytes, bytes], data: Path, base_url: str) -> Site:
    """Put in the answers to all addresses, each with its head."""
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
        answers[path.encode()] = head.encode() + b"\r\n\r\n" + body
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


class _Answering(asyncio.Protocol):
    """The server's side of a connection."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers
        self._asked = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._asked = (self._asked + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._answers[request.split(b" ", 2)[1]])


def check_equal(ours: Crawl, theirs: Crawl) -> None:
    """See to it that both got the same, and forget the titles; raises ValueError where they did not."""
    counts = attrgetter("found", "missing", "size")
    if counts(ours) != counts(theirs):
        raise ValueError(f"found, missing and bytes are {counts(ours)} in ours, and {counts(theirs)} in theirs")
    for page in ours.records.keys() | theirs.records.keys():
        for our_title, their_title in zip_longest(ours.records.get(page, []), theirs.records.get(page, [])):
            if our_title != their_title:
                raise ValueError(f"{page} is read differently: {our_title} in ours, {their_title} in theirs")
    ours.records, theirs.records = {}, {}


@dataclass(frozen=True)
class Measure:
    """What is compared: its name, its unit, the digits behind the point, and what it is of a crawl."""

    name: str
    unit: str
    digits: int
    of: Callable[[Crawl], float]


MEASURES = (
    Measure("requests a second", "", 0, lambda crawl: crawl.per_second),
    Measure("peak memory", " MB of", 1, lambda crawl: crawl.peak_bytes / 1e6),
    Measure("CPU time", " s of", 2, lambda crawl: crawl.cpu_seconds),
)


def figures(crawls: list[Crawl]) -> str:
    """The median of each measure, with the least and the most."""
    parts = []
    for measure in MEASURES:
        values = [measure.of(crawl) for crawl in crawls]
        three = (statistics.median(values), min(values), max(values))
        median, least, most = (f"{value:.{measure.digits}f}" for value in three)
        parts.append(f"{median}{measure.unit} {measure.name} ({least} to {most})")
    return ", ".join(parts)


def ratios(ours: list[Crawl], theirs: list[Crawl]) -> str:
    """Each measure's median in ours by that in theirs."""
    parts = []
    for measure in MEASURES:
        our_median, their_median = (statistics.median(map(measure.of, crawls)) for crawls in (ours, theirs))
        parts.append(f"{our_median / their_median:.2f} times the {measure.name}")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=8, help="requests under way at a time")
    arguments = parser.parse_args()
    data = Path(arguments.data)
    if not (data / SERVER).exists():
        parser.error(f"there is no {data / SERVER}; --data names the folder of the real data")
    try:
        their_name = f"Scrapy {version('scrapy')}"
    except PackageNotFoundError:
        parser.error("there is no Scrapy to compare with: pip install scrapy")
    with serving(data) as site:
        for task, parse in (("downloading", False), ("with parsing", True)):
            ours, theirs = [], []
            for _ in range(arguments.runs):
                for crawl, done in ((crawl_with_client, ours), (crawl_with_scrapy, theirs)):
                    done.append(alone(crawl, site.pages, site.posters, arguments.concurrency, parse))
                check_equal(ours[-1], theirs[-1])
            print(
                f"{task}: {len(site.pages)} pages and {len(site.posters)} posters ({ours[0].missing} are not there), "
                f"{ours[0].size / 1e6:.1f} MB, {arguments.concurrency} requests at a time; "
                f"median (least to most) of {arguments.runs} runs"
            )
            print(f"  ours: {figures(ours)}")
            print(f"  {their_name}: {figures(theirs)}")
            print(f"  ours beside {their_name}: {ratios(ours, theirs)}", flush=True)


if __name__ == "__main__":
    main()
