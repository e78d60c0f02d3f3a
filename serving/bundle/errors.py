"""The base class of the project's exceptions, and the exceptions of images and model bundles.

    AnimeGenreError         any error that can be explained to a person
    ├── PosterError             an unusable image: empty, truncated or damaged
    │   ├── PosterFormatError       not an image in a supported format
    │   └── PosterSizeError         an image with too many pixels
    └── BundleError             a model bundle that is incomplete or does not match its hashes

The class attribute `retryable` says whether a retry may help.
"""

from typing import Any, ClassVar

from .redaction import redacted


class AnimeGenreError(Exception):
    """Base class of every error of this project.

    `message` explains the error to a person and says what to do next, in at most two sentences and 300 characters.
    `details` are lines to print below it, such as a table. `str(error)` has both. Credentials in addresses are removed.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, details: str = "") -> None:
        message = redacted(message)
        super().__init__(message)
        self.message, self.details = message, redacted(details)

    def __str__(self) -> str:
        return f"{self.message}\n{self.details}" if self.details else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without a call of `__init__`, whose parameters differ between subclasses."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class PosterError(AnimeGenreError):
    """An image that cannot be used as a poster."""


class PosterFormatError(PosterError):
    """Bytes that are not an image in a supported format."""


class PosterSizeError(PosterError):
    """An image with more pixels than the decoder accepts."""


class BundleError(AnimeGenreError):
    """A model bundle with a missing file, or with content that does not match its hashes."""
