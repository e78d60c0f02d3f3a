"""The client with servers on loopback that fail as real sites do."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.errors import ConfigurationError
from tasks.crawl.addresses import check_contact, check_reachable
from tasks.crawl.client import SiteClient, Validators, user_agent
from tasks.crawl.hosts import Host
from tasks.crawl.ledger import HostMemory, Ledger
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

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A client with short waits, and the server that it requests. `requests` are the paths but robots.txt, with times.

    The server responds with `handler`, or with the `statuses` in turn, the last one repeated.
    """

    def __init__(self, *statuses: int, handler: Handler | None = None, robots: str | None = None, **headers: str):
        self.requests: list[tuple[str, float]] = []
        self._statuses = statuses or (200,)
        self._headers = headers
        self._handler = handler
        self._robots = robots
        self.traffic = Traffic("Pages")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/robots.txt":
            return web.Response(text=self._robots) if self._robots is not None else web.Response(status=404)
        self.requests.append((request.path, time.monotonic()))
        if self._handler:
            return await self._handler(request)
        status = self._statuses[min(len(self.requests), len(self._statuses)) - 1]
        headers = {name.replace("_", "-"): value for name, value in self._headers.items()} if status != 200 else None
        return web.Response(status=status, text=f"status {status}", headers=headers)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    async def text(self, path: str = "/", client: SiteClient | None = None) -> str | None:
        fetched = await (client or self.client).fetch(self.url + path, bytes.decode)
        return fetched.content if fetched else None

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator["Site"]:
        application = web.Application()
        application.router.add_get("/{path:.*}", self.handle)
        async with TestServer(application) as server, new_client(traffic=self.traffic, **settings) as self.client:
            self.url = str(server.make_url("")).rstrip("/")
            yield self


def new_client(**settings: Any) -> SiteClient:
    return SiteClient(**({"first_wait_seconds": 0.01, "timeout_seconds": 2, "requests_per_second": 200} | settings))


async def test_client_returns_the_parsed_body_and_sends_project_and_contact() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=f"{request.path} ☆ {request.headers['User-Agent']}".encode())

    async with Site(handler=echo).running(contact="me@example.org") as site:
        assert await site.text("/anime/1/a") == f"/anime/1/a ☆ {user_agent('me@example.org')}"
    assert user_agent("me@example.org").startswith("anime-genre/")
    assert user_agent("me@example.org").endswith(" (+me@example.org)")


async def test_client_needs_a_contact_for_other_machines() -> None:
    async with new_client() as client:
        with pytest.raises(ConfigurationError, match=r"example\.org .*ANIME_GENRE_CONTACT"):
            await client.fetch("https://example.org/anime/1", bytes.decode)
    check_contact("https://example.org", "https://example.org/about")
    check_contact("http://localhost:80", None)


@pytest.mark.parametrize("url", ["", "example.org", "ftp://127.0.0.1/1.jpg", "https://", "http://["])
async def test_client_refuses_an_invalid_url(url: str) -> None:
    with pytest.raises(SiteError, match=r"is not a valid URL\. A valid one is https") as caught:
        check_reachable(url)
    assert not caught.value.retryable
    async with new_client() as client:
        with pytest.raises(SiteError, match="is not a valid URL"):
            await client.fetch(url, bytes.decode)


async def test_robots_txt_is_obeyed_also_by_redirects() -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/anime/season/2010/fall"})
        return web.Response(text="fine")

    robots = "User-agent: *\nDisallow: /\n\nUser-agent: anime-genre\nDisallow: /anime/season/*/fall$\n"
    async with Site(handler=handle, robots=robots).running() as site:
        assert await site.text("/anime/season/2010/spring") == "fine"
        for path in ("/anime/season/2010/fall", "/moved"):
            with pytest.raises(DisallowedByRobots, match=r"robots\.txt .*/fall") as caught:
                await site.text(path)
    assert site.paths == ["/anime/season/2010/spring", "/moved"]
    assert not caught.value.retryable


async def test_robots_txt_with_a_byte_order_mark_is_obeyed() -> None:
    async with Site(robots="\ufeffUser-agent: *\nDisallow: /\n").running() as site:
        with pytest.raises(DisallowedByRobots):
            await site.text()


async def test_robots_txt_is_read_once_and_its_delay_is_obeyed() -> None:
    began = time.monotonic()
    async with Site(200, robots="User-agent: *\nCrawl-delay: 0.1\n").running(connections=5) as site:
        await asyncio.gather(*(site.text(f"/{number}") for number in range(5)))
    assert site.traffic.requests == 6
    assert time.monotonic() - began >= 4 * 0.1 * 0.9


@pytest.mark.parametrize(("status", "requests"), [(401, 2), (403, 2), (404, 2), (503, 3)])
async def test_robots_txt_with_an_error_allows_all_unless_it_is_temporary(status: int, requests: int) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status if request.path == "/robots.txt" else 200, text="fine")

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    traffic = Traffic("Pages")
    async with TestServer(application) as server, new_client(attempts=3, traffic=traffic) as client:
        fetching = client.fetch(str(server.make_url("/anime/1")), bytes.decode)
        if status == 503:
            with pytest.raises(SiteUnavailable, match=r"robots\.txt"):
                await fetching
        else:
            assert await fetching
    assert traffic.requests == requests


async def test_robots_txt_of_a_redirects_target_is_tried_as_often_as_any_other() -> None:
    async def unavailable(request: web.Request) -> web.Response:
        return web.Response(status=500)

    application, traffic = web.Application(), Traffic("Pages")
    application.router.add_get("/{path:.*}", unavailable)
    async with TestServer(application) as target:
        site = Site(302, Location=str(target.make_url("/1.jpg")))
        async with site.running(attempts=3), new_client(attempts=3, traffic=traffic) as client:
            with pytest.raises(SiteUnavailable, match=r"robots\.txt"):
                await site.text(client=client)
    assert (site.paths, traffic.requests) == (["/"], 2 + 3)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_client_retries_temporary_failures(status: int) -> None:
    async with Site(status, status, 200).running() as site:
        assert await site.text() == "status 200"
    assert site.traffic.retries.total() == 2
    assert str(status) in next(iter(site.traffic.retries))


async def test_client_gives_up_after_its_attempts() -> None:
    async with Site(503).running(attempts=3) as site:
        with pytest.raises(SiteUnavailable, match="answered 503 Service Unavailable") as caught:
            await site.text()
    assert len(site.requests) == 3
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotOnSite), (410, NotOnSite), (418, SiteError), (304, SiteError), (302, SiteError)]
)
async def test_client_does_not_retry_permanent_failures(status: int, error: type[SiteError]) -> None:
    async with Site(status, 200).running() as site:
        with pytest.raises(error, match=str(status)) as caught:
            await site.text()
    assert type(caught.value) is error
    assert not caught.value.retryable


async def test_client_sends_nothing_to_a_host_that_refused_it_also_in_later_runs(tmp_path) -> None:
    async with Site(403).running(ledger=Ledger(tmp_path / "ledger")) as site:
        with pytest.raises(SiteBlocked, match=r"refuses us\. .*before 20.* UTC.*\n.* 403 Forbidden\.") as caught:
            await site.text("/a")
        assert not caught.value.retryable
        async with new_client(ledger=Ledger(tmp_path / "ledger")) as next_run:
            for client in (site.client, next_run):
                with pytest.raises(SiteBlocked, match="answered 403 Forbidden"):
                    await site.text("/b", client)
    assert site.paths == ["/a"]


async def test_client_sends_nothing_for_a_week_at_most_if_the_clock_was_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, now, week = Ledger(), time.time(), 7 * 86_400
    ledger.hosts.put(HostMemory("a.test", blocked_until=now + 4000 * 86_400, reason="status 403"))
    ledger.hosts.put(HostMemory("b.test", blocked_until=now + week - 60, reason="status 429"))
    for name in ("a.test", "b.test"):
        with pytest.raises(SiteBlocked):
            Host(name, ledger, None, 1).check_blocked()
    assert [memory.blocked_until - now for memory in ledger.hosts.all().values()] == [
        pytest.approx(week, abs=30),
        pytest.approx(week - 60, abs=1),
    ]
    monkeypatch.setattr(time, "time", lambda: now + week + 60)
    Host("a.test", ledger, None, 1).check_blocked()  # the end of the block has not moved
    ledger.close()


async def test_client_drops_waiting_requests_when_the_host_refuses_it() -> None:
    async with Site(403).running(connections=4, requests_per_second=20) as site:
        results = await asyncio.gather(*(site.text(f"/{n}") for n in range(12)), return_exceptions=True)
    assert all(isinstance(result, SiteBlocked) for result in results)
    assert len(site.requests) <= 4


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, "<html><head><title>Human Verification</title></head><body>prove it</body></html>"),
        (405, {"x-amzn-waf-action": "captcha"}, "<html>Verify</html>"),
        (503, {}, "<html><head><title>Just a moment...</title></head></html>"),
        (429, {"cf-mitigated": "challenge"}, ""),
    ],
)
async def test_client_stops_at_a_captcha(status: int, headers: dict[str, str], body: str) -> None:
    async def challenge(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, text=body)

    def parse(body: bytes) -> None:
        raise PageLayoutError("This is not a season's page.")

    async with Site(handler=challenge).running() as site:
        with pytest.raises(SiteBlocked, match="captcha"):
            await site.client.fetch(site.url, parse)
    assert len(site.requests) == 1


async def test_retry_after_delays_all_requests_to_the_host() -> None:
    async with Site(503, 200, Retry_After="1").running() as site:
        assert await asyncio.gather(*(site.text(path) for path in ("/a", "/b", "/c"))) == ["status 200"] * 3
    first, *others = [moment for _, moment in site.requests]
    assert min(others) - first >= 1
    assert 0.9 < site.traffic.held_seconds < 1.1


@pytest.mark.parametrize("status", [429, 500])
async def test_retry_after_of_hours_blocks_the_host(status: int) -> None:
    ledger = Ledger()
    async with Site(status, 200, Retry_After="7200").running(ledger=ledger) as site:
        for _ in range(2):
            with pytest.raises(SiteBlocked, match=str(status)):
                await site.text()
    (memory,) = ledger.hosts.all().values()
    assert memory.blocked_until - time.time() == pytest.approx(7200, abs=60)
    assert len(site.requests) == 1


async def test_retry_after_of_seconds_delays_the_next_client() -> None:
    ledger = Ledger()
    async with Site(503, 200, Retry_After="1").running(ledger=ledger, attempts=1) as site:
        with pytest.raises(SiteUnavailable):
            await site.text()
        began = time.monotonic()
        async with new_client(ledger=ledger) as next_client:
            await site.text(client=next_client)
    assert time.monotonic() - began >= 0.8


async def test_client_remembers_the_pace_of_a_host_for_the_next_run() -> None:
    ledger = Ledger()
    async with Site(200, 200, 429, 200).running(ledger=ledger, requests_per_second=20) as site:
        for _ in range(3):
            await site.text()
        (memory,) = ledger.hosts.all().values()
        assert memory.ceiling == pytest.approx(10)
        async with new_client(ledger=ledger) as next_run:
            began = time.monotonic()
            for _ in range(3):  # with robots.txt there are four requests
                await site.text(client=next_run)
            assert time.monotonic() - began >= 3 * 0.9 / memory.ceiling


async def test_client_sends_validators_and_returns_none_for_an_unchanged_page() -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == '"1"' and "If-Modified-Since" in request.headers:
            return web.Response(status=304)
        return web.Response(text="fine", headers={"ETag": '"1"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"})

    async with Site(handler=handle).running() as site:
        fetched = await site.client.fetch(site.url, bytes.decode)
        assert fetched is not None
        assert fetched.validators == Validators('"1"', "Tue, 24 Nov 2026 10:00:00 GMT")
        assert await site.client.fetch(site.url, bytes.decode, fetched.validators) is None


async def test_client_follows_a_few_redirects() -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/there":
            return web.Response(text="found")
        return web.Response(status=302, headers={"Location": {"/a": "/b", "/b": "/there"}.get(request.path, "/loop")})

    async with Site(handler=handle).running() as site:
        assert await site.text("/a") == "found"
        assert site.traffic.requests == 1 + 3
        with pytest.raises(SiteError, match="redirects more than 3 times"):
            await site.text("/loop")


async def test_client_stops_reading_a_body_that_is_too_large() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(30):
            await response.write(bytes(1_000_000))
        return response

    async with Site(handler=endless).running() as site:
        with pytest.raises(SiteError, match="larger than 20 MB"):
            await site.text()


async def test_client_retries_after_a_timeout() -> None:
    async def slow_at_first(request: web.Request) -> web.Response:
        if len(site.requests) == 1:
            await asyncio.sleep(1.5)
        return web.Response(text="at last")

    async with Site(handler=slow_at_first).running(timeout_seconds=0.3) as site:
        assert await site.text() == "at last"
    assert site.traffic.retries == {"timeout": 1}


async def test_client_retries_a_body_that_is_shorter_than_its_length() -> None:
    bodies = [b"half", b"half", b"half of it"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"robots.txt" in await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n" + bodies.pop(0))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, new_client() as client:
        fetched = await client.fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", bytes.decode)
    assert fetched is not None and fetched.content == "half of it"
    assert not bodies


async def test_client_retries_a_page_that_its_parser_finds_incomplete() -> None:
    def parse(body: bytes) -> str:
        if len(site.requests) < 3:
            raise PageCutError("The page ends too early.")
        return body.decode()

    async with Site(200).running() as site:
        assert await site.client.fetch(site.url, parse)
    assert site.traffic.retries == {"damaged or incomplete": 2}


async def test_client_reports_an_unreachable_host() -> None:
    async with new_client(attempts=2) as client:
        with pytest.raises(SiteUnavailable, match=r"127\.0\.0\.1:9"):
            await client.fetch("http://127.0.0.1:9/", bytes.decode)
    with pytest.raises(SiteUnavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
        check_reachable("http://127.0.0.1:9")


@pytest.mark.parametrize(("requests_per_second", "least", "most"), [(None, 0, 4), (20, 9 * 0.9 / 20, 9)])
async def test_client_limits_its_pace_on_loopback_only_if_told(
    requests_per_second: float | None, least: float, most: float
) -> None:
    async with Site(200).running(requests_per_second=requests_per_second) as site:
        began = time.monotonic()
        for _ in range(9):  # with robots.txt there are ten requests
            await site.text()
        assert least <= time.monotonic() - began < most


async def test_client_limits_its_connections() -> None:
    active, most = 0, 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1
        return web.Response()

    async with Site(handler=handle).running(connections=3) as site:
        await asyncio.gather(*(site.text() for _ in range(20)))
    assert most == 3
