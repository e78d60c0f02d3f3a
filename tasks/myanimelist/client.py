"""Polite HTTP: one request a second to the site, retries with patience, and errors that say what happened."""

import asyncio
import http.client
import ipaddress
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urljoin, urlsplit

import aiohttp
import tenacity

from serving.function.errors import AnimeGenreError
from tasks.errors import NotOnSite, SiteBlocked, SiteError, SiteUnavailable
from tasks.myanimelist.concurrency import Pace

SITE_URL = "https://myanimelist.net"
# The pace that the site tolerates; people who went faster were blocked for hours.
REQUESTS_PER_SECOND = 1.0

# Beyond this a wait is not for us to sit out: whoever started the run tries again later.
_LONGEST_WAIT_SECONDS = 120.0
_GONE = {404, 410}
_PASSING = {408, 425, 429}

Content = TypeVar("Content")
logger = logging.getLogger(__name__)


class SiteClient:
    """A session with the site and the host of its posters.

        async with SiteClient("https://myanimelist.net") as client:
            html = await client.page("/anime/season/2010/fall")

    Requests to `site_url`'s host are spaced to `requests_per_second` (None or 0: no limit, nor is there one
    on loopback); other hosts have no pace of their own. At most `concurrency` requests are under way at a
    time. `timeout_seconds` is the longest silence: while connecting, and between two pieces of an answer.
    What may pass is tried `attempts` times, after `first_wait_seconds`, twice that, four times that, ... or
    what Retry-After says.

    Raises:
        SiteError: `site_url` is no address on the web.
    """

    def __init__(
        self,
        site_url: str = SITE_URL,
        *,
        requests_per_second: float | None = REQUESTS_PER_SECOND,
        concurrency: int = 8,
        timeout_seconds: float = 10,
        attempts: int = 4,
        first_wait_seconds: float = 0.5,
    ) -> None:
        self._site_url = site_url
        self._paces = {_host(site_url): Pace(None if _is_loopback(site_url) else requests_per_second)}
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_seconds, sock_read=timeout_seconds)
        self._attempts = attempts
        # Jitter, so that those who failed together do not return together.
        self._backoff = tenacity.wait_exponential(
            multiplier=first_wait_seconds, max=_LONGEST_WAIT_SECONDS
        ) + tenacity.wait_random(0, first_wait_seconds)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, headers={"User-Agent": user_agent(), "Accept-Language": "en"}
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def page(self, path: str) -> str:
        """The HTML at a path of the site; raises as `fetch`."""
        return await self.fetch(path, lambda body: body.decode("utf-8", errors="replace"))

    async def image(self, url: str) -> bytes:
        """The bytes at an image's address, as they came; raises as `fetch`."""
        return await self.fetch(url, bytes)

    async def fetch(self, url: str, read: Callable[[bytes], Content]) -> Content:
        """Download an address (or a path of the site) and read what came, in a thread.

        Where `read` raises a retryable error (half a page, half an image) the download is tried again.

        Raises:
            NotOnSite: there is nothing at this address (404, 410).
            SiteBlocked: the site refuses us (403).
            SiteUnavailable: no good answer in `attempts` attempts, or the site wants a longer silence.
            SiteError: an answer that nobody expects.
            AnimeGenreError: what `read` raises.
        """
        address = urljoin(self._site_url, url) if url.startswith("/") else url
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_worth_another_try),
            wait=self._wait_seconds,
            stop=tenacity.stop_after_attempt(self._attempts),
            before_sleep=_say_why,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                body = await self._get(address)
                return await asyncio.to_thread(read, body)
        raise AssertionError("tenacity either returns or raises")

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(_asked_seconds(error), self._backoff(state))

    async def _get(self, address: str) -> bytes:
        """One attempt."""
        pace = self._paces.setdefault(_host(address), Pace(None))
        async with self._slots:
            await pace.wait()
            try:
                async with self._session.get(address) as response:
                    body = await response.read()
                    status, reason = response.status, response.reason
                    retry_after_seconds = _retry_after_seconds(response.headers.get("Retry-After"))
            except aiohttp.InvalidURL as error:
                raise SiteError(f"{address} is no address on the web.") from error
            except TimeoutError as error:
                raise SiteUnavailable(f"{address} did not answer in time.") from error
            except (aiohttp.ClientError, OSError) as error:
                raise SiteUnavailable(f"{address} could not be reached, or not be read to its end: {error}.") from error
        answered = f"{address} answered {status} {reason}"
        if status in _PASSING or status >= 500:
            if status == 429:  # meant for all that we ask, where a 503 may be about this address alone
                pace.hold(min(retry_after_seconds or 0, _LONGEST_WAIT_SECONDS))
            raise SiteUnavailable(f"{answered}.", retry_after_seconds)
        if status in _GONE:
            raise NotOnSite(f"{answered}: the site has nothing there.")
        if status == 403:
            raise SiteBlocked(f"{answered}: the site refuses us; wait some hours and go slower.")
        if status != 200:
            raise SiteError(f"{answered}, which was not expected.")
        return body


def check_reachable(site_url: str, timeout_seconds: float = 10) -> None:
    """Ask a site once whether it is there; whatever it answers, it is.

    Raises:
        SiteUnavailable: nobody answers at this address.
    """
    request = urllib.request.Request(urljoin(site_url, "/robots.txt"), headers={"User-Agent": user_agent()})
    try:
        urllib.request.urlopen(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, http.client.HTTPException) as error:
        raise SiteUnavailable(f"The site {site_url} cannot be reached: {getattr(error, 'reason', error)}.") from error


def user_agent() -> str:
    """Who asks: the project's name and version."""
    try:
        return f"anime-genre/{version('anime-genre')}"
    except PackageNotFoundError:  # run from its folder, not installed
        return "anime-genre"


def _host(url: str) -> str:
    """Host and port of an address; raises SiteError for what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:  # an unfinished IPv6 address
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SiteError(f"{url!r} is no address on the web: write one such as {SITE_URL}.")
    return parts.netloc


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _worth_another_try(error: BaseException) -> bool:
    if not isinstance(error, AnimeGenreError) or not error.retryable:
        return False
    return _asked_seconds(error) <= _LONGEST_WAIT_SECONDS


def _asked_seconds(error: BaseException | None) -> float:
    """How long the host asked to be left alone."""
    return (error.retry_after_seconds or 0) if isinstance(error, SiteUnavailable) else 0


def _say_why(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.info("%s Trying again in %.1f s.", error, state.upcoming_sleep)


def _retry_after_seconds(header: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date (RFC 9110, section 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return None
