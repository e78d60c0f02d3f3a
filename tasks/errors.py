"""What goes wrong while the site is read.

SiteError                   a site or its answer; also an answer that nobody expects
├── SiteUnavailable             5xx, 429, timeouts, lost connections; trying again may help
├── SiteBlocked                 the site refuses us (403)
├── NotOnSite                   the site has nothing at that address (404, 410)
├── BrokenImageError            bytes that do not decode to a whole image; a second download may be whole
├── PageError                   a page that cannot be read
│   └── PageLayoutError             a page that is not what it should be; says what is missing
│       └── PageCutError                a page that ends too early; a second download may be whole
├── SeasonError                 a season that does not exist, or that the site does not have
└── EmptyCatalogueError         season pages without a single title
CatalogueError              a catalogue.csv that cannot be read
StalePosterError            posters that another run replaced in the meantime
"""

from typing import ClassVar

from serving.function.errors import AnimeGenreError


class SiteError(AnimeGenreError):
    """Something about the site went wrong."""


class SiteUnavailable(SiteError):
    """The site does not answer, or not now; trying again may help.

    `retry_after_seconds` is how long the site asked to be left alone, None where it did not say.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SiteBlocked(SiteError):
    """The site refuses us; going on would make it worse."""


class NotOnSite(SiteError):
    """The site has nothing at that address."""


class BrokenImageError(SiteError):
    """Bytes that do not decode to a whole image; a second download may be whole."""

    retryable: ClassVar[bool] = True


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


class StalePosterError(AnimeGenreError):
    """Posters that another run replaced in the meantime."""
