"""The errors that the page shows.

PageError            an HTTP status, a code for programs, and one sentence for a person
├── PosterError      the form contains no poster, or one that is too large
└── FunctionError    the function is unreachable or refuses the request
"""


class PageError(Exception):
    """An error with an HTTP status, a code for programs, and one sentence for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class PosterError(PageError):
    """The form contains no usable poster."""


class FunctionError(PageError):
    """The function is unreachable, is starting up, refuses the request, or sends an invalid response."""
