"""Posters on disk, and what is written down about each."""

import asyncio
import csv
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from infra.files import sha256_of
from tasks.catalogue.poster_download import PosterOutcome, download_posters, poster_is_due, write_outcomes
from tasks.crawl.client import SiteClient
from tasks.crawl.ledger import Ledger, PosterVisit
from tasks.crawl.traffic import Traffic
from tasks.errors import SiteBlocked, SiteUnavailable
from tasks.myanimelist.pages import AnimeRecord


def jpeg(colour: int) -> bytes:
    """A small picture of noise, so that half of its bytes are not enough for it."""
    picture = Image.effect_noise((60, 90), 80).convert("RGB")
    picture.paste((colour, colour, colour), (0, 0, 10, 10))
    data = io.BytesIO()
    picture.save(data, "JPEG")
    return data.getvalue()


class PosterHost:
    """Serves the pictures it was given at `/images/anime/{name}.jpg`, the first `cut` times by half."""

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.cut: Counter[str] = Counter()
        self.asked: list[str] = []
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        application = web.Application()
        application.router.add_get("/images/anime/{name}.jpg", self.answer)
        self.server = TestServer(application)

    async def answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked.append(name)
        if self.status != 200:
            return web.Response(status=self.status)
        if name not in self.pictures:
            return web.Response(status=404)
        if len(self.asked) > 3:
            await self.gate.wait()
        data = self.pictures[name]
        if self.cut[name]:
            self.cut[name] -= 1
            data = data[: len(data) // 2]
        return web.Response(body=data, content_type="image/jpeg")

    def record(self, mal_id: int, name: str | None = None) -> AnimeRecord:
        address = str(self.server.make_url(f"/images/anime/{name or mal_id}.jpg"))
        return AnimeRecord(mal_id, f"title {mal_id}", poster_url=address)


@pytest.fixture
async def host() -> AsyncIterator[PosterHost]:
    host = PosterHost()
    host.pictures = {str(number): jpeg(number) for number in range(10)}
    async with host.server:
        yield host


class Run:
    """Runs of the download into one folder, a crawl each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "posters"
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.traffic = Traffic("Posters")

    async def __call__(self, *records: AnimeRecord, concurrency: int = 4, days: float = 0) -> list[PosterOutcome]:
        self.traffic = Traffic("Posters")
        async with SiteClient(
            connections=concurrency, first_wait_seconds=0.01, ledger=self.ledger, traffic=self.traffic
        ) as client:
            now = time.time() + days * 86_400
            return await download_posters(records, self.folder, client, self.ledger, now, self.traffic, concurrency)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.ledger.close()


async def test_each_title_has_one_outcome_and_a_file_only_where_there_is_a_poster(host: PosterHost, run: Run) -> None:
    host.cut["2"] = 100
    records = [
        host.record(1),
        host.record(2),
        host.record(404),
        replace(host.record(3), genres=["Hentai"], genre_ids=[12]),
        replace(host.record(4), poster_url=None),
        replace(host.record(5), poster_url=str(host.server.make_url("/images/qm_50.gif"))),
    ]
    outcomes = await run(*records)
    assert [(outcome.mal_id, outcome.status) for outcome in outcomes] == [
        (1, "new"),
        (2, "broken"),
        (404, "missing"),
        (3, "explicit"),
        (4, "no_address"),
        (5, "placeholder"),
    ]
    assert outcomes[0] == PosterOutcome(1, "new", None, sha256_of(host.pictures["1"]), records[0].poster_url)
    assert all(outcome.reason and not outcome.sha256 for outcome in outcomes[1:])
    assert set(host.asked) == {"1", "2", "404"}
    assert {path.name for path in run.folder.iterdir()} == {"1.jpg"}
    assert (run.folder / "1.jpg").read_bytes() == host.pictures["1"]
    assert (run.traffic.done, run.traffic.total) == (3, 3)
    assert run.traffic.outcomes == {
        **{"new": 1, "broken": 1, "missing": 1},
        **{"explicit": 1, "no_address": 1, "placeholder": 1},
    }


async def test_a_poster_that_came_by_half_is_downloaded_again(host: PosterHost, run: Run) -> None:
    host.cut["1"] = 2
    (outcome,) = await run(host.record(1))
    assert outcome.status == "new"
    assert host.asked == ["1", "1", "1"]
    assert run.traffic.retries == {"came damaged or by half": 2}


async def test_a_poster_that_is_here_is_not_asked_for_again_however_old_it_is(host: PosterHost, run: Run) -> None:
    records = [host.record(1), host.record(2), host.record(3)]
    first = await run(*records)
    (run.folder / "2.jpg").unlink()
    (run.folder / "3.jpg").write_bytes(b"damaged")
    host.asked.clear()
    again = await run(*records, days=5000)
    assert [outcome.status for outcome in again] == ["present", "new", "new"]
    assert [outcome.sha256 for outcome in again] == [outcome.sha256 for outcome in first]
    assert sorted(host.asked) == ["2", "3"]


async def test_a_poster_with_a_new_address_is_downloaded_anew(host: PosterHost, run: Run) -> None:
    await run(host.record(1), host.record(2))
    changed, gone = await run(host.record(1, "7"), host.record(2, "nowhere"))
    assert (changed.status, gone.status) == ("new", "missing")
    assert (run.folder / "1.jpg").read_bytes() == host.pictures["7"]
    assert not (run.folder / "2.jpg").exists()


async def test_a_poster_stays_until_the_one_at_its_new_address_was_had(host: PosterHost, run: Run) -> None:
    (first,) = await run(host.record(1))
    host.status = 500
    (kept,) = await run(host.record(1, "7"))
    assert (kept.status, kept.sha256, kept.url) == ("present", first.sha256, first.url)
    host.status = 200
    (changed,) = await run(host.record(1, "7"))
    assert (changed.status, changed.sha256) == ("new", sha256_of(host.pictures["7"]))


async def test_a_poster_that_answers_oddly_is_left_alone_and_ends_nothing(host: PosterHost, run: Run) -> None:
    host.status = 451
    (odd,) = await run(host.record(1))
    assert odd.status == "refused" and "451" in (odd.reason or "")
    host.status = 200
    assert [outcome.status for outcome in await run(host.record(1), host.record(2), days=100)] == ["refused", "new"]


async def test_what_could_not_be_had_is_asked_for_again_after_weeks(host: PosterHost, run: Run) -> None:
    host.cut["2"] = 4  # attempts
    records = [host.record(404), host.record(2)]
    assert [outcome.status for outcome in await run(*records)] == ["missing", "broken"]
    host.asked.clear()
    assert [outcome.status for outcome in await run(*records, days=1)] == ["missing", "broken"]
    assert host.asked == []
    assert [outcome.status for outcome in await run(*records, days=50)] == ["missing", "new"]
    assert sorted(host.asked) == ["2", "404"]


async def test_what_is_done_is_written_down_when_the_run_is_stopped(host: PosterHost, run: Run) -> None:
    host.gate.clear()
    records = [host.record(number) for number in range(10)]
    running = asyncio.create_task(run(*records, concurrency=1))
    while len(host.asked) < 4:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    host.gate.set()
    again = await run(*records)
    assert Counter(outcome.status for outcome in again) == {"present": 3, "new": 7}
    assert Counter(host.asked) == {**dict.fromkeys("012456789", 1), "3": 2}


async def test_a_host_that_is_down_is_an_error_and_each_poster_is_asked_for_when_it_is_back(
    host: PosterHost, run: Run
) -> None:
    host.status = 500
    records = [host.record(number) for number in range(100)]
    with pytest.raises(SiteUnavailable, match="500"):
        await run(*records, concurrency=20)
    assert {visit.status for visit in run.ledger.posters.all().values()} == {"failed"}
    host.status = 200
    assert Counter(outcome.status for outcome in await run(*records[:10])) == {"new": 10}


async def test_a_host_that_refuses_us_is_asked_once_and_its_one_poster_does_not_end_the_next_runs(
    host: PosterHost, run: Run
) -> None:
    host.status = 403
    records = [host.record(number) for number in range(5)]
    with pytest.raises(SiteBlocked):
        await run(*records, concurrency=1)
    with pytest.raises(SiteBlocked):
        await run(*records, concurrency=1)
    assert host.asked == ["0"]
    host.status = 200
    run.ledger.hosts.put(replace(next(iter(run.ledger.hosts.all().values())), blocked_until=0))
    assert Counter(outcome.status for outcome in await run(*records)) == {"refused": 1, "new": 4}


@pytest.mark.parametrize("size", [(1, 1), (20, 400), (400, 70), (5000, 5000)])
async def test_images_of_an_absurd_size_are_no_posters_and_are_asked_for_once(
    host: PosterHost, run: Run, size: tuple[int, int]
) -> None:
    data = io.BytesIO()
    Image.new("L", size).save(data, "PNG")
    host.pictures["1"] = data.getvalue()
    (outcome,) = await run(host.record(1))
    assert outcome.status == "broken"
    assert f"{size[0]} x {size[1]} pixels" in (outcome.reason or "")
    assert host.asked == ["1"]


async def test_of_titles_that_share_an_image_the_first_keeps_it(host: PosterHost, run: Run) -> None:
    host.pictures["2"] = host.pictures["5"] = host.pictures["1"]
    records = [host.record(number) for number in (5, 2, 1, 3)]
    for status in ("new", "present"):
        outcomes = await run(*records)
        assert [outcome.status for outcome in outcomes] == ["duplicate", "duplicate", status, status]
        assert outcomes[0].reason == "the same image as that of 1"
        assert not outcomes[0].usable and outcomes[2].usable
    assert Counter(host.asked).most_common(1)[0][1] == 1


async def test_an_image_that_many_titles_have_is_a_placeholder(host: PosterHost, run: Run) -> None:
    host.pictures = dict.fromkeys(map(str, range(6)), host.pictures["1"]) | {"7": host.pictures["7"]}
    outcomes = await run(*(host.record(number) for number in (*range(6), 7)))
    assert [outcome.status for outcome in outcomes] == ["placeholder"] * 6 + ["new"]
    assert outcomes[0].reason == "6 titles have this very image"


def test_outcomes_are_written_down_for_people(tmp_path: Path) -> None:
    outcomes = [
        PosterOutcome(2, "broken", 'cut short, says "Pillow"', None, "https://cdn.myanimelist.net/2.jpg"),
        PosterOutcome(1, "present", None, "ab" * 32, "https://cdn.myanimelist.net/images/anime/4/19644.jpg"),
    ]
    write_outcomes(outcomes, tmp_path / "posters")
    with (tmp_path / "posters.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mal_id"] for row in rows] == ["1", "2"]
    assert (rows[1]["status"], rows[1]["reason"]) == ("broken", 'cut short, says "Pillow"')


@pytest.mark.parametrize(
    ("status", "least", "most"), [("missing", 15, 45), ("refused", 182, 548), ("broken", 3, 11), ("failed", 0, 0)]
)
def test_poster_is_due_after_days_that_depend_on_its_status_and_url(status: str, least: int, most: int) -> None:
    visits = [PosterVisit(str(number), f"http://a.test/{number}.jpg", 0, status) for number in range(100)]
    days = [next(day for day in range(1000) if poster_is_due(visit, day * 86_400)) for visit in visits]
    assert least <= min(days) <= max(days) <= most
    assert len(set(days)) > 5 or status == "failed"


def test_poster_that_failed_is_due_in_the_same_crawl() -> None:
    assert poster_is_due(PosterVisit("1", "http://a.test/1.jpg", 60, "failed"), 0)
    assert not poster_is_due(PosterVisit("1", "http://a.test/1.jpg", 60, "missing"), 0)
