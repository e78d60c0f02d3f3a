"""Seasons of a year, such as "1998-spring", and ranges of them: "2015-winter..2019-fall" or "2015-winter..now"."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from tasks.errors import SeasonError

NAMES = ("winter", "spring", "summer", "fall")
FIRST_YEAR = 1917  # of the oldest known anime
_LAST_YEAR = 2100  # later years are typing errors
_SHARE_OF_AGE, _LONGEST_QUIET_DAYS = 0.25, 365.0


@dataclass(frozen=True, order=True)
class Season:
    """A quarter of a year. `quarter` 0 is winter, which starts in January. Seasons are ordered by time."""

    year: int
    quarter: int

    def __str__(self) -> str:
        return f"{self.year}-{NAMES[self.quarter]}"

    def following(self) -> "Season":
        """The season after this one."""
        return Season(self.year + self.quarter // 3, (self.quarter + 1) % 4)


def parse_season(text: str) -> Season:
    """Read one season, such as "1998-spring".

    Raises:
        SeasonError: the text is not a season.
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
        SeasonError: an end is not a season, or the last season is before the first.
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


def quiet_days(season: Season, now: float) -> float:
    """After how many days a season's pages are re-fetched: a quarter of the season's age, 365 at most.

    Pages of running and future seasons are re-fetched in every crawl (0 days). `now` is in seconds since 1970.
    """
    following = season.following()
    ended = date(following.year, 1 + 3 * following.quarter, 1)
    age_days = (datetime.fromtimestamp(now, UTC).date() - ended).days
    return max(0.0, min(_SHARE_OF_AGE * age_days, _LONGEST_QUIET_DAYS))


def season_of_date(date: str | None) -> Season | None:
    """The season of a day ("1998-04-03") or a month ("1998-04"); None for a year alone or no date."""
    if date is None or len(date) < len("1998-04"):
        return None
    return Season(int(date[:4]), (int(date[5:7]) - 1) // 3)
