"""The site's seasons: four a year, written "1998-spring", ranges "2015-winter..2019-fall" or "2015-winter..now"."""

import re
from dataclasses import dataclass
from datetime import date

from tasks.errors import SeasonError

NAMES = ("winter", "spring", "summer", "fall")
FIRST_YEAR = 1917  # of the oldest season in the site's archive
_LAST_YEAR = 2100  # later is a slip of the hand; seasons to come that nobody has announced the site refuses


@dataclass(frozen=True, order=True)
class Season:
    """A quarter of a year, in the order of time; `quarter` 0 is winter, which starts in January."""

    year: int
    quarter: int

    def __str__(self) -> str:
        return f"{self.year}-{NAMES[self.quarter]}"

    @property
    def path(self) -> str:
        """The address of its page on the site."""
        return f"/anime/season/{self.year}/{NAMES[self.quarter]}"

    def following(self) -> "Season":
        """The season after this one."""
        return Season(self.year + self.quarter // 3, (self.quarter + 1) % 4)


def parse_season(text: str) -> Season:
    """Read one season, such as "1998-spring".

    Raises:
        SeasonError: there is no such season.
    """
    match = re.fullmatch(r"(\d{4})-([a-z]+)", text.strip().lower(), re.ASCII)
    if not match or match[2] not in NAMES or not FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
        raise SeasonError(
            f"There is no season {text.strip()!r}: write a year from {FIRST_YEAR} on and one of "
            f"{', '.join(NAMES)}, such as 2015-winter."
        )
    return Season(int(match[1]), NAMES.index(match[2]))


def parse_seasons(text: str) -> list[Season]:
    """Read a range of seasons, both ends included, or a single season; "now" is the season of today.

    Raises:
        SeasonError: an end is no season, or the last comes before the first.
    """
    first_text, _, last_text = text.partition("..")
    first = _season_or_now(first_text)
    last = _season_or_now(last_text) if ".." in text else first
    if last < first:
        raise SeasonError(f"The seasons {text.strip()} end before they begin: did you mean {last}..{first}?")
    seasons = [first]
    while seasons[-1] < last:
        seasons.append(seasons[-1].following())
    return seasons


def _season_or_now(text: str) -> Season:
    if text.strip().lower() != "now":
        return parse_season(text)
    today = date.today()
    return Season(today.year, (today.month - 1) // 3)


def season_of_date(date: str | None) -> Season | None:
    """The season of a day ("1998-04-03") or a month ("1998-04"); None for a year alone or no date."""
    if date is None or len(date) < len("1998-04"):
        return None
    return Season(int(date[:4]), (int(date[5:7]) - 1) // 3)
