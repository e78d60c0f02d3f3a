"""Posters on disk, and what is written down about each."""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from infra.files import sha256_of
from tasks.errors import SiteUnavailable
from tasks.myanimelist.pages import AnimeRecord
from tasks.myanimelist.posters import PosterOutcome, download_posters, read_outcomes, write_outcomes


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
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        application = web.Application()
        application.router.add_get("/images/anime/{name}.jpg", self.answer)
        self.server = TestServer(application)

    async def answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked.append(name)
        if self.down:
            return web.Response(status=503)
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


async def test_each_title_has_one_outcome_and_a_file_only_where_there_is_a_poster(
    host: PosterHost, tmp_path: Path
) -> None:
    host.cut["2"] = 100
    records = [
        host.record(1),
        host.record(2),
        host.record(404),
        replace(host.record(3), genres=["Hentai"], genre_ids=[12]),
        replace(host.record(4), poster_url=None),
    ]
    progress: list[tuple[int, int]] = []
    outcomes = await download_posters(
        records, tmp_path / "posters", on_progress=lambda done, total: progress.append((done, total))
    )
    assert [(outcome.mal_id, outcome.status) for outcome in outcomes] == [
        (1, "new"),
        (2, "broken"),
        (404, "missing"),
        (3, "explicit"),
        (4, "no_address"),
    ]
    assert outcomes[0] == PosterOutcome(1, "new", None, sha256_of(host.pictures["1"]), records[0].poster_url)
    assert all(outcome.reason and not outcome.sha256 for outcome in outcomes[1:])
    assert "3" not in host.asked
    assert {path.name for path in (tmp_path / "posters").iterdir()} == {"1.jpg"}
    assert (tmp_path / "posters" / "1.jpg").read_bytes() == host.pictures["1"]
    assert read_outcomes(tmp_path / "posters") == sorted(outcomes, key=lambda outcome: outcome.mal_id)
    assert progress[-1] == (5, 5)


async def test_a_poster_that_came_by_half_is_downloaded_again(host: PosterHost, tmp_path: Path) -> None:
    host.cut["1"] = 2
    (outcome,) = await download_posters([host.record(1)], tmp_path / "posters")
    assert outcome.status == "new"
    assert host.asked == ["1", "1", "1"]


async def test_a_poster_that_is_here_is_not_asked_for_again(host: PosterHost, tmp_path: Path) -> None:
    records = [host.record(1), host.record(2), host.record(3)]
    first = await download_posters(records, tmp_path / "posters")
    (tmp_path / "posters" / "2.jpg").unlink()
    (tmp_path / "posters" / "3.jpg").write_bytes(b"damaged")
    host.asked.clear()
    again = await download_posters(records, tmp_path / "posters")
    assert [outcome.status for outcome in again] == ["present", "new", "new"]
    assert [outcome.sha256 for outcome in again] == [outcome.sha256 for outcome in first]
    assert sorted(host.asked) == ["2", "3"]


async def test_a_poster_with_a_new_address_is_downloaded_anew(host: PosterHost, tmp_path: Path) -> None:
    await download_posters([host.record(1), host.record(2)], tmp_path / "posters")
    changed, gone = await download_posters([host.record(1, "7"), host.record(2, "nowhere")], tmp_path / "posters")
    assert (changed.status, gone.status) == ("new", "missing")
    assert (tmp_path / "posters" / "1.jpg").read_bytes() == host.pictures["7"]
    assert not (tmp_path / "posters" / "2.jpg").exists()


async def test_titles_of_other_runs_stay_written_down(host: PosterHost, tmp_path: Path) -> None:
    await download_posters([host.record(1)], tmp_path / "posters")
    await download_posters([host.record(2)], tmp_path / "posters")
    assert [outcome.mal_id for outcome in read_outcomes(tmp_path / "posters")] == [1, 2]


async def test_what_is_done_is_written_down_when_the_run_is_stopped(host: PosterHost, tmp_path: Path) -> None:
    host.gate.clear()
    records = [host.record(number) for number in range(10)]
    run = asyncio.create_task(download_posters(records, tmp_path / "posters", concurrency=1))
    while len(host.asked) < 4:
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    host.gate.set()
    assert [outcome.mal_id for outcome in read_outcomes(tmp_path / "posters")] == [0, 1, 2]
    again = await download_posters(records, tmp_path / "posters")
    assert Counter(outcome.status for outcome in again) == {"present": 3, "new": 7}


async def test_a_host_that_is_down_is_an_error_and_not_many_broken_posters(host: PosterHost, tmp_path: Path) -> None:
    host.down = True
    records = [host.record(number) for number in range(100)]
    with pytest.raises(SiteUnavailable, match="503"):
        await download_posters(records, tmp_path / "posters", concurrency=20)
    assert all(outcome.status == "broken" for outcome in read_outcomes(tmp_path / "posters"))


def test_outcomes_are_read_as_they_were_written(tmp_path: Path) -> None:
    outcomes = [
        PosterOutcome(1, "present", None, "ab" * 32, "https://cdn.myanimelist.net/images/anime/4/19644.jpg"),
        PosterOutcome(2, "broken", 'cut short, says "Pillow"', None, "https://cdn.myanimelist.net/2.jpg"),
        PosterOutcome(3, "no_address", "no poster"),
    ]
    write_outcomes(reversed(outcomes), tmp_path / "posters")
    assert read_outcomes(tmp_path / "posters") == outcomes
    assert read_outcomes(tmp_path / "elsewhere") == []
