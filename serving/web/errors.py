"""What keeps the page from showing genres.

PageError            an HTTP status, a code for programs, and one sentence for a person
├── PosterError      the form brings no poster, or one that is too large
└── FunctionError    the function gives no answer, or refuses the poster
"""


class PageError(Exception):
    """Genres cannot be shown: an HTTP status, a code for programs, and one sentence for a person."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class PosterError(PageError):
    """What the form brings is no poster that can be sent on."""


class FunctionError(PageError):
    """The function cannot be reached, is still waking, refuses the poster or this caller, or answers nonsense."""
