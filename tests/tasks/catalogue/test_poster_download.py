"""Posters as files, and the table of what is known about each."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from infra import disk
from infra.errors import DiskFull, NotFound
from serving.bundle.files import sha256_of
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.crawl_context import CrawlContext
from tasks.catalogue.poster_download import (
    POSTER_COLUMNS,
    download_posters,
    for_each,
    is_usable,
    poster_is_due,
    write_posters,
)
from tasks.catalogue.titles import Title
from tasks.crawl.client import SiteClient
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import Ledger, PosterVisit
from tasks.crawl.traffic import Traffic
from tasks.errors import SiteBlocked, SiteUnavailable
from tasks.myanimelist.source import MyAnimeList


def jpeg(colour: int) -> bytes:
    """A small picture of noise, which cannot be decoded from half of its bytes."""
    picture = Image.effect_noise((60, 90), 80).convert("RGB")
    picture.paste((colour, colour, colour), (0, 0, 10, 10))
    data = io.BytesIO()
    picture.save(data, "JPEG")
    return data.getvalue()


class PosterHost:
    """Serves `pictures` at `/images/anime/{name}.jpg`, the first `cut` times only half of the bytes.

    `others` are the responses of other names: status, body and headers.
    """

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.cut: Counter[str] = Counter()
        self.others: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.requests: list[str] = []
        self.status = 200
        self.robots = ""
        self.gate = asyncio.Event()
        self.gate.set()
        application = web.Application()
        application.router.add_get("/images/anime/{name}.jpg", self.respond)
        application.router.add_get("/robots.txt", self.send_robots)
        self.server = TestServer(application)

    async def respond(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.requests.append(name)
        if self.status != 200:
            return web.Response(status=self.status)
        if name in self.others:
            status, body, headers = self.others[name]
            return web.Response(status=status, body=body, headers=headers)
        if name not in self.pictures:
            return web.Response(status=404)
        if len(self.requests) > 3:
            await self.gate.wait()
        data = self.pictures[name]
        if self.cut[name]:
            self.cut[name] -= 1
            data = data[: len(data) // 2]
        return web.Response(body=data, content_type="image/jpeg")

    async def send_robots(self, request: web.Request) -> web.Response:
        return web.Response(text=self.robots)

    def redirect(self, target: str, status: int = 302) -> tuple[int, bytes, dict[str, str]]:
        return status, b"", {"Location": target}

    def title(self, id: int, name: str | None = None) -> Title:
        return Title(str(id), f"title {id}", poster_url=str(self.server.make_url(f"/images/anime/{name or id}.jpg")))


@pytest.fixture
async def host() -> AsyncIterator[PosterHost]:
    host = PosterHost()
    host.pictures = {str(number): jpeg(number) for number in range(10)}
    async with host.server:
        yield host


class Run:
    """Downloads into one folder. Each call is a new crawl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "posters"
        self.kept = KeptPages(folder / "pages")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.traffic = Traffic("Posters")

    async def __call__(self, *titles: Title, concurrency: int = 4, days: float = 0) -> pd.DataFrame:
        self.traffic = Traffic("Posters")
        async with SiteClient(
            connections=concurrency, first_wait_seconds=0.01, ledger=self.ledger, traffic=self.traffic
        ) as client:
            started = time.time() + days * 86_400
            context = CrawlContext(MyAnimeList(), self.ledger, self.kept, client, started, self.traffic)
            return await download_posters(context, catalogue_of(titles), self.folder, concurrency)

    def unblock(self) -> None:
        """Let the time of all blocks pass."""
        for memory in self.ledger.hosts.all().values():
            self.ledger.hosts.put(replace(memory, blocked_until=0))

    async def statuses(self, *titles: Title, concurrency: int = 4, days: float = 0) -> list[str]:
        return list((await self(*titles, concurrency=concurrency, days=days))["status"])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.ledger.close()


async def test_poster_table_has_one_row_per_title_and_files_only_of_posters(host: PosterHost, run: Run) -> None:
    host.cut["2"] = 100
    titles = [
        host.title(1),
        host.title(2),
        replace(host.title(3), genres=["Hentai"], genre_ids=[12]),
        replace(host.title(4), poster_url=None),
        replace(host.title(5), poster_url=str(host.server.make_url("/images/qm_50.gif"))),
        host.title(404),
    ]
    posters = await run(*titles)
    assert list(posters.columns) == POSTER_COLUMNS
    statuses = ["new", "broken", "explicit", "no_address", "placeholder", "missing"]
    assert list(zip(posters["id"], posters["status"], strict=True)) == list(
        zip(["1", "2", "3", "4", "5", "404"], statuses, strict=True)
    )
    assert list(posters.iloc[0]) == ["1", "new", "", sha256_of(host.pictures["1"]), titles[0].poster_url]
    assert (posters["reason"] != "").tolist() == [False] + 5 * [True]
    assert (posters["sha256"] == "").tolist() == [False] + 5 * [True]
    assert set(host.requests) == {"1", "2", "404"}
    assert {path.name for path in run.folder.iterdir()} == {"1.jpg"}
    assert (run.folder / "1.jpg").read_bytes() == host.pictures["1"]
    assert (run.traffic.done, run.traffic.total) == (3, 3)
    assert run.traffic.outcomes == dict.fromkeys(statuses, 1)


async def test_poster_of_a_title_that_becomes_explicit_is_forgotten_until_it_is_not(host: PosterHost, run: Run) -> None:
    title = host.title(1)
    await run(title)
    for _ in range(2):
        assert await run.statuses(replace(title, genre_ids=[12], genres=["Hentai"])) == ["explicit"]
        visit = run.ledger.posters.get("1")
        assert visit and visit.is_withdrawn and visit.sha256 is None
        assert not (run.folder / "1.jpg").exists()
    assert await run.statuses(title) == ["new"]


async def test_downloads_end_before_the_disk_is_full_and_keep_what_is_complete(
    host: PosterHost, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await run.statuses(host.title(1)) == ["new"]
    monkeypatch.setattr(disk, "RESERVED_BYTES", 10**18)
    with pytest.raises(DiskFull, match=r"The disk of .* is full"):
        await run(host.title(1), host.title(2))
    assert {path.name for path in run.folder.iterdir()} == {"1.jpg"}
    monkeypatch.undo()
    assert await run.statuses(host.title(1), host.title(2)) == ["present", "new"]


async def test_poster_file_of_any_id_is_percent_encoded(host: PosterHost, run: Run) -> None:
    (status,) = await run.statuses(replace(host.title(1), id="ab/c 1"))
    assert status == "new"
    assert [path.name for path in run.folder.iterdir()] == ["ab%2Fc%201.jpg"]
    assert await run.statuses(replace(host.title(1), id="ab/c 1")) == ["present"]


async def test_poster_with_an_address_without_a_host_is_refused_and_the_others_are_downloaded(
    host: PosterHost, run: Run
) -> None:
    invalid = [replace(host.title(1), poster_url="https://"), replace(host.title(2), poster_url="https:///x.jpg")]
    assert await run.statuses(*invalid, host.title(3)) == ["refused", "refused", "new"]


async def test_poster_that_is_incomplete_is_downloaded_again(host: PosterHost, run: Run) -> None:
    host.cut["1"] = 2
    assert await run.statuses(host.title(1)) == ["new"]
    assert host.requests == ["1", "1", "1"]
    assert run.traffic.retries.total() == 2


async def test_poster_that_is_present_is_never_fetched_again(host: PosterHost, run: Run) -> None:
    titles = [host.title(1), host.title(2), host.title(3)]
    first = await run(*titles)
    (run.folder / "2.jpg").unlink()
    (run.folder / "3.jpg").write_bytes(b"damaged")
    host.requests.clear()
    again = await run(*titles, days=5000)
    assert list(again["status"]) == ["present", "new", "new"]
    assert list(again["sha256"]) == list(first["sha256"])
    assert sorted(host.requests) == ["2", "3"]


async def test_poster_with_a_new_address_is_replaced(host: PosterHost, run: Run) -> None:
    await run(host.title(1), host.title(2))
    host.others["qm"] = host.redirect("/images/qm_50.gif")
    assert await run.statuses(host.title(1, "7"), host.title(2, "qm")) == ["new", "placeholder"]
    assert (run.folder / "1.jpg").read_bytes() == host.pictures["7"]
    assert not (run.folder / "2.jpg").exists()


ODD: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "refused": (400, b"", {}),
    "missing": (403, b"", {}),
    "broken": (200, b"<html>Later</html>", {}),
    "redirected": (302, b"", {"Location": "http://[::1"}),
}


@pytest.mark.parametrize("status", ODD)
async def test_poster_is_kept_until_its_new_address_has_one(host: PosterHost, run: Run, status: str) -> None:
    first = await run(host.title(1), host.title(2))
    host.others["7"], new = ODD[status], (host.title(1, "7"), host.title(2))
    for days, requests in ((0, ["7"]), (1, []), (50, ["7"])):
        host.requests.clear()
        kept = await run(*new, days=days)
        assert kept[["status", "sha256", "reason"]].equals(
            first.assign(status="present")[["status", "sha256", "reason"]]
        )
        assert host.requests == requests, days
        assert (run.folder / "1.jpg").read_bytes() == host.pictures["1"]
    visit = run.ledger.posters.get("1")
    assert visit and (visit.status, visit.url, visit.sha256) == (status, new[0].poster_url, first["sha256"][0])
    assert visit.reason

    (run.folder / "1.jpg").write_bytes(b"damaged")
    assert await run.statuses(*new) == [status, "present"], "what is lost is not used"
    del host.others["7"]
    assert await run.statuses(*new, days=50) == ["new", "present"]


async def test_posters_whose_new_addresses_are_refused_in_a_row_are_kept_and_retried_at_once(
    host: PosterHost, run: Run
) -> None:
    titles = [host.title(number) for number in range(3)]
    first = await run(*titles)
    host.others = {str(number): (403, b"", {}) for number in range(5, 8)}
    moved = [host.title(number, str(number + 5)) for number in range(3)]
    with pytest.raises(SiteBlocked):
        await run(*moved, concurrency=1)
    run.unblock()
    assert {visit.url for visit in run.ledger.posters.all().values()} == {title.poster_url for title in titles}
    assert list((await run(*titles))["sha256"]) == list(first["sha256"])
    host.others = {}
    assert await run.statuses(*moved) == ["new"] * 3


async def test_poster_is_kept_until_its_new_address_is_reachable(host: PosterHost, run: Run) -> None:
    first = await run(host.title(1))
    host.status = 500
    kept = await run(host.title(1, "7"))
    assert list(kept["status"]) == ["present"]
    assert kept.iloc[0][["sha256", "url"]].equals(first.iloc[0][["sha256", "url"]])
    host.status = 200
    changed = await run(host.title(1, "7"))
    assert changed.iloc[0][["status", "sha256"]].tolist() == ["new", sha256_of(host.pictures["7"])]


async def test_poster_with_an_unexpected_response_is_refused_and_retried_after_weeks(
    host: PosterHost, run: Run
) -> None:
    host.status = 451
    posters = await run(host.title(1))
    assert posters["status"][0] == "refused" and "451" in posters["reason"][0]
    host.status = 200
    assert await run.statuses(host.title(1), host.title(2), days=10) == ["refused", "new"]
    assert await run.statuses(host.title(1), days=50) == ["new"]


async def test_missing_and_broken_posters_are_retried_after_weeks(host: PosterHost, run: Run) -> None:
    host.cut["2"] = 4  # attempts
    titles = [host.title(2), host.title(404)]
    assert await run.statuses(*titles) == ["broken", "missing"]
    host.requests.clear()
    assert await run.statuses(*titles, days=1) == ["broken", "missing"]
    assert host.requests == []
    assert await run.statuses(*titles, days=50) == ["new", "missing"]
    assert sorted(host.requests) == ["2", "404"]


async def test_posters_are_in_the_ledger_when_the_run_is_stopped(host: PosterHost, run: Run) -> None:
    host.gate.clear()
    titles = [host.title(number) for number in range(10)]
    running = asyncio.create_task(run(*titles, concurrency=1))
    while len(host.requests) < 4:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    host.gate.set()
    assert Counter(await run.statuses(*titles)) == {"present": 3, "new": 7}
    assert Counter(host.requests) == {**dict.fromkeys("012456789", 1), "3": 2}


async def test_unreachable_host_is_an_error_and_all_posters_are_retried_at_once(host: PosterHost, run: Run) -> None:
    host.status = 500
    titles = [host.title(number) for number in range(100)]
    with pytest.raises(SiteUnavailable, match="500"):
        await run(*titles, concurrency=20)
    assert {visit.status for visit in run.ledger.posters.all().values()} == {"failed"}
    host.status = 200
    assert Counter(await run.statuses(*titles[:10])) == {"new": 10}


@pytest.mark.parametrize("dead", ["http://127.0.0.1:9", "http://localhost:9"])
async def test_unreachable_host_among_others_does_not_end_the_run(host: PosterHost, run: Run, dead: str) -> None:
    gone = [Title(f"9{n:02}", f"gone {n}", poster_url=f"{dead}/{n}.jpg") for n in range(40)]
    titles = [host.title(number) for number in range(10)]
    posters = await run(*gone[:30], *titles, *gone[30:])
    assert dict(zip(posters["id"], posters["status"], strict=True)) == {
        **{title.id: "new" for title in titles},
        **{title.id: "failed" for title in gone},
    }
    assert posters["reason"].str.contains("20 posters in a row could not be had from ").sum() >= 16
    host.pictures |= {str(number): jpeg(number) for number in range(10, 50)}
    moved = [host.title(number) for number in range(10, 50)]
    again = [replace(title, id=old.id) for title, old in zip(moved, gone, strict=True)]
    assert Counter(await run.statuses(*again)) == {"new": 40}, "they are tried again in the next run"


@pytest.mark.parametrize(
    ("response", "requests"), [((403, b"", {}), 3), ((429, b"", {"Retry-After": "7200"}), 1)], ids=["403", "429"]
)
async def test_host_that_refuses_all_posters_among_others_is_skipped_in_each_run(
    host: PosterHost, run: Run, response: tuple[int, bytes, dict[str, str]], requests: int
) -> None:
    refusing = PosterHost()
    refusing.others = {str(number): response for number in range(40)}
    async with refusing.server:
        refused = [replace(refusing.title(number), id=f"9{number:02}") for number in range(40)]
        titles = [host.title(number) for number in range(6)]
        for status in ("new", "present"):
            posters = await run(*refused[:20], *titles, *refused[20:], concurrency=1)
            assert dict(zip(posters["id"], posters["status"], strict=True)) == {
                **{title.id: status for title in titles},
                **{title.id: "failed" for title in refused},
            }
            assert posters["reason"].str.endswith(" refuses us").sum() >= 40 - 3
            assert len(refusing.requests) == requests
        run.unblock()
        refusing.others = {}
        refusing.pictures = {str(number): jpeg(100 + number) for number in range(40)}
        assert Counter(await run.statuses(*refused)) == {"new": 40}


DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize(
    "body", [DENIED, b"<Error>\n <Code>AccessDenied</Code><Details>Anonymous caller has no access</Details></Error>"]
)
async def test_poster_that_an_object_store_denies_is_missing_however_many_in_a_row(
    host: PosterHost, run: Run, body: bytes
) -> None:
    host.others = {str(number): (403, body, {}) for number in range(100, 130)}
    statuses = await run.statuses(*map(host.title, range(100, 130)), host.title(1), concurrency=1)
    assert statuses == ["new"] + ["missing"] * 30
    assert len(host.requests) == 31


@pytest.mark.parametrize("body", [b"", b"<html><head><title>403 Forbidden</title></head></html>", b"Access Denied"])
async def test_poster_that_is_refused_between_successes_is_missing(host: PosterHost, run: Run, body: bytes) -> None:
    host.others = {str(number): (403, body, {}) for number in (101, 102, 103, 104, 105)}
    titles = list(map(host.title, (101, 102, 1, 103, 2, 104, 105)))
    titles.sort(key=lambda title: (101, 102, 1, 103, 2, 104, 105).index(int(title.id)))
    numbered = [replace(title, id=str(place)) for place, title in enumerate(titles)]
    posters = await run(*numbered, concurrency=1)
    assert list(posters["status"]) == ["missing", "missing", "new", "missing", "new", "missing", "missing"]
    assert posters["reason"][0].endswith("answered 403 Forbidden: the site refuses this address.")
    # The same again in a later run: nothing new was learned about the host.
    host.requests.clear()
    assert set(await run.statuses(*numbered, concurrency=1, days=60)) == {"missing", "present"}
    assert len(host.requests) == 5


async def test_host_that_refuses_three_posters_in_a_row_is_blocked_and_asked_again_later(
    host: PosterHost, run: Run, tmp_path: Path
) -> None:
    host.status = 403
    titles = [host.title(number) for number in range(8)]
    for _ in range(2):
        with pytest.raises(SiteBlocked, match=r" before 20.*\n3 posters in a row .*/2.jpg answered 403 Forbidden"):
            await run(*titles, concurrency=1)
    assert host.requests == ["0", "1", "2"]
    host.status = 200
    run.unblock()
    posters = await run(*titles)
    assert Counter(posters["status"]) == {"new": 8}
    write_posters(posters, run.folder)
    assert "No request" not in (tmp_path / "posters.csv").read_text()


async def test_poster_that_is_a_challenge_blocks_the_host_and_comes_last_in_the_next_run(
    host: PosterHost, run: Run
) -> None:
    host.others["100"] = (200, b"<html><title>Just a moment...</title></html>", {})
    titles = [host.title(1), replace(host.title(100), id="2"), host.title(3), host.title(4)]
    with pytest.raises(SiteBlocked, match=r"/100\.jpg answered 200 OK, with a captcha"):
        await run(*titles, concurrency=1)
    visit = run.ledger.posters.get("2")
    assert visit and (visit.status, host.requests) == ("failed", ["1", "100"])
    run.unblock()
    with pytest.raises(SiteBlocked):
        await run(*titles, concurrency=1)
    assert host.requests == ["1", "100", "3", "4", "100"]
    del host.others["100"]
    host.pictures["100"] = jpeg(100)
    run.unblock()
    assert await run.statuses(*titles) == ["present", "new", "present", "present"]


async def test_posters_that_are_refused_in_a_row_again_after_the_block_are_missing(host: PosterHost, run: Run) -> None:
    host.others = {str(number): (403, b"", {}) for number in range(100, 103)}
    titles = [host.title(number) for number in range(100, 103)]
    with pytest.raises(SiteBlocked):
        await run(*titles, concurrency=1)
    run.unblock()
    assert await run.statuses(*titles, concurrency=1) == ["missing"] * 3


async def test_poster_that_robots_txt_disallows_is_asked_for_in_the_next_run(host: PosterHost, run: Run) -> None:
    host.robots = "User-agent: *\nDisallow: /\n"
    posters = await run(host.title(1))
    assert list(posters["status"]) == ["failed"] and posters["reason"][0].startswith("The robots.txt of 127.0.0.1:")
    host.robots = ""
    assert await run.statuses(host.title(1)) == ["new"]
    assert host.requests == ["1"]


@pytest.mark.parametrize(
    "reason",
    [
        "The site refuses us: 403. No request is sent to it before 2026-01-01 00:00 UTC. Run the command again.",
        "The robots.txt of a.test disallows http://a.test/1.jpg.",
    ],
)
async def test_poster_whose_reason_is_a_past_block_of_its_host_is_asked_again(
    host: PosterHost, run: Run, reason: str
) -> None:
    title = host.title(1)
    run.ledger.posters.put(PosterVisit("1", str(title.poster_url), time.time(), "refused", reason=reason))
    assert await run.statuses(title) == ["new"]


NOTICE = b"<!DOCTYPE html><html><head><title>No hot&shy;linking, please</title></head><body>...</body></html>"
TEXTS = {
    "a page": (NOTICE, "a page with the title"),
    "a page without a title": (b"\xef\xbb\xbf\n <html><h1>Log in</h1></html>", '"Log in"'),
    "a page in UTF-16": ("<html><title>Consent \u2606</title></html>".encode("utf-16"), "Consent \u2606"),
    "a long title": (b"<title>" + b"x" * 100_000 + b"</title>", "x…"),
    "JSON": (b'{"error": "quota"}', '"error": "quota"'),
}


@pytest.mark.parametrize(("body", "named"), TEXTS.values(), ids=TEXTS)
async def test_poster_that_is_a_text_is_broken_and_not_retried(
    host: PosterHost, run: Run, body: bytes, named: str
) -> None:
    host.others["100"] = (200, body, {"Content-Type": "image/jpeg"})
    posters = await run(host.title(100), host.title(1))
    assert list(posters["status"]) == ["new", "broken"]
    assert named in posters["reason"][1] and len(posters["reason"][1]) < 200
    assert sorted(host.requests) == ["1", "100"]


async def test_host_that_sends_a_page_for_twenty_posters_in_a_row_is_blocked(host: PosterHost, run: Run) -> None:
    titles = [host.title(number) for number in range(100, 160)]
    host.others = {str(number): (200, NOTICE, {}) for number in range(100, 160)}
    with pytest.raises(SiteBlocked, match=r" before 20.*\n20 posters in a row .*No hot.*linking, please"):
        await run(*titles, concurrency=1)
    with pytest.raises(SiteBlocked):
        await run(*titles, concurrency=1)
    assert len(host.requests) == 20
    run.unblock()
    host.others.clear()
    host.pictures = {str(number): jpeg(number) for number in range(100, 160)}
    assert Counter(await run.statuses(*titles)) == {"new": 60}


async def test_posters_of_a_bucket_that_are_pages_are_all_broken_however_many_in_a_row(run: Run) -> None:
    objects = {f"gs://b/{number}.jpg": NOTICE for number in range(30)} | {"gs://b/30.jpg": jpeg(1)}
    titles = [Title(str(number), f"title {number}", poster_url=f"gs://b/{number}.jpg") for number in range(32)]
    async with SiteClient(ledger=run.ledger, traffic=run.traffic, read_object=lambda url: read(objects, url)) as client:
        context = CrawlContext(MyAnimeList(), run.ledger, run.kept, client, time.time(), run.traffic)
        posters = await download_posters(context, catalogue_of(titles), run.folder)
    assert list(posters["status"]) == ["broken"] * 30 + ["new", "missing"]


def read(objects: dict[str, bytes], url: str) -> bytes:
    if url not in objects:
        raise NotFound(f"There is no {url}.")
    return objects[url]


@pytest.mark.parametrize("target", ["/images/qm_50.gif", "/images/questionmark_23.gif?s=8e04"])
async def test_poster_that_redirects_to_a_placeholder_is_one(host: PosterHost, run: Run, target: str) -> None:
    host.others["100"] = host.redirect(target)
    posters = await run(host.title(100))
    assert list(posters["status"]) == ["placeholder"] and target[:16] in posters["reason"][0]
    assert not list(run.folder.glob("*")) and host.requests == ["100"]
    assert await run.statuses(host.title(100)) == ["placeholder"]
    assert host.requests == ["100"]


async def test_addresses_that_redirect_to_one_image_are_placeholders_from_the_second_on(
    host: PosterHost, run: Run
) -> None:
    host.others = {str(number): host.redirect("/images/anime/9.jpg") for number in (100, 101)}
    host.others["102"] = host.redirect("/images/anime/8.jpg", 301)
    assert await run.statuses(host.title(100), host.title(102)) == ["new", "new"]
    titles = [host.title(number) for number in (1, 9, 100, 101, 102)]
    expected = ["placeholder", "placeholder", "placeholder", "present"]  # also that of the image's own address
    assert await run.statuses(*titles) == ["new", *expected]
    requests = len(host.requests)
    assert await run.statuses(*titles) == ["present", *expected]
    assert await run.statuses(host.title(101)) == ["placeholder"]
    assert len(host.requests) == requests
    host.others["103"] = host.redirect("/images/anime/9.jpg")
    for name in ("103", "404"):  # if the address changes, the image of the former one is still no poster
        assert await run.statuses(*titles, host.title(103, name)) == ["present", *expected, "placeholder"]


async def test_addresses_that_redirect_to_equal_images_elsewhere_share_their_poster(host: PosterHost, run: Run) -> None:
    host.pictures["7"] = host.pictures["6"]
    host.others = {"100": host.redirect("/images/anime/6.jpg"), "101": host.redirect("/images/anime/7.jpg")}
    assert await run.statuses(host.title(100), host.title(101)) == ["new", "duplicate"]


async def test_titles_whose_common_address_redirects_share_their_poster(host: PosterHost, run: Run) -> None:
    host.others["100"] = host.redirect("/images/anime/9.jpg")
    assert await run.statuses(host.title(1, "100"), host.title(2, "100")) == ["new", "duplicate"]


@pytest.mark.parametrize("target", ["/images/anime/100.jpg", "http://[::1", "https://"])
async def test_poster_whose_redirects_lead_nowhere_is_told_apart_and_retried_within_weeks(
    host: PosterHost, run: Run, target: str
) -> None:
    host.others["100"] = host.redirect(target, 301)
    posters = await run(host.title(100))
    assert list(posters["status"]) == ["redirected"] and " redirects " in posters["reason"][0]
    del host.others["100"]
    host.pictures["100"] = host.pictures["1"]
    assert await run.statuses(host.title(100), days=10) == ["redirected"]
    assert await run.statuses(host.title(100), days=50) == ["new"]


async def test_poster_without_a_byte_is_empty(host: PosterHost, run: Run) -> None:
    host.others["100"] = (200, b"", {"Content-Type": "image/jpeg"})
    assert list((await run(host.title(100)))["reason"]) == ["The image is empty (0 bytes)."]


@pytest.mark.parametrize("size", [(1, 1), (20, 400), (400, 70), (5000, 5000)])
async def test_image_with_an_absurd_size_is_broken_and_fetched_once(
    host: PosterHost, run: Run, size: tuple[int, int]
) -> None:
    data = io.BytesIO()
    Image.new("L", size).save(data, "PNG")
    host.pictures["1"] = data.getvalue()
    posters = await run(host.title(1))
    assert posters["status"][0] == "broken"
    assert f"{size[0]} x {size[1]} pixels" in posters["reason"][0]
    assert host.requests == ["1"]


async def test_image_that_few_titles_share_belongs_to_the_first(host: PosterHost, run: Run) -> None:
    host.pictures["3"] = host.pictures["10"] = host.pictures["2"]
    titles = [host.title(number) for number in (1, 2, 3, 10)]
    for status in ("new", "present"):
        posters = await run(*titles)
        assert list(posters["status"]) == [status, status, "duplicate", "duplicate"]
        assert posters["reason"][3] == "the same image as that of 2"
        assert is_usable(posters).tolist() == [True, True, False, False]
    assert Counter(host.requests).most_common(1)[0][1] == 1


async def test_image_that_many_titles_share_is_a_placeholder(host: PosterHost, run: Run) -> None:
    host.pictures = dict.fromkeys(map(str, range(6)), host.pictures["1"]) | {"7": host.pictures["7"]}
    posters = await run(*(host.title(number) for number in (*range(6), 7)))
    assert list(posters["status"]) == ["placeholder"] * 6 + ["new"]
    assert posters["reason"][0] == "6 titles have this very image"
    assert run.traffic.outcomes["placeholder"] == 6


def test_poster_table_is_written_for_people(tmp_path: Path) -> None:
    rows = [
        ("10", "broken", 'cut short, says "Pillow"', "", "https://cdn.myanimelist.net/2.jpg"),
        ("9", "present", "", "ab", "https://cdn.myanimelist.net/images/anime/4/19644.jpg"),
    ]
    write_posters(pd.DataFrame(rows, columns=POSTER_COLUMNS, dtype=str), tmp_path / "posters")
    assert (tmp_path / "posters.csv").read_text() == (
        "mal_id,url,sha256,status,reason\n"
        "9,https://cdn.myanimelist.net/images/anime/4/19644.jpg,ab,present,\n"
        '10,https://cdn.myanimelist.net/2.jpg,,broken,"cut short, says ""Pillow"""\n'
    )


async def test_for_each_works_on_each_item_once_and_few_at_a_time() -> None:
    done: list[str] = []
    running, most = 0, 0

    async def work(item: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        done.append(item)

    await for_each(map(str, range(50)), work, concurrency=4)
    assert sorted(done, key=int) == list(map(str, range(50)))
    assert most == 4


@pytest.mark.parametrize(
    ("status", "least", "most"),
    [("missing", 15, 45), ("redirected", 15, 45), ("refused", 15, 45), ("broken", 3, 11), ("failed", 0, 0)],
)
def test_poster_is_due_after_days_that_depend_on_its_status_and_url(status: str, least: int, most: int) -> None:
    visits = [PosterVisit(str(number), f"http://a.test/{number}.jpg", 0, status) for number in range(100)]
    days = [next(day for day in range(1000) if poster_is_due(visit, day * 86_400)) for visit in visits]
    assert least <= min(days) <= max(days) <= most
    assert len(set(days)) > 5 or status == "failed"


def test_poster_that_failed_is_due_in_the_same_crawl() -> None:
    assert poster_is_due(PosterVisit("1", "http://a.test/1.jpg", 60, "failed"), 0)
    assert not poster_is_due(PosterVisit("1", "http://a.test/1.jpg", 60, "missing"), 0)
