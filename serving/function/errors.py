"""The errors that the function sends to its clients.

AnimeGenreError
└── RequestError    a refused request, with its HTTP status and error code
"""

from ..bundle.errors import AnimeGenreError, BundleError, PosterError, PosterFormatError, PosterSizeError

LASTING_CODES = ("bundle_error", "storage_forbidden")
"""The codes of errors that a retry does not resolve."""
_NAMED = 5
_SHOWN = 100  # characters of a text from a request in a message


class RequestError(AnimeGenreError):
    """A refused request: an HTTP status, an error code for programs, and one sentence for a person."""

    def __init__(self, status: int, code: str, message: str, details: str = "") -> None:
        super().__init__(message, details)
        self.status, self.code = status, code


def shown(text: str) -> str:
    """The beginning of a text from a request for a message: in quotes, on one line."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: _SHOWN + 1])
    return f"'{line}'" if len(line) <= _SHOWN else f"'{line[:_SHOWN]}...'"


def first_names(names: list[str]) -> str:
    """The first few of a list of names, for a sentence: "a, b, c, d, e and 2 more"."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def status_and_code(error: AnimeGenreError) -> tuple[int, str]:
    """The HTTP status and the error code of an exception."""
    if isinstance(error, RequestError):
        return error.status, error.code
    if isinstance(error, PosterFormatError):
        return 415, "unsupported_format"
    if isinstance(error, PosterSizeError):
        return 422, "too_many_pixels"
    if isinstance(error, PosterError):
        return 422, "unusable_image"
    return 503, "bundle_error" if isinstance(error, BundleError) else "unavailable"
