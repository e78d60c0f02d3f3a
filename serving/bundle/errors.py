"""The base class of the project's exceptions, and the exceptions of images and model bundles.

    AnimeGenreError         any error that one sentence can explain to a person
    ├── PosterError             an unusable image: empty, truncated or damaged
    │   ├── PosterFormatError       not an image in a supported format
    │   └── PosterSizeError         an image with too many pixels
    └── BundleError             a model bundle that is incomplete or does not match its hashes

The message is that sentence. The class attribute `retryable` says whether a retry may help.
"""

from typing import ClassVar


class AnimeGenreError(Exception):
    """Base class of every error of this project; its message is one sentence for a person."""

    retryable: ClassVar[bool] = False


class PosterError(AnimeGenreError):
    """An image that cannot be used as a poster."""


class PosterFormatError(PosterError):
    """Bytes that are not an image in a supported format."""


class PosterSizeError(PosterError):
    """An image with more pixels than the decoder accepts."""


class BundleError(AnimeGenreError):
    """A model bundle with a missing file, or with content that does not match its hashes."""
