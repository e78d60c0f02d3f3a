"""The root of the project's exceptions, and those of the bottom layer.

    AnimeGenreError         anything that goes wrong and can be told to a person in one sentence
    ├── PosterError             an image that cannot be used: empty, truncated, damaged, too many pixels
    │   ├── PosterFormatError       bytes that are no image in a format that is read
    │   └── PosterSizeError         more pixels than are decoded
    ├── BundleError             a model bundle that is incomplete, or not what its hashes say
    └── RequestError            a request that the function does not answer, with its HTTP status

The message is that sentence. Whether trying again may help is the class attribute `retryable`.
"""

from typing import ClassVar


class AnimeGenreError(Exception):
    """Root of every error of this project; its message is one sentence for a person."""

    retryable: ClassVar[bool] = False


class PosterError(AnimeGenreError):
    """An image that cannot be used as a poster."""


class PosterFormatError(PosterError):
    """Bytes that are no image in a format that is read."""


class PosterSizeError(PosterError):
    """An image of more pixels than are decoded."""


class BundleError(AnimeGenreError):
    """A model bundle that misses something or whose content is not what its hashes say."""


class RequestError(AnimeGenreError):
    """A request that is not answered: HTTP status, a code for programs, one sentence for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code
