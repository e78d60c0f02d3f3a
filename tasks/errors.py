"""What goes wrong while the site is read.

SiteError                   a site or its answer; also an answer that nobody expects
├── SiteUnavailable             5xx, 429, timeouts, lost connections; trying again may help
├── SiteBusy                    another run is asking the site; trying again later may help
├── SiteBlocked                 the site refuses us (403, a captcha, a wait of hours); says when to ask again
├── DisallowedByRobots          the site's robots.txt asks that this address be not read
├── NotOnSite                   the site has nothing at that address (404, 410)
├── BrokenImageError            bytes that do not decode to a whole image; a second download may be whole
├── UnusableImageError          a whole image that can be no poster: of an absurd size
├── PageError                   a page that cannot be read
│   └── PageLayoutError             a page that is not what it should be; says what is missing
│       └── PageCutError                a page that ends too early; a second download may be whole
├── SeasonError                 a season that does not exist, or that the site does not have
└── EmptyCatalogueError         season pages without a single title
CatalogueError              a catalogue.csv that cannot be read
DriftError                  a new catalogue too different from the last good one
KeptPageError               a page that is not kept, or not as it came
LedgerError                 the file that remembers what was asked cannot be used
StalePosterError            posters that another run replaced in the meantime
"""

from typing import ClassVar

from serving.bundle.errors import AnimeGenreError


class SiteError(AnimeGenreError):
    """Something about the site went wrong."""


class SiteUnavailable(SiteError):
    """The site does not answer, or not now; trying again may help.

    `retry_after_seconds` is how long the site asked to be left alone, None where it did not say; `why` is the
    fault in a few words, the same for all addresses.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.why = why
        self.retry_after_seconds = retry_after_seconds


class SiteBusy(SiteError):
    """Another run is asking the site, and one at a time is enough; trying again later may help."""

    retryable: ClassVar[bool] = True


class SiteBlocked(SiteError):
    """The site refuses us; going on would make it worse, and so would a second try. The message says when to ask
    again; `address` is what was asked for, None where it has been refusing us since an earlier request.
    """

    def __init__(self, message: str, address: str | None = None) -> None:
        super().__init__(message)
        self.address = address


class DisallowedByRobots(SiteError):
    """The site's robots.txt asks that this address be not read."""


class NotOnSite(SiteError):
    """The site has nothing at that address."""


class BrokenImageError(SiteError):
    """Bytes that do not decode to a whole image; a second download may be whole."""

    retryable: ClassVar[bool] = True


class UnusableImageError(SiteError):
    """A whole image that can be no poster."""


class PageError(SiteError):
    """A page that cannot be read."""


class PageLayoutError(PageError):
    """A page that is not what it should be; the message says what is missing."""


class PageCutError(PageLayoutError):
    """A page that ends too early; a second download may be whole."""

    retryable: ClassVar[bool] = True


class SeasonError(SiteError):
    """A season that does not exist, or that the site does not have."""


class EmptyCatalogueError(SiteError):
    """Season pages without a single title."""


class CatalogueError(AnimeGenreError):
    """A catalogue.csv that cannot be read."""


class DriftError(AnimeGenreError):
    """A new catalogue is too different from the last good one; the message has the table of what changed."""


class KeptPageError(AnimeGenreError):
    """A page is not kept, or not as it came."""


class LedgerError(AnimeGenreError):
    """The file that remembers what was asked cannot be used."""


class StalePosterError(AnimeGenreError):
    """Posters that another run replaced in the meantime."""
