"""Errors of collecting.

SiteError                   an error of a site, such as an unexpected response
├── SiteUnavailable             5xx, 429, timeouts, failed connections; a retry may help
│   └── RobotsUnavailable           a host's robots.txt cannot be had, after all attempts
├── SiteBusy                    another run is crawling the site; a later retry may help
├── SiteBlocked                 the site refuses us (403, a captcha, a wait of hours); says when to run again
├── DisallowedByRobots          the site's robots.txt disallows the URL
├── RedirectError               a URL redirects too often, or to an invalid address
├── NotOnSite                   the site has nothing at the URL (404, 410)
│   └── AddressRefused              the site refuses this URL (403) to a client that tolerates it
├── UnwantedRedirect            a URL redirects to an address that the caller does not want
├── ResponseTooLarge            a response has more bytes than the client reads
├── NotAnImageError             the site sent a web page or other text instead of an image
├── BrokenImageError            the bytes do not decode to a complete image; a retry may help
├── UnusableImageError          the image's size or shape is not that of a poster
├── PageError                   a page cannot be read
│   └── PageLayoutError             a page has an unknown layout; says what is missing
│       └── PageCutError                a page ends too early; a retry may help
├── SeasonError                 a season does not exist, or the site does not have it
└── EmptyCatalogueError         the season pages contain no title
CatalogueError              a catalogue.csv cannot be read
DriftError                  a new catalogue differs too much from the last good one
KeptPageError               a kept page is missing or damaged
LedgerError                 the ledger of requests cannot be used
StalePosterError            another run has replaced posters

Messages quote what a site sent only through `excerpt`.
"""

from typing import ClassVar

from serving.bundle.errors import AnimeGenreError
from serving.bundle.redaction import redacted


def excerpt(text: object, longest: int = 80) -> str:
    """The beginning of a text from elsewhere for a message: one line of at most `longest` printable characters."""
    words = redacted(str(text)[: 100 * longest]).encode("utf-8", "replace").decode().split()
    line = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def excerpt_of_url(url: str) -> str:
    """A URL for a message, which may also contain an `excerpt`; together they are at most 200 characters long."""
    return excerpt(url, 120)


class SiteError(AnimeGenreError):
    """An error of a site."""


class SiteUnavailable(SiteError):
    """The site does not respond, or reports a temporary failure. A retry may help.

    `retry_after_seconds` is the wait that the site asked for, None if it named none. `why` names the failure in a few
    words that are the same for all URLs.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.why = why
        self.retry_after_seconds = retry_after_seconds


class RobotsUnavailable(SiteUnavailable):
    """A host's robots.txt cannot be had, after all attempts. More of them within the same request do not help."""


class SiteBusy(SiteError):
    """Another run is crawling the site. A later retry may help."""

    retryable: ClassVar[bool] = True


class SiteBlocked(SiteError):
    """The site refuses us, and more requests would make it worse. The message says when to run again."""


class DisallowedByRobots(SiteError):
    """The site's robots.txt disallows the URL."""


class RedirectError(SiteError):
    """A URL redirects too often, or to an address that is not a URL."""


class NotOnSite(SiteError):
    """The site has nothing at the URL."""


class AddressRefused(NotOnSite):
    """The site refuses this URL, and maybe no other one."""


class UnwantedRedirect(SiteError):
    """A URL redirects to an address that the caller does not want."""


class ResponseTooLarge(SiteError):
    """A response has more bytes than the client reads."""


class NotAnImageError(SiteError):
    """The site sent a web page or other text instead of an image. A second download would be the same."""


class BrokenImageError(SiteError):
    """The bytes do not decode to a complete image. A second download may be complete."""

    retryable: ClassVar[bool] = True


class UnusableImageError(SiteError):
    """The image is intact, but its size or shape is not that of a poster."""


class PageError(SiteError):
    """A page cannot be read."""


class PageLayoutError(PageError):
    """A page has an unknown layout. The message says what is missing."""


class PageCutError(PageLayoutError):
    """A page ends too early. A second download may be complete."""

    retryable: ClassVar[bool] = True


class SeasonError(SiteError):
    """A season does not exist, or the site does not have it."""


class EmptyCatalogueError(SiteError):
    """The season pages contain no title."""


class CatalogueError(AnimeGenreError):
    """A catalogue.csv cannot be read."""


class DriftError(AnimeGenreError):
    """A new catalogue differs too much from the last good one. Its details are the table of differences."""


class KeptPageError(AnimeGenreError):
    """A kept page is missing or damaged."""


class LedgerError(AnimeGenreError):
    """The ledger of requests cannot be used."""


class StalePosterError(AnimeGenreError):
    """Another run has replaced posters in the meantime."""
