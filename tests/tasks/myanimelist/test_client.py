"""The client against servers on loopback that do what sites do on bad days."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tasks.errors import NotOnSite, PageCutError, SiteBlocked, SiteError, SiteUnavailable
from tasks.myanimelist.client import SiteClient, user_agent

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client_of(answer: Answer, **settings: float) -> AsyncIterator[SiteClient]:
    """A client, quick to try again, of a server that answers everything with one function."""
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with TestServer(application) as server:
        options = {"first_wait_seconds": 0.01, "timeout_seconds": 2} | settings
        async with SiteClient(str(server.make_url("")), **options) as client:  # type: ignore[arg-type]
            yield client


def answers(*statuses: int, **headers: str) -> Answer:
    """A server whose nth answer has the nth status, and the last one from then on."""
    remaining: Iterator[int] = iter(statuses)

    async def answer(request: web.Request) -> web.Response:
        status = next(remaining, statuses[-1])
        return web.Response(status=status, text=f"answer {status}", headers=headers if status != 200 else None)

    return answer


async def test_a_page_is_text_and_an_image_is_bytes() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=f"{request.path} ☆".encode())

    async with client_of(answer) as client:
        assert await client.page("/anime/1/a") == "/anime/1/a ☆"
        assert await client.image("/images/anime/1/2.jpg") == "/images/anime/1/2.jpg ☆".encode()


async def test_the_site_is_told_who_asks() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["User-Agent"])

    async with client_of(answer) as client:
        assert await client.page("/") == user_agent()
    assert user_agent().startswith("anime-genre")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with client_of(answers(status, status, 200)) as client:
        assert await client.page("/") == "answer 200"


async def test_what_does_not_pass_is_unavailable_after_a_few_attempts() -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503)

    async with client_of(answer, attempts=3) as client:
        with pytest.raises(SiteUnavailable, match="answered 503 Service Unavailable") as caught:
            await client.page("/")
    assert asked == 3
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotOnSite), (410, NotOnSite), (403, SiteBlocked), (418, SiteError)]
)
async def test_what_is_final_is_asked_once(status: int, error: type[SiteError]) -> None:
    async with client_of(answers(status, 200)) as client:
        with pytest.raises(error, match=str(status)) as caught:
            await client.page("/")
    assert type(caught.value) is error
    assert not caught.value.retryable


async def test_retry_after_is_obeyed_and_holds_back_the_others_too() -> None:
    moments: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        moments.append(time.monotonic())
        if len(moments) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(text="fine")

    async with client_of(answer, concurrency=1) as client:
        assert await asyncio.gather(client.page("/a"), client.page("/b"), client.page("/c")) == ["fine"] * 3
    assert min(moments[1:]) - moments[0] >= 1


async def test_retry_after_may_be_a_date() -> None:
    began = time.monotonic()
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    async with client_of(answers(503, 200, **{"Retry-After": soon})) as client:
        assert await client.page("/") == "answer 200"
    assert time.monotonic() - began >= 0.9  # the date has whole seconds only


async def test_a_wait_of_hours_is_left_to_whoever_started_the_run() -> None:
    began = time.monotonic()
    async with client_of(answers(429, 200, **{"Retry-After": "7200"})) as client:
        with pytest.raises(SiteUnavailable) as caught:
            await client.page("/")
    assert caught.value.retry_after_seconds == 7200
    assert time.monotonic() - began < 5


async def test_a_silent_site_is_given_up_and_asked_again() -> None:
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(1.5)
        return web.Response(text="at last")

    async with client_of(answer, timeout_seconds=0.3) as client:
        assert await client.page("/") == "at last"
    assert asked == 2


async def test_a_body_shorter_than_its_length_is_asked_for_again() -> None:
    asked = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        body = b"half" if asked < 3 else b"half of it"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with SiteClient(url, first_wait_seconds=0.01) as client:
            assert await client.page("/") == "half of it"
    assert asked == 3


async def test_a_page_that_came_by_half_is_asked_for_again() -> None:
    def whole(body: bytes) -> str:
        if b"500" in body:
            raise PageCutError("half a page")
        return body.decode()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="answer 500" if next(bodies) < 2 else "answer 200")

    bodies = iter(range(10))
    async with client_of(answer) as client:
        assert await client.fetch("/", whole) == "answer 200"


async def test_a_host_that_cannot_be_reached_is_unavailable() -> None:
    async with SiteClient("http://127.0.0.1:9", first_wait_seconds=0.01, attempts=2) as client:
        with pytest.raises(SiteUnavailable, match=r"127\.0\.0\.1:9"):
            await client.page("/")


@pytest.mark.parametrize("url", ["", "myanimelist.net", "ftp://myanimelist.net", "https://", "http://["])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(SiteError, match="no address on the web: write one such as https") as caught:
        SiteClient(url)
    assert not caught.value.retryable


async def test_a_poster_with_no_address_that_can_be_asked_is_asked_once() -> None:
    async with SiteClient("http://127.0.0.1:9") as client:
        for url in ("ftp://127.0.0.1/1.jpg", "http://127.0.0.1:99999/1.jpg"):
            with pytest.raises(SiteError, match="no address on the web") as caught:
                await client.image(url)
            assert not caught.value.retryable


async def test_there_is_no_pace_on_loopback() -> None:
    began = time.monotonic()
    async with client_of(answers(200), requests_per_second=0.1) as client:
        for _ in range(5):
            await client.page("/")
    assert time.monotonic() - began < 5


async def test_only_so_many_requests_are_under_way_at_a_time() -> None:
    under_way, most = 0, 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return web.Response()

    async with client_of(answer, concurrency=3) as client:
        await asyncio.gather(*(client.page("/") for _ in range(20)))
    assert most == 3
