"""A response and what it means for the crawl."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from urllib.parse import urlsplit

from tasks.crawl.challenges import has_challenge_headers, is_challenge_page

ROBOTS = "/robots.txt"
_LONGEST_RETRY_AFTER_SECONDS = 7 * 86_400.0
_MOVED = {301, 302, 303, 307, 308}
_MISSING = {404, 410}
_TEMPORARY = {408, 425, 429}


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
        return f"{self.url} answered {self.status} {self.reason}"

    @property
    def verdict(self) -> Verdict:
        """What the response means. A challenge may have any status."""
        is_temporary = self.status in _TEMPORARY or self.status >= 500
        is_client_error = 400 <= self.status < 500 and not is_temporary
        if has_challenge_headers(self.headers) or (self.status != 200 and is_challenge_page(self.body)):
            return Verdict.CHALLENGE
        if self.status in _MISSING or (is_client_error and urlsplit(self.url).path == ROBOTS):
            return Verdict.MISSING  # any 4xx status means that there is no robots.txt (RFC 9309)
        if self.status == 403:
            return Verdict.REFUSED
        if is_temporary:
            return Verdict.TEMPORARY
        if self.status in _MOVED and "Location" in self.headers:
            return Verdict.MOVED
        if self.status == 304 and self.is_conditional:
            return Verdict.UNCHANGED
        return Verdict.CONTENT if self.status == 200 else Verdict.UNEXPECTED

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
            except (ValueError, TypeError):  # not a date, or a date without a time zone
                return None
        return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_SECONDS)
