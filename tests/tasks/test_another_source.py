"""Another source: a plain-text list without seasons, with ids that are text and posters on another host."""

import io
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from ml.configuration import PreprocessConfig
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.source import Source, SourcePage
from tasks.catalogue.titles import Details, Related, Title
from tasks.crawl.mirror import CrawlMirror
from tasks.errors import PageCutError, SeasonError
from tasks.posters import poster_set_json, read_poster_set
from tasks.preprocess import fetch_dataset, make_dataset, strong_relations, usable_titles
from tests.storage import new_bucket, storage_emulator

pytestmark = pytest.mark.stack


class Shelf:
    """Lists of titles such as "all", one line per title: id, title, genres and poster address, between tabs."""

    requests_per_second = 1.0
    posters_per_second = 1.0
    genre_ids = frozenset[int]()
    label_ids: Mapping[str, int] = {}
    weak_relations = frozenset({"cameo"})

    def __init__(self, site_url: str) -> None:
        self.site_url = site_url

    def pages(self, selection: str, started: float) -> list[SourcePage]:
        if not selection.isalpha():
            raise SeasonError(f"There is no list {selection!r}.")
        return [SourcePage(f"{self.site_url}/{selection}/{number}.txt", f"list {number}") for number in (1, 2)]

    def parse_page(self, page: SourcePage, body: bytes) -> list[Title]:
        *lines, end = body.decode().splitlines()
        if end != "END":
            raise PageCutError("The list ends too early.")
        rows = [line.split("\t") for line in lines]
        return [Title(id, name, genres=genres.split(","), poster_url=url) for id, name, genres, url in rows]

    def detail_page(self, title: Title, started: float) -> SourcePage | None:
        return SourcePage(f"{self.site_url}/title/{quote(title.id, safe='')}", title.title, quiet_days=30)

    def parse_details(self, body: bytes) -> Details:
        about = json.loads(body)
        related = [Related(relation, id) for relation, id in about["related"]]
        return Details(about["id"], about["title"], rating=about["rating"], related=related)

    def normalise(self, body: bytes) -> bytes:
        return body.partition(b"# sent at")[0]

    def group_of(self, catalogue: pd.DataFrame) -> "pd.Series[str]":
        return pd.Series("", catalogue.index)

    def is_explicit(self, catalogue: pd.DataFrame) -> "pd.Series[bool]":
        return catalogue["genres"].str.contains("Adult") | (catalogue["rating"] == "18")

    def is_placeholder(self, poster_url: str) -> bool:
        return poster_url.endswith("/none.png")


TITLES = 60
IDS = [f"ab/c {number}" for number in range(TITLES)]
CONFIG = PreprocessConfig(image_size=32, min_posters=10, min_posters_per_part=2)


def name_of(number: int) -> str:
    return f"{'abcdefgh'[number // 8]}{'abcdefgh'[number % 8]} tale"  # numbers would make all titles one franchise


def jpeg(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((70, 100), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


class Site:
    """Serves the lists and the detail pages, and posters from a second host."""

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.sent = 0
        pages, posters = web.Application(), web.Application()
        pages.router.add_get("/all/{number}.txt", self.listed)
        pages.router.add_get("/title/{id}", self.details)
        posters.router.add_get("/p/{number}.jpg", self.poster)
        self.pages, self.posters = TestServer(pages), TestServer(posters)

    async def listed(self, request: web.Request) -> web.Response:
        self.sent += 1
        lines = []
        for number in range(int(request.match_info["number"]) - 1, TITLES, 2):
            genre = "Adult" if number == 7 else ["Action,Space", "Comedy"][number % 2]
            picture = "/none.png" if number == 8 else f"/p/{number}.jpg"
            if number not in self.gone:
                lines.append(f"{IDS[number]}\t{name_of(number)}\t{genre}\t{self.posters.make_url(picture)}\n")
        return web.Response(text="".join([*lines, "END\n", f"# sent at {self.sent}"]))

    async def details(self, request: web.Request) -> web.Response:
        number = IDS.index(request.match_info["id"])
        related = [("sequel", IDS[number + 1])] if number < 5 else [("cameo", IDS[0])]
        about = {"id": IDS[number], "title": name_of(number), "rating": "18" if number == 9 else "", "related": related}
        return web.Response(text=json.dumps(about))

    async def poster(self, request: web.Request) -> web.Response:
        return web.Response(body=jpeg(int(request.match_info["number"])))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with AsyncExitStack() as servers:
        await servers.enter_async_context(site.pages)
        await servers.enter_async_context(site.posters)
        yield site


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storage_emulator(tmp_path_factory.mktemp("storage"), "shared") as url:
        yield url


async def test_another_source_is_collected_and_becomes_a_dataset(site: Site, storage_url: str, tmp_path: Path) -> None:
    source: Source = Shelf(str(site.pages.make_url("")).rstrip("/"))
    store = new_bucket(storage_url, tmp_path)
    with Collector(tmp_path, source, CollectConfig(details=TITLES)) as collector:
        mirror = CrawlMirror(store, collector.ledger, collector.kept, collector.posters)
        with mirror.pages(), mirror.posters():
            catalogue = await collector.read_catalogue("all")
            collector.replace_last_good("all", catalogue)
            posters = await collector.download_posters(catalogue)
    assert list(catalogue["id"]) == sorted(IDS)
    pd.testing.assert_frame_equal(read_catalogue(tmp_path / "catalogue.csv"), catalogue)
    unusable = posters[posters["status"] != "new"]
    assert dict(zip(unusable["id"], unusable["status"], strict=True)) == {
        IDS[7]: "explicit",
        IDS[8]: "placeholder",
        IDS[9]: "explicit",
    }
    assert (tmp_path / "posters" / "ab%2Fc%205.jpg").read_bytes() == jpeg(5) == store.read("posters/ab%2Fc%205.jpg")

    store.write("poster-sets/1.json", poster_set_json(posters))
    stored = read_poster_set(store, "poster-sets/1.json")
    pd.testing.assert_frame_equal(stored, posters.replace({"status": {"new": "present"}}))
    titles, _ = usable_titles(catalogue, stored, source)
    dataset, is_new, _ = make_dataset(store, tmp_path, titles, strong_relations(catalogue, source), source, CONFIG)
    assert is_new and set(dataset.ids) == {*IDS} - {IDS[7], IDS[8], IDS[9]}
    assert {genre.name for genre in dataset.genres} == {"Action", "Comedy", "Space"}
    part_of = dict(zip(dataset.ids, dataset.parts, strict=True))
    assert len({part_of[id] for id in IDS[:6]}) == 1  # sequels are one franchise
    assert len(set(dataset.parts)) == 3  # titles with a cameo are not
    fetched = fetch_dataset(store, tmp_path / "empty", dataset.key)
    assert np.array_equal(fetched.images[:], dataset.images[:])


async def test_another_source_is_compared_as_a_whole(site: Site, tmp_path: Path) -> None:
    source: Source = Shelf(str(site.pages.make_url("")).rstrip("/"))
    traffic, changes = [], []
    for gone in (set[int](), {10, 11}, {10, 11}):
        site.gone = gone
        with Collector(tmp_path, source, CollectConfig(details=0)) as collector:
            catalogue = await collector.read_catalogue("all")
            changes.append(collector.replace_last_good("all", catalogue).changes)
            await collector.download_posters(catalogue)
            traffic.append(collector.traffics[0].outcomes)
            with pytest.raises(SeasonError, match="no list"):
                await collector.read_catalogue("a..b")
    assert [max(outcomes, key=outcomes.__getitem__) for outcomes in traffic] == ["new", "changed", "unchanged"]
    assert changes == [0, 2, 0]
    assert (tmp_path / "history.csv").read_text().count(",(gone),") == 2
