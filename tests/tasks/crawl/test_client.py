"""The client against servers on loopback that do what sites do on bad days."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.errors import ConfigurationError
from tasks.crawl.addresses import check_contact, check_reachable
from tasks.crawl.client import SiteClient, Validators, user_agent
from tasks.crawl.ledger import Ledger
from tasks.crawl.traffic import Traffic
from tasks.errors import (
    DisallowedByRobots,
    NotOnSite,
    PageCutError,
    PageLayoutError,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A client, quick to try again, of a server that answers everything but robots.txt with one function."""

    def __init__(self, client: SiteClient, url: str) -> None:
        self.client = client
        self.url = url

    async def text(self, path: str = "/") -> str | None:
        fetched = await self.client.fetch(self.url + path, bytes.decode)
        return fetched.content if fetched else None


@asynccontextmanager
async def site_of(answer: Answer, robots: str | None = None, **settings: Any) -> AsyncIterator[Site]:
    async def read_robots(request: web.Request) -> web.Response:
        return web.Response(text=robots) if robots is not None else web.Response(status=404)

    application = web.Application()
    application.router.add_get("/robots.txt", read_robots)
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server, client(**settings) as asking:
        yield Site(asking, str(server.make_url("")).rstrip("/"))


def client(**settings: Any) -> SiteClient:
    return SiteClient(**({"first_wait_seconds": 0.01, "timeout_seconds": 2, "requests_per_second": 200} | settings))


def answers(*statuses: int, **headers: str) -> Answer:
    """A server whose nth answer has the nth status, and the last one from then on."""
    remaining: Iterator[int] = iter(statuses)

    async def answer(request: web.Request) -> web.Response:
        status = next(remaining, statuses[-1])
        return web.Response(status=status, text=f"answer {status}", headers=headers if status != 200 else None)

    return answer


async def test_what_came_is_read_as_it_is_to_be() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=f"{request.path} ☆".encode())

    async with site_of(answer) as site:
        assert await site.text("/anime/1/a") == "/anime/1/a ☆"


async def test_the_site_is_told_who_asks_and_how_to_reach_them() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["User-Agent"])

    async with site_of(answer, contact="me@example.org") as site:
        said = await site.text()
    assert said == user_agent("me@example.org")
    assert said.startswith("anime-genre/") and said.endswith(" (+me@example.org)")


async def test_a_site_on_the_net_is_not_asked_without_a_contact() -> None:
    async with client() as asking:
        with pytest.raises(ConfigurationError, match=r"myanimelist\.net .*ANIME_GENRE_CONTACT"):
            await asking.fetch("https://myanimelist.net/anime/1", bytes.decode)
    check_contact("https://myanimelist.net", "https://example.org/about")
    check_contact("http://localhost:80", None)


async def test_what_robots_txt_disallows_is_not_asked_for() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="fine")

    robots = "User-agent: *\nDisallow: /ownlist/\n\nUser-agent: anime-genre\nDisallow: /anime/season/*/fall$\n"
    async with site_of(answer, robots) as site:
        assert await site.text("/anime/season/2010/spring") == "fine"
        with pytest.raises(DisallowedByRobots, match=r"robots\.txt") as caught:
            await site.text("/anime/season/2010/fall")
    assert asked == ["/anime/season/2010/spring"]
    assert not caught.value.retryable


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_robots_txt_that_cannot_be_had_forbids_nothing(status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status if request.path == "/robots.txt" else 200, text="fine")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server, client() as asking:
        fetched = await asking.fetch(str(server.make_url("/anime/1")), bytes.decode)
    assert fetched is not None and fetched.content == "fine"


async def test_a_robots_txt_that_may_be_there_is_waited_for_a_few_attempts_in_all() -> None:
    application = web.Application()
    application.router.add_get("/{path:.*}", answers(503))
    traffic = Traffic("Pages")
    async with TestServer(application) as server, client(attempts=3, traffic=traffic) as asking:
        with pytest.raises(SiteUnavailable, match=r"robots\.txt"):
            await asking.fetch(str(server.make_url("/anime/1")), bytes.decode)
    assert traffic.requests == 3


async def test_an_address_that_moved_to_a_disallowed_one_is_not_followed() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/private/x"})

    async with site_of(answer, "User-agent: *\nDisallow: /private/\n") as site:
        with pytest.raises(DisallowedByRobots, match="/private/x"):
            await site.text("/a")
    assert asked == ["/a"]


async def test_robots_txt_is_read_once_and_its_delay_is_kept() -> None:
    traffic = Traffic("Pages")
    began = time.monotonic()
    async with site_of(answers(200), "User-agent: *\nCrawl-delay: 0.2\n", connections=5, traffic=traffic) as site:
        await asyncio.gather(*(site.text(f"/{number}") for number in range(5)))
    assert traffic.requests == 6
    assert time.monotonic() - began >= 4 * 0.2 * 0.9


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    traffic = Traffic("Pages")
    async with site_of(answers(status, status, 200), traffic=traffic) as site:
        assert await site.text() == "answer 200"
    assert traffic.retries.total() == 2
    assert str(status) in next(iter(traffic.retries))


async def test_what_does_not_pass_is_unavailable_after_a_few_attempts() -> None:
    traffic = Traffic("Pages")
    async with site_of(answers(503), attempts=3, traffic=traffic) as site:
        with pytest.raises(SiteUnavailable, match="answered 503 Service Unavailable") as caught:
            await site.text()
    assert traffic.requests == 1 + 3  # robots.txt, and three attempts
    assert caught.value.retryable


@pytest.mark.parametrize("status", [404, 410])
async def test_what_is_not_there_is_asked_for_once(status: int) -> None:
    async with site_of(answers(status, 200)) as site:
        with pytest.raises(NotOnSite, match=str(status)):
            await site.text()


@pytest.mark.parametrize("status", [418, 304])
async def test_an_answer_that_nobody_expects_is_final(status: int) -> None:
    async with site_of(answers(status, 200)) as site:
        with pytest.raises(SiteError, match=str(status)) as caught:
            await site.text()
    assert not caught.value.retryable


async def test_a_site_that_refuses_us_is_not_asked_again_not_in_the_next_run_either(tmp_path) -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=403)

    async with site_of(answer, ledger=Ledger(tmp_path / "ledger")) as site:
        with pytest.raises(SiteBlocked, match=r"refuses us: .* answered 403 Forbidden.*before 20\d\d-.* UTC") as caught:
            await site.text("/a")
        assert not caught.value.retryable and caught.value.address == f"{site.url}/a"
        with pytest.raises(SiteBlocked):
            await site.text("/b")
        async with client(ledger=Ledger(tmp_path / "ledger")) as next_run:
            with pytest.raises(SiteBlocked, match="answered 403 Forbidden") as caught:
                await next_run.fetch(site.url + "/c", bytes.decode)
        assert caught.value.address is None
    assert asked == 1


async def test_those_who_wait_for_their_turn_do_not_ask_a_site_that_has_refused_us_meanwhile() -> None:
    traffic = Traffic("Pages")
    async with site_of(answers(403), connections=4, requests_per_second=20, traffic=traffic) as site:
        results = await asyncio.gather(*(site.text(f"/{n}") for n in range(12)), return_exceptions=True)
    assert all(isinstance(result, SiteBlocked) for result in results)
    assert traffic.requests <= 1 + 4


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, "<html><head><title>Human Verification</title></head><body>prove it</body></html>"),
        (200, {}, '<html><form><div class="g-recaptcha" data-sitekey="x"></div></form></html>'),
        (405, {"x-amzn-waf-action": "captcha"}, "<html>Verify</html>"),
        (503, {}, "<html><head><title>Just a moment...</title></head></html>"),
        (429, {"cf-mitigated": "challenge"}, ""),
    ],
)
async def test_a_captcha_stops_at_once(status: int, headers: dict[str, str], body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, text=body)

    def read(body: bytes) -> None:
        raise PageLayoutError("This is no season's page.")

    traffic = Traffic("Pages")
    async with site_of(answer, traffic=traffic) as site:
        with pytest.raises(SiteBlocked, match="captcha"):
            await site.client.fetch(site.url, read)
    assert traffic.requests == 1 + 1


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed_and_holds_back_the_others_too(status: int) -> None:
    moments: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        moments.append(time.monotonic())
        if len(moments) == 1:
            return web.Response(status=status, headers={"Retry-After": "1"})
        return web.Response(text="fine")

    traffic = Traffic("Pages")
    async with site_of(answer, traffic=traffic) as site:
        assert await asyncio.gather(*(site.text(path) for path in ("/a", "/b", "/c"))) == ["fine"] * 3
    assert min(moments[1:]) - moments[0] >= 1
    assert 0.9 < traffic.held_seconds < 1.1


async def test_retry_after_may_be_a_date() -> None:
    began = time.monotonic()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    async with site_of(answers(503, 200, **{"Retry-After": soon})) as site:
        assert await site.text() == "answer 200"
    assert time.monotonic() - began >= 0.9  # the date has whole seconds only


@pytest.mark.parametrize("status", [429, 500])
async def test_a_wait_of_hours_ends_the_crawl_and_is_remembered(status: int) -> None:
    began = time.monotonic()
    ledger = Ledger()
    async with site_of(answers(status, 200, **{"Retry-After": "7200"}), ledger=ledger) as site:
        for _ in range(2):
            with pytest.raises(SiteBlocked, match=str(status)) as caught:
                await site.text()
    (memory,) = ledger.hosts.all().values()
    assert 7100 < memory.blocked_until - time.time() < 7200
    assert not caught.value.retryable
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("header", ["1764000000000", "9" * 40, "Tue, 24 Nov 2099 10:00:00 GMT"])
async def test_a_wait_of_years_is_cut_to_a_week(header: str) -> None:
    ledger = Ledger()
    async with site_of(answers(503, **{"Retry-After": header}), ledger=ledger) as site:
        with pytest.raises(SiteBlocked):
            await site.text()
    (memory,) = ledger.hosts.all().values()
    assert 6.9 < (memory.blocked_until - time.time()) / 86_400 < 7.1


async def test_a_short_wait_is_kept_by_the_next_client_too() -> None:
    ledger = Ledger()
    async with site_of(answers(503, 200, **{"Retry-After": "1"}), ledger=ledger, attempts=1) as site:
        with pytest.raises(SiteUnavailable):
            await site.text()
        began = time.monotonic()
        async with client(ledger=ledger) as next_client:
            await next_client.fetch(site.url, bytes.decode)
    assert time.monotonic() - began >= 0.8


async def test_a_pace_that_was_too_fast_is_remembered_for_the_next_run() -> None:
    ledger = Ledger()
    async with site_of(answers(200, 200, 429, 200), ledger=ledger, requests_per_second=10) as site:
        for _ in range(3):
            await site.text()
        (memory,) = ledger.hosts.all().values()
        assert memory.ceiling == pytest.approx(5)
        async with client(ledger=ledger) as next_run:
            began = time.monotonic()
            for _ in range(3):  # and robots.txt
                await next_run.fetch(site.url, bytes.decode)
            assert time.monotonic() - began >= 3 * 0.9 / memory.ceiling


async def test_what_did_not_change_is_not_sent_again() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == '"1"' and "If-Modified-Since" in request.headers:
            return web.Response(status=304)
        return web.Response(text="fine", headers={"ETag": '"1"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"})

    async with site_of(answer) as site:
        fetched = await site.client.fetch(site.url, bytes.decode)
        assert fetched is not None
        assert fetched.validators == Validators('"1"', "Tue, 24 Nov 2026 10:00:00 GMT")
        assert await site.client.fetch(site.url, bytes.decode, fetched.validators) is None


async def test_an_address_that_moved_is_followed_a_few_times_each_one_a_request_of_its_own() -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/there":
            return web.Response(text="here I am")
        return web.Response(status=302, headers={"Location": {"/a": "/b", "/b": "/there"}.get(request.path, "/round")})

    traffic = Traffic("Pages")
    async with site_of(answer, traffic=traffic) as site:
        assert await site.text("/a") == "here I am"
        assert traffic.requests == 1 + 3
        with pytest.raises(SiteError, match="leads to another address more than"):
            await site.text("/round")


async def test_an_answer_without_end_is_given_up() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(30):
            await response.write(bytes(1_000_000))
        return response

    async with site_of(answer) as site:
        with pytest.raises(SiteError, match="more than 20 MB"):
            await site.text()


async def test_a_silent_site_is_given_up_and_asked_again() -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(1.5)
        return web.Response(text="at last")

    async with site_of(answer, timeout_seconds=0.3) as site:
        assert await site.text() == "at last"
    assert asked == 2


async def test_a_body_shorter_than_its_length_is_asked_for_again() -> None:
    asked = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        head = await reader.readuntil(b"\r\n\r\n")
        if b"robots.txt" in head:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            asked += 1
            body = b"half" if asked < 3 else b"half of it"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server, client() as asking:
        site = Site(asking, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert await site.text() == "half of it"
    assert asked == 3


async def test_a_page_that_came_by_half_is_asked_for_again() -> None:
    def whole(body: bytes) -> str:
        if b"500" in body:
            raise PageCutError("half a page")
        return body.decode()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="answer 500" if next(bodies) < 2 else "answer 200")

    bodies = iter(range(10))
    async with site_of(answer) as site:
        fetched = await site.client.fetch(site.url, whole)
    assert fetched is not None and fetched.content == "answer 200"


async def test_a_host_that_cannot_be_reached_is_unavailable() -> None:
    async with client(attempts=2) as asking:
        with pytest.raises(SiteUnavailable, match=r"127\.0\.0\.1:9"):
            await asking.fetch("http://127.0.0.1:9/", bytes.decode)
    with pytest.raises(SiteUnavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
        check_reachable("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["", "myanimelist.net", "ftp://127.0.0.1/1.jpg", "https://", "http://["])
async def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(SiteError, match="no address on the web: write one such as https") as caught:
        check_reachable(url)
    assert not caught.value.retryable
    async with client() as asking:
        with pytest.raises(SiteError, match="no address on the web"):
            await asking.fetch(url, bytes.decode)


async def test_there_is_no_limit_on_loopback_but_a_given_one() -> None:
    began = time.monotonic()
    async with site_of(answers(200), requests_per_second=None) as site:
        for _ in range(5):
            await site.text()
    assert time.monotonic() - began < 4
    began = time.monotonic()
    async with site_of(answers(200), requests_per_second=20) as site:
        for _ in range(9):  # and robots.txt
            await site.text()
    assert time.monotonic() - began >= 9 * 0.9 / 20


async def test_there_are_only_so_many_connections() -> None:
    under_way, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.Response()

    async with site_of(answer, connections=3) as site:
        await asyncio.gather(*(site.text() for _ in range(20)))
    assert most == 3
