"""Polite HTTP: robots.txt, a name and a contact, an even pace that gives way, and errors that say what happened."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
import tenacity
from protego import Protego

from serving.bundle.errors import AnimeGenreError
from tasks.crawl.addresses import check_contact, host_of, is_loopback
from tasks.crawl.challenges import names_a_challenge, shows_a_challenge
from tasks.crawl.ledger import HostMemory, Ledger
from tasks.crawl.pace import Pace, remembered
from tasks.crawl.traffic import Traffic
from tasks.errors import (
    BrokenImageError,
    DisallowedByRobots,
    NotOnSite,
    PageError,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
)

NAME = "anime-genre"
_ROBOTS = "/robots.txt"

# Beyond this a wait is not for us to sit out: the crawl stops, and goes on in a later run.
_LONGEST_WAIT_SECONDS = 120.0
_BLOCK_SECONDS = 6 * 3600.0  # blocks are said to last some hours
_LONGEST_BLOCK_SECONDS = 7 * 86_400.0  # whatever a Retry-After says
_LARGEST_BYTES = 20_000_000  # of an answer; the largest season page has 1.5 MB
_REDIRECTS = 3
_MOVED = {301, 302, 303, 307, 308}
_GONE = {404, 410}
_PASSING = {408, 425, 429}

Content = TypeVar("Content")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validators:
    """What an earlier answer said about itself, so that the host can say that nothing changed."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """A conditional request's (RFC 9110, section 13)."""
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


NOTHING_KNOWN = Validators()


@dataclass(frozen=True)
class Fetched(Generic[Content]):
    """What was made of an answer's body, and what to ask with the next time."""

    content: Content
    validators: Validators


@dataclass
class _Host:
    memory: HostMemory
    pace: Pace
    slots: asyncio.Semaphore
    robots: Protego | None = None
    reading_robots: asyncio.Lock = field(default_factory=asyncio.Lock)


class SiteClient:
    """A session with the site, or with the host of its posters.

        async with SiteClient(contact="me@example.org") as client:
            page = await client.fetch("https://myanimelist.net/anime/season/2010/fall", parse_season_page)

    Each host gets at most `requests_per_second`, over at most `connections`. Without a given pace it is
    `default_requests_per_second`, and no limit on loopback. `timeout_seconds` is the longest silence: while
    connecting, and between two pieces of an answer. What may pass is tried `attempts` times, after
    `first_wait_seconds`, twice that, four times that, ... or what Retry-After says. The `ledger` remembers which
    host refused us, and for how long it is left alone; requests are counted in `traffic`.
    """

    def __init__(
        self,
        *,
        contact: str | None = None,
        requests_per_second: float | None = None,
        default_requests_per_second: float = 1.0,
        connections: int = 1,
        timeout_seconds: float = 10,
        attempts: int = 4,
        first_wait_seconds: float = 0.5,
        ledger: Ledger | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._contact = contact
        self._requests_per_second = requests_per_second
        self._default_requests_per_second = default_requests_per_second
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=6 * timeout_seconds, sock_connect=timeout_seconds, sock_read=timeout_seconds
        )
        self._attempts = attempts
        self._first_wait_seconds = first_wait_seconds
        # Jitter, so that those who failed together do not return together.
        self._backoff = tenacity.wait_exponential(
            multiplier=first_wait_seconds, max=_LONGEST_WAIT_SECONDS
        ) + tenacity.wait_random(0, first_wait_seconds)
        self._ledger = ledger or Ledger()
        self.traffic = traffic or Traffic("Requests")
        self._hosts: dict[str, _Host] = {}
        # One thread: more would only wait for each other, since a page is parsed without giving up the interpreter.
        self._reading = ThreadPoolExecutor(1, "reading")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": user_agent(self._contact), "Accept-Language": "en"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()
        self._reading.shutdown()

    async def fetch(
        self, url: str, read: Callable[[bytes], Content], validators: Validators = NOTHING_KNOWN
    ) -> Fetched[Content] | None:
        """Download an address and read what came, in a thread; None where nothing changed since `validators`.

        Where `read` raises a retryable error (half a page, half an image) the download is tried again.

        Raises:
            NotOnSite: there is nothing at this address (404, 410).
            SiteBlocked: the host refuses us, now or since an earlier request.
            DisallowedByRobots: its robots.txt asks us not to.
            SiteUnavailable: no good answer in `attempts` attempts.
            SiteError: an answer that nobody expects, or an address that is none.
            ConfigurationError: the host is not on this machine, and there is no contact.
            AnimeGenreError: what `read` raises.
        """
        await self._robots(self._host(url), url)  # here, so that its retries and those of the address do not multiply
        return await self._fetch(url, read, validators)

    async def _fetch(
        self, url: str, read: Callable[[bytes], Content], validators: Validators, obeying: bool = True
    ) -> Fetched[Content] | None:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, AnimeGenreError) and error.retryable),
            wait=self._wait_seconds,
            stop=tenacity.stop_after_attempt(self._attempts),
            before_sleep=self._say_why,
            reraise=True,
        )
        loop = asyncio.get_running_loop()
        async for attempt in retrying:
            with attempt:
                answer = await self._ask(url, validators, obeying)
                if answer is None:
                    return None
                try:
                    return Fetched(await loop.run_in_executor(self._reading, read, answer.content), answer.validators)
                except (PageError, BrokenImageError):
                    if shows_a_challenge(answer.content):
                        self._stop(self._host(url), f"{url} answered with a captcha", _BLOCK_SECONDS)
                    raise
        raise AssertionError("tenacity either returns or raises")

    def _host(self, url: str) -> _Host:
        """An address's host, if it may be asked at all."""
        name = host_of(url)
        if name not in self._hosts:
            check_contact(url, self._contact)
            memory = self._ledger.hosts.get(name) or HostMemory(name)
            ceiling = remembered(memory.ceiling, time.time() - memory.learned)
            limit = self._requests_per_second
            if limit is None and not is_loopback(url):
                limit = self._default_requests_per_second
            pace = Pace(limit, ceiling)
            pace.hold(min(memory.held_until - time.time(), _LONGEST_WAIT_SECONDS))  # as an earlier answer asked
            self._hosts[name] = _Host(memory, pace, asyncio.Semaphore(self._connections))
        host = self._hosts[name]
        if host.memory.blocked_until > time.time():
            raise SiteBlocked(_blocked(host.memory))
        return host

    async def _robots(self, host: _Host, url: str) -> Protego:
        """The host's robots.txt, read before its first address; without one everything may be read (RFC 9309)."""
        async with host.reading_robots:
            if host.robots is None:
                try:
                    fetched = await self._fetch(urljoin(url, _ROBOTS), _text, NOTHING_KNOWN, obeying=False)
                except NotOnSite:
                    fetched = None
                host.robots = Protego.parse(fetched.content if fetched else "")
                delay_seconds = host.robots.crawl_delay(NAME)
                if delay_seconds:
                    host.pace.limit(1 / delay_seconds)
        return host.robots

    async def _ask(self, url: str, validators: Validators, obeying: bool) -> Fetched[bytes] | None:
        """One attempt, obeying robots.txt; where the address has moved, the new one is asked."""
        address = url
        for _ in range(1 + _REDIRECTS):
            host = self._host(address)
            if obeying and not (await self._robots(host, address)).can_fetch(address, NAME):
                raise DisallowedByRobots(f"The robots.txt of {host_of(address)} asks that {address} be not read.")
            answer = await self._ask_once(host, address, validators)
            if not isinstance(answer, str):
                return answer
            address = urljoin(address, answer)
        raise SiteError(f"{url} leads to another address more than {_REDIRECTS} times.")

    async def _ask_once(self, host: _Host, address: str, validators: Validators) -> Fetched[bytes] | str | None:
        """The answer, None where nothing changed, or the address to which it moved."""
        async with host.slots:
            asked_at = await host.pace.wait()
            self._host(address)  # which may have refused somebody else meanwhile
            self.traffic.requests += 1
            try:
                async with self._session.get(address, headers=validators.headers(), allow_redirects=False) as response:
                    body = await _body(response)
                    status, headers = response.status, response.headers
                    answered = f"{address} answered {status} {response.reason}"
            except aiohttp.InvalidURL as error:
                raise SiteError(f"{address} is no address on the web.") from error
            except TimeoutError as error:
                raise SiteUnavailable(f"{address} did not answer in time.", "no answer in time") from error
            except (aiohttp.ClientError, OSError) as error:
                raise SiteUnavailable(
                    f"{address} could not be reached, or not be read to its end: {error}.", "connection lost"
                ) from error
        retry_after_seconds = _retry_after_seconds(headers.get("Retry-After"))
        passing = status in _PASSING or status >= 500
        if names_a_challenge(headers) or (status != 200 and shows_a_challenge(body)):
            self._stop(host, f"{answered}, with a captcha", _BLOCK_SECONDS)
        if status in _GONE or (400 <= status < 500 and not passing and urlsplit(address).path == _ROBOTS):
            host.pace.speed_up()
            raise NotOnSite(f"{answered}: the site has nothing there.")  # so says RFC 9309 of any 4xx for robots.txt
        if status == 403:
            self._stop(host, answered, max(retry_after_seconds or 0, _BLOCK_SECONDS), address)
        if passing and retry_after_seconds and retry_after_seconds > _LONGEST_WAIT_SECONDS:
            self._stop(host, answered, retry_after_seconds)
        if status in (429, 503):
            self._slow_down(host, asked_at, status == 429, retry_after_seconds)
        if passing:
            raise SiteUnavailable(f"{answered}.", f"{status} {response.reason}", retry_after_seconds)
        if status in _MOVED and "Location" in headers:
            return str(headers["Location"])
        if status != 200 and not (status == 304 and validators != NOTHING_KNOWN):
            raise SiteError(f"{answered}, which was not expected.")
        host.pace.speed_up()
        if status == 304:
            return None
        return Fetched(body, Validators(headers.get("ETag"), headers.get("Last-Modified")))

    def _slow_down(self, host: _Host, asked_at: float, too_fast: bool, retry_after_seconds: float | None) -> None:
        held_seconds, ceiling = host.pace.held_seconds, host.pace.ceiling
        host.pace.slow_down(asked_at, max(retry_after_seconds or 0, self._first_wait_seconds), too_fast)
        self.traffic.held_seconds += host.pace.held_seconds - held_seconds
        if retry_after_seconds:
            self._remember(host, replace(host.memory, held_until=time.time() + retry_after_seconds))
        if host.pace.ceiling < ceiling:
            self._remember(host, replace(host.memory, ceiling=host.pace.ceiling, learned=time.time()))
            logger.info(
                "%s says that we ask too often: at most %.2g requests a second from now on.",
                host.memory.host,
                host.pace.ceiling,
            )

    def _stop(self, host: _Host, answered: str, seconds: float, address: str | None = None) -> NoReturn:
        """The host does not want us (at `address`): nothing is asked of it for a while, in this run and the next."""
        self._remember(host, replace(host.memory, blocked_until=time.time() + seconds, reason=answered))
        raise SiteBlocked(_blocked(host.memory), address)

    def _remember(self, host: _Host, memory: HostMemory) -> None:
        host.memory = memory
        self._ledger.hosts.put(memory)

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_seconds = (error.retry_after_seconds or 0) if isinstance(error, SiteUnavailable) else 0
        return max(min(asked_seconds, _LONGEST_WAIT_SECONDS), self._backoff(state))

    def _say_why(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.traffic.retries[error.why if isinstance(error, SiteUnavailable) else "came damaged or by half"] += 1
        logger.debug("%s Trying again in %.1f s.", error, state.upcoming_sleep)


def user_agent(contact: str | None = None) -> str:
    """Who asks: the project's name and version, and how to reach who runs it."""
    try:
        name = f"{NAME}/{version(NAME)}"
    except PackageNotFoundError:  # run from its folder, not installed
        name = NAME
    return f"{name} (+{contact})" if contact else name


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, if it is of a sensible size."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_BYTES:
            raise SiteError(f"{response.url} answered with more than {_LARGEST_BYTES / 1e6:.0f} MB.")
    return b"".join(pieces)


def _text(body: bytes) -> str:
    return body.decode("utf-8", errors="replace")


def _blocked(memory: HostMemory) -> str:
    moment = datetime.fromtimestamp(memory.blocked_until, UTC)
    return (
        f"The site refuses us: {memory.reason}. Nothing is asked of {memory.host} before {moment:%Y-%m-%d %H:%M} UTC; "
        "try again then, and slower."
    )


def _retry_after_seconds(header: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date (RFC 9110, section 10.2.3); a week at most."""
    if header is None:
        return None
    if header.strip().isdecimal():
        seconds = float(header)
    else:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a time zone
            return None
    return min(max(0.0, seconds), _LONGEST_BLOCK_SECONDS)
