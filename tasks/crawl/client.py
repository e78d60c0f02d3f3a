"""A polite HTTP client: it obeys robots.txt, says who it is, keeps an even pace and slows down when a host objects."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar
from urllib.parse import urljoin

import aiohttp
import tenacity
from protego import Protego

from infra.errors import NotFound
from infra.loopback import is_loopback
from serving.bundle.errors import AnimeGenreError
from tasks.crawl.addresses import check_contact, host_of, is_in_bucket, joined
from tasks.crawl.api_access import ApiAccess
from tasks.crawl.content_encoding import ACCEPTED, decoded
from tasks.crawl.hosts import LONGEST_WAIT_SECONDS, Host
from tasks.crawl.http_response import ROBOTS, Response, Verdict
from tasks.crawl.ledger import Ledger
from tasks.crawl.traffic import Traffic
from tasks.errors import (
    AddressRefused,
    BrokenImageError,
    DisallowedByRobots,
    NotAnImageError,
    NotOnSite,
    PageError,
    RedirectError,
    ResponseTooLarge,
    RobotsUnavailable,
    SiteError,
    SiteUnavailable,
    UnwantedRedirect,
    excerpt,
    excerpt_of_url,
)

NAME = "anime-genre"
ROBOTS_TXT = "The robots.txt of"  # how the message of DisallowedByRobots begins, also of earlier versions

_BLOCK_SECONDS = 6 * 3600.0  # blocks are reported to last some hours
_LARGEST_BYTES = 20_000_000  # of a response; the largest season page has 1.5 MB
# A response may take some timeouts, and longer if it is large. So a server cannot hold the crawl with single bytes.
_TIMEOUTS_PER_RESPONSE, _LEAST_BYTES_PER_SECOND = 6, 20_000
_REDIRECTS = 3
# Policies and cookies of large sites exceed the defaults of aiohttp, 8 KB and 128.
_LARGEST_HEADER_BYTES, _MOST_HEADERS = 131_072, 1000
_LONGEST_VALIDATOR = 1000  # characters

Content = TypeVar("Content")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validators:
    """The ETag and Last-Modified headers of an earlier response."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """The headers of a conditional request (RFC 9110, section 13)."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


NO_VALIDATORS = Validators()


@dataclass(frozen=True)
class Fetched(Generic[Content]):
    """The parsed body of a response, its URL after redirects, and the validators for the next request."""

    content: Content
    validators: Validators
    url: str


@dataclass(frozen=True)
class _Request:
    """What to fetch and how (see `SiteClient.fetch`). `check_robots` is False for robots.txt itself."""

    url: str
    validators: Validators = NO_VALIDATORS
    check_robots: bool = False
    tolerates_refusals: bool = False
    is_unwanted: Callable[[str], bool] | None = None


class SiteClient:
    """A session with a site, or with the host of its posters.

        async with SiteClient(contact="me@example.org") as client:
            page = await client.fetch("https://example.org/anime/1", bytes.decode)

    Each host gets at most `requests_per_second` over at most `connections`. If that is None, the limit is
    `default_requests_per_second`, and loopback hosts have no limit. `timeout_seconds` limits the time to connect and
    the time between two parts of a response. A whole response may take six times as long, and 50 seconds more per
    megabyte. Temporary failures are retried up to `attempts` times in total, after
    `first_wait_seconds`, then twice that, and so on, or after the time in Retry-After. The `ledger` remembers which
    hosts refused us and their pace. `traffic` counts the requests. `access` is the key of an official API; only
    requests to the API carry it. `read_object` reads the objects of buckets (gs:// addresses), which have no pace; it
    raises NotFound.
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
        access: ApiAccess | None = None,
        read_object: Callable[[str], bytes] | None = None,
    ) -> None:
        self._contact = contact
        self._requests_per_second = requests_per_second
        self._default_requests_per_second = default_requests_per_second
        self._connections = connections
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._first_wait_seconds = first_wait_seconds
        # The random part keeps requests that failed together from being retried together.
        self._backoff = tenacity.wait_exponential(
            multiplier=first_wait_seconds, max=LONGEST_WAIT_SECONDS
        ) + tenacity.wait_random(0, first_wait_seconds)
        self._ledger = ledger or Ledger()
        self.traffic = traffic or Traffic("Requests")
        self._access = access
        self._read_object = read_object
        self._hosts: dict[str, Host] = {}
        # More threads would only wait for each other, since parsing a page holds the interpreter lock.
        self._parser = ThreadPoolExecutor(1, "parser")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=self._connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(sock_connect=self._timeout_seconds, sock_read=self._timeout_seconds),
            headers={
                "User-Agent": user_agent(self._contact),
                "Accept-Language": "en",
                "Accept-Encoding": ACCEPTED,
            },
            auto_decompress=False,
            max_line_size=_LARGEST_HEADER_BYTES,
            max_field_size=_LARGEST_HEADER_BYTES,
            max_headers=_MOST_HEADERS,
        )
        # Otherwise aiohttp repeats requests after a disconnection, at once and without the pace. Retries are ours.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()
        self._parser.shutdown()

    def block(self, url: str, reason: str) -> NoReturn:
        """Send no request to the host of a URL for some hours, in this run and later ones.

        Raises:
            SiteBlocked: always. It gives the reason and the time.
        """
        self._host(url).block(reason, _BLOCK_SECONDS)

    def is_blocked(self, url: str) -> bool:
        """Whether the host of a URL has refused us, so that it gets no request now."""
        host = self._hosts.get(host_of(url))
        return host is not None and host.is_blocked

    async def fetch(
        self,
        url: str,
        parse: Callable[[bytes], Content],
        validators: Validators = NO_VALIDATORS,
        *,
        tolerates_refusals: bool = False,
        is_unwanted: Callable[[str], bool] | None = None,
    ) -> Fetched[Content] | None:
        """Download a URL and parse the body in a thread. Returns None if nothing changed since `validators`.

        If `parse` raises a retryable error (half a page, half an image), the download is retried. A response with
        status 403, or with a captcha in place of the page, blocks the host, unless `tolerates_refusals` is set: hosts
        of images refuse single ones, on pages whose forms may have a captcha, so the caller decides (see `block`).
        Redirects to URLs for which `is_unwanted` is true are not followed.

        Raises:
            NotOnSite: the site has nothing at this URL (404, 410).
            AddressRefused: the site refuses this URL (403), and `tolerates_refusals` is set.
            UnwantedRedirect: the URL redirects to an unwanted one.
            RedirectError: the URL redirects too often, or to an address that is not a URL.
            SiteBlocked: the host refuses us, now or since an earlier request.
            DisallowedByRobots: the host's robots.txt disallows the URL.
            SiteUnavailable: all attempts failed.
            ResponseTooLarge: the response has more than 20 MB.
            SiteError: an unexpected response, or an invalid URL.
            ConfigurationError: the host is not on this machine and there is no contact.
            AnimeGenreError: whatever `parse` raises.
        """
        if is_in_bucket(url):
            return await self._fetch_object(url, parse)
        await self._robots(self._host(url), url)  # not within the retries below, which would multiply its own
        return await self._fetch(_Request(url, validators, True, tolerates_refusals, is_unwanted), parse)

    async def _fetch_object(self, address: str, parse: Callable[[bytes], Content]) -> Fetched[Content]:
        """Read and parse an object of a bucket."""
        assert self._read_object is not None
        self.traffic.requests += 1
        try:
            body = await asyncio.to_thread(self._read_object, address)
        except NotFound as error:
            raise NotOnSite(f"The bucket has no object {address}.") from error
        content = await asyncio.get_running_loop().run_in_executor(self._parser, parse, body)
        return Fetched(content, NO_VALIDATORS, address)

    async def _fetch(self, request: _Request, parse: Callable[[bytes], Content]) -> Fetched[Content] | None:
        """Download and parse a URL with retries."""

        def may_help(error: BaseException) -> bool:
            return isinstance(error, AnimeGenreError) and error.retryable and not isinstance(error, RobotsUnavailable)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(may_help),
            wait=self._wait_seconds,
            stop=tenacity.stop_after_attempt(self._attempts),
            before_sleep=self._count_retry,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                response = await self._follow(request)
                if response.verdict is Verdict.UNCHANGED:
                    return None
                content = await self._parse(response, parse, request.tolerates_refusals)
                return Fetched(content, _validators(response.headers), response.url)
        raise AssertionError("tenacity either returns or raises")

    async def _parse(self, response: Response, parse: Callable[[bytes], Content], tolerates_refusals: bool) -> Content:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._parser, parse, response.body)
        except (PageError, BrokenImageError, NotAnImageError):
            if response.is_challenge or (response.has_captcha and not tolerates_refusals):
                self.block(response.url, response.objection)
            raise

    def _host(self, url: str) -> Host:
        """The host of a URL; raises SiteBlocked if it blocks us, ConfigurationError if a contact is needed."""
        name = host_of(url)
        if name not in self._hosts:
            check_contact(url, self._contact)
            limit = self._requests_per_second
            if limit is None and not is_loopback(url):
                limit = self._default_requests_per_second
            self._hosts[name] = Host(name, self._ledger, limit, self._connections)
        host = self._hosts[name]
        host.check_blocked()
        return host

    async def _robots(self, host: Host, url: str) -> Protego:
        """The host's robots.txt, which is read before its first page. A host without one allows all (RFC 9309)."""
        async with host.robots_lock:
            if host.robots is None:
                try:
                    fetched = await self._fetch(_Request(urljoin(url, ROBOTS)), _text)
                except (NotOnSite, RedirectError):
                    fetched = None
                except SiteUnavailable as error:
                    raise RobotsUnavailable(error.message, error.why, error.retry_after_seconds) from error
                host.robots = Protego.parse(fetched.content if fetched else "")
                delay_seconds = host.robots.crawl_delay(NAME)
                if delay_seconds:
                    host.pace.limit(1 / delay_seconds)
        return host.robots

    async def _follow(self, request: _Request) -> Response:
        """The response with the content of a URL, or the response that it is unchanged, after redirects."""
        target = request.url
        for _ in range(1 + _REDIRECTS):
            host = self._host(target)
            if request.check_robots and not (await self._robots(host, target)).can_fetch(target, NAME):
                raise DisallowedByRobots(f"{ROBOTS_TXT} {excerpt(host.name)} disallows {excerpt_of_url(target)}.")
            response = await self._send(host, target, request.validators)
            self._react(host, response, request.tolerates_refusals)
            if response.verdict is not Verdict.MOVED:
                return response
            target = _redirected(response)
            if request.is_unwanted and request.is_unwanted(target):
                raise UnwantedRedirect(f"{excerpt_of_url(request.url)} redirects to {excerpt(target)}.")
        raise RedirectError(f"{excerpt_of_url(request.url)} redirects more than {_REDIRECTS} times.")

    async def _send(self, host: Host, url: str, validators: Validators) -> Response:
        """Send one request when it is its turn."""
        async with host.slots:
            requested_at = await host.pace.wait()
            host.check_blocked()  # another response may have blocked us while this request waited
            self.traffic.requests += 1
            conditions, access = validators.headers(), self._access_to(url)
            headers = conditions | access.headers() if access else conditions
            hide: Callable[[str], str] = access.hide if access else str
            try:
                async with (
                    asyncio.timeout(_TIMEOUTS_PER_RESPONSE * self._timeout_seconds) as limit,
                    self._session.get(url, headers=headers, allow_redirects=False) as raw_response,
                ):
                    raw, reason = await _body(raw_response, limit), str(raw_response.reason)
                status, received = raw_response.status, raw_response.headers
                body = await asyncio.to_thread(decoded, raw, received.get("Content-Encoding", ""), url, _LARGEST_BYTES)
                response = Response(url, status, reason, received, body, requested_at, bool(conditions))
                return access.hide_in(response) if access else response
            except (aiohttp.InvalidURL, UnicodeError) as error:
                raise SiteError(f"{excerpt_of_url(url)} is not a valid URL.") from error
            except TimeoutError as error:
                raise SiteUnavailable(f"The request for {excerpt_of_url(url)} timed out.", "timeout") from error
            except aiohttp.ClientResponseError as error:
                what = excerpt(hide(_violation(error)))
                raise SiteUnavailable(f"The response of {excerpt_of_url(url)} {what}.", "invalid response") from error
            except (aiohttp.ClientError, OSError) as error:
                why = excerpt(hide(_why(error)), 120)
                raise SiteUnavailable(
                    f"The connection for {excerpt_of_url(url)} failed: {why}.", "connection failed"
                ) from error

    def _access_to(self, url: str) -> ApiAccess | None:
        """The key for a URL; None if the URL is not the API's."""
        return self._access if self._access and self._access.covers(url) else None

    def _react(self, host: Host, response: Response, tolerates_refusals: bool) -> None:
        """Adapt the pace to a response. Raises an error unless it is content, unchanged or moved."""
        if access := self._access_to(response.url):
            access.check(response)
        retry_after_seconds = response.retry_after_seconds
        match response.verdict:
            case Verdict.CHALLENGE:
                host.block(response.objection, _BLOCK_SECONDS)
            case Verdict.REFUSED | Verdict.TEMPORARY if response.has_captcha and not tolerates_refusals:
                host.block(response.objection, _BLOCK_SECONDS)
            case Verdict.REFUSED:
                if tolerates_refusals and response.denies_key:
                    host.pace.speed_up()
                    raise NotOnSite(f"{response} (access denied): the site has nothing there.")
                if tolerates_refusals and not retry_after_seconds:
                    raise AddressRefused(f"{response}: the site refuses this address.")
                host.block(str(response), max(retry_after_seconds or 0, _BLOCK_SECONDS))
            case Verdict.TEMPORARY:
                if retry_after_seconds and retry_after_seconds > LONGEST_WAIT_SECONDS:
                    host.block(str(response), retry_after_seconds)
                if response.status in (429, 503):
                    self.traffic.held_seconds += host.slow_down(response, self._first_wait_seconds)
                raise SiteUnavailable(f"{response}.", response.status_line, retry_after_seconds)
            case Verdict.UNEXPECTED:
                raise SiteError(f"{response}, which is not expected.")
            case Verdict.MISSING:
                host.pace.speed_up()
                # Poster sets store this sentence, and their hash depends on it.
                raise NotOnSite(f"{response}: the site has nothing there.")
            case Verdict.CONTENT | Verdict.UNCHANGED:
                host.pace.speed_up()

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after_seconds = (error.retry_after_seconds or 0) if isinstance(error, SiteUnavailable) else 0
        return max(min(retry_after_seconds, LONGEST_WAIT_SECONDS), self._backoff(state))

    def _count_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.traffic.retries[error.why if isinstance(error, SiteUnavailable) else "damaged or incomplete"] += 1
        logger.debug("%s Retrying in %.1f s.", error, state.upcoming_sleep)


def user_agent(contact: str | None) -> str:
    """The User-Agent header: the project's name and version, and the contact."""
    name = f"{NAME}/{version(NAME)}"
    return f"{name} (+{contact})" if contact else name


async def _body(response: aiohttp.ClientResponse, limit: asyncio.Timeout) -> bytes:
    """The whole body, whose parts extend the time limit; raises ResponseTooLarge if it is too large."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        limit.reschedule((limit.when() or 0) + len(part) / _LEAST_BYTES_PER_SECOND)
        if size > _LARGEST_BYTES:
            url = excerpt_of_url(str(response.url))
            raise ResponseTooLarge(f"The response of {url} is larger than {_LARGEST_BYTES / 1e6:.0f} MB.")
    return b"".join(parts)


def _validators(headers: Mapping[str, str]) -> Validators:
    """The validators of a response, without those that cannot be sent back."""

    def usable(name: str) -> str | None:
        value = headers.get(name, "")
        return value if value and value.isascii() and len(value) <= _LONGEST_VALIDATOR else None

    return Validators(usable("ETag"), usable("Last-Modified"))


def _redirected(response: Response) -> str:
    """The URL that a response redirects to; raises RedirectError if it is invalid."""
    location = response.headers["Location"]
    try:
        target = joined(response.url, location)
        host_of(target)
    except (ValueError, SiteError) as error:
        raise RedirectError(
            f"{excerpt_of_url(response.url)} redirects to {excerpt(location)!r}, which is not a valid URL."
        ) from error
    return target


def _violation(error: aiohttp.ClientResponseError) -> str:
    """What is wrong with a response that is not valid HTTP. The error's own text may contain the whole body."""
    what = error.message.split("\n")[0].rstrip(":")
    if what.startswith("Data after"):
        return "is longer than its Content-Length"
    if "Expected HTTP/" in error.message:
        return "is not HTTP, or is longer than its Content-Length"
    return f"is not valid HTTP: {what}"


def _why(error: Exception) -> str:
    """Why a connection failed."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server disconnected"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the body is shorter than announced, or damaged"
    return str(error)


def _text(body: bytes) -> str:
    return body.decode("utf-8-sig", errors="replace")
