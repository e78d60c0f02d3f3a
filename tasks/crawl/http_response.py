"""A response and what it means for the crawl."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from urllib.parse import urlsplit

from tasks.crawl.challenges import asks_for_proof, denies_access, has_captcha, has_challenge_headers
from tasks.errors import excerpt, excerpt_of_url

ROBOTS = "/robots.txt"
_LONGEST_RETRY_AFTER_SECONDS = 7 * 86_400.0
_MOVED = {301, 302, 303, 307, 308}
_MISSING = {404, 410}
_TEMPORARY = {408, 425, 429}
_CAPTCHA = {200, 403, 429, 503}  # with other statuses, a captcha is that of a form
# S3, CloudFront and others refuse a missing object to those who may not list the bucket.
_DENIED_KEY = re.compile(rb"<Code>\s*(?:AccessDenied|AllAccessDisabled|NoSuchKey)\s*</Code>")
_SEARCHED_BYTES = 4096


class Verdict(Enum):
    """What a response means for the crawl."""

    CONTENT = auto()
    UNCHANGED = auto()
    MOVED = auto()
    MISSING = auto()
    TEMPORARY = auto()
    REFUSED = auto()
    CHALLENGE = auto()
    UNEXPECTED = auto()


@dataclass(frozen=True)
class Response:
    """A complete response. `requested_at` is a time of the event loop's clock."""

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    requested_at: float
    is_conditional: bool

    def __str__(self) -> str:
        return f"{excerpt_of_url(self.url)} answered {self.status_line}"

    @property
    def status_line(self) -> str:
        """Status and reason, such as "404 Not Found"."""
        return f"{self.status} {excerpt(self.reason)}".rstrip()

    @property
    def denies_key(self) -> bool:
        """Whether this is an object store's response for an object that does not exist, with status 403."""
        return self.status == 403 and bool(_DENIED_KEY.search(self.body[:_SEARCHED_BYTES]))

    @property
    def is_challenge(self) -> bool:
        """Whether the body is a challenge or denies access. Use it only for bodies that are not the expected page."""
        # "Access denied" with status 403 is a refusal of this address.
        return asks_for_proof(self.body) or (self.status != 403 and denies_access(self.body))

    @property
    def has_captcha(self) -> bool:
        """Whether the body shows a captcha in place of the expected page, or has a form with one."""
        return self.status in _CAPTCHA and has_captcha(self.body)

    @property
    def objection(self) -> str:
        """A challenge, a captcha or a denial in words."""
        asks = has_challenge_headers(self.headers) or asks_for_proof(self.body) or has_captcha(self.body)
        return f"{self}, with a {'captcha' if asks else 'page that denies access'}"

    @property
    def verdict(self) -> Verdict:
        """What the response means. A challenge may have any status but those of a missing page."""
        if has_challenge_headers(self.headers):
            return Verdict.CHALLENGE
        if self.status in _MISSING:
            return Verdict.MISSING
        if self.status != 200 and self.is_challenge:
            return Verdict.CHALLENGE
        if self.status in _TEMPORARY or self.status >= 500:
            return Verdict.TEMPORARY
        if self.status in _MOVED and "Location" in self.headers:
            return Verdict.MOVED
        if self.status == 304 and self.is_conditional:
            return Verdict.UNCHANGED
        if self.status == 200:
            return Verdict.CONTENT
        if urlsplit(self.url).path == ROBOTS:
            return Verdict.MISSING  # any 4xx status means that there is no robots.txt (RFC 9309)
        return Verdict.REFUSED if self.status == 403 else Verdict.UNEXPECTED

    @property
    def retry_after_seconds(self) -> float | None:
        """The wait that the Retry-After header asks for, at most a week; None if it has none (RFC 9110, 10.2.3)."""
        header = self.headers.get("Retry-After")
        if header is None:
            return None
        if header.strip().isdecimal():
            seconds = float(header)
        else:
            try:
                seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError, OverflowError):  # not a date, or a date without a time zone
                return None
        return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_SECONDS)
