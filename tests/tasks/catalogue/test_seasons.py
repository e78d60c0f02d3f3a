"""Seasons and ranges of them."""

from datetime import UTC, date, datetime

import pytest

from tasks.catalogue.seasons import Season, parse_season, parse_seasons, quiet_days, season_of_date
from tasks.errors import SeasonError


def test_seasons_of_a_range_include_both_ends() -> None:
    names = [str(season) for season in parse_seasons("2015-fall..2016-summer")]
    assert names == ["2015-fall", "2016-winter", "2016-spring", "2016-summer"]


def test_seasons_of_a_single_name_are_one() -> None:
    assert parse_seasons(" 1998-Spring ") == [Season(1998, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2015",
        "2015-autumn",
        "winter-2015",
        "15-winter",
        "1800-winter",
        "9999-fall",
        "2015-winter..",
        "..",
        "2015-winter..2016-winter..2017-winter",
    ],
)
def test_seasons_with_invalid_names_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(SeasonError, match="such as 2015-winter"):
        parse_seasons(text)


def test_seasons_in_the_wrong_order_are_refused_with_a_suggestion() -> None:
    with pytest.raises(SeasonError, match=r"did you mean 2015-winter\.\.2019-fall\?"):
        parse_seasons("2019-fall..2015-winter")


@pytest.mark.parametrize(
    ("date", "season"),
    [
        ("1998-04-03", "1998-spring"),
        ("2024-12", "2024-fall"),
        ("2000-01-05", "2000-winter"),
        ("1998", None),
        (None, None),
    ],
)
def test_season_of_date_needs_a_month(date: str | None, season: str | None) -> None:
    found = season_of_date(date)
    assert (str(found) if found else None) == season


def test_seasons_to_now_end_with_the_season_of_today() -> None:
    today = date.today()
    last = parse_seasons("2015-winter..now")[-1]
    assert (last.year, last.quarter) == (today.year, (today.month - 1) // 3)


@pytest.mark.parametrize(
    ("season", "days"),
    [("2026-fall", 0), ("2025-winter", 0), ("2024-fall", 1.25), ("2023-fall", 92.75), ("1917-winter", 365)],
)
def test_quiet_days_grow_with_the_age_of_a_season_up_to_a_year(season: str, days: float) -> None:
    assert quiet_days(parse_season(season), datetime(2025, 1, 6, 3, tzinfo=UTC).timestamp()) == days
