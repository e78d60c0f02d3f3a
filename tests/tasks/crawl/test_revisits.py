"""When pages and posters are asked for again, over years of crawls."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from tasks.catalogue.seasons import Season, parse_season, parse_seasons
from tasks.crawl.ledger import PageVisit, PosterVisit
from tasks.crawl.revisits import poster_is_due, season_is_due

DAY = 86_400.0
NOW = datetime(2025, 1, 6, 3, tzinfo=UTC).timestamp()
SITE = "https://myanimelist.net"


def page(season: Season, checked: float) -> PageVisit:
    return PageVisit(SITE + season.path, checked, "ab" * 32)


def days_until_due(season: Season, url: str, checked: float = NOW) -> int:
    """After how many whole days a page that was read at `checked` is due."""
    visit = PageVisit(url, checked, "ab" * 32)
    return next(days for days in range(1, 3000) if season_is_due(visit, season, checked + days * DAY))


def test_what_was_never_read_is_due() -> None:
    assert season_is_due(None, parse_season("1974-winter"), NOW)
    assert season_is_due(None, parse_season("2026-winter"), NOW)


@pytest.mark.parametrize("season", ["2025-winter", "2025-spring", "2026-fall"])
def test_running_and_coming_seasons_are_due_in_every_crawl(season: str) -> None:
    season_of_now = parse_season(season)
    for seconds in (1, 3600, DAY, 7 * DAY):
        assert season_is_due(page(season_of_now, NOW - seconds), season_of_now, NOW)


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("season", ["1974-winter", "2024-fall", "2025-winter", "2025-spring"])
def test_nothing_is_due_twice_within_a_crawl(season: str, refresh: bool) -> None:
    for seconds in (0, 1, DAY):
        assert not season_is_due(page(parse_season(season), NOW + seconds), parse_season(season), NOW, refresh)


@pytest.mark.parametrize("url", [f"{SITE}/anime/{number}" for number in range(20)])
def test_the_older_a_season_the_more_seldom_it_is_due(url: str) -> None:
    seasons = parse_seasons("1974-winter..2024-fall")[::-4]
    days = [days_until_due(season, url) for season in seasons]
    assert days == sorted(days)
    assert days[0] <= 7 < 90 < days[-1]


def test_even_the_oldest_is_due_after_a_year_and_a_half_and_the_youngest_past_one_soon() -> None:
    for number in range(200):
        url = f"{SITE}/anime/{number}"
        assert 180 <= days_until_due(parse_season("1917-winter"), url) <= 548
        assert days_until_due(parse_season("2024-fall"), url) <= 4


def test_a_season_that_ended_a_year_ago_is_due_three_months_after_it_was_read_or_so() -> None:
    season = parse_season("2023-fall")

    def due(days: int) -> int:
        """How many of 200 pages are due that were read so many days ago."""
        visits = [PageVisit(f"{SITE}/anime/{number}", NOW - days * DAY) for number in range(200)]
        return sum(season_is_due(visit, season, NOW) for visit in visits)

    assert due(45) == 0
    assert 70 <= due(92) <= 130
    assert due(140) == 200


def test_refresh_asks_for_all_that_this_crawl_has_not_read() -> None:
    old = parse_season("1974-winter")
    assert not season_is_due(page(old, NOW - 1), old, NOW)
    assert season_is_due(page(old, NOW - 1), old, NOW, refresh=True)


def test_what_is_doubtful_is_due_at_once() -> None:
    old = parse_season("1974-winter")
    doubtful = PageVisit(SITE + old.path, NOW - 1, "ab" * 32, doubtful=True)
    assert season_is_due(doubtful, old, NOW)


def crawled_weekly(seasons: Sequence[Season], years: int) -> list[list[Season]]:
    """Which pages each of the weekly crawls asks for; the first one reads them all at one moment."""
    visits: dict[Season, PageVisit] = {}
    crawls = []
    for week in range(52 * years):
        now = NOW + 7 * DAY * week
        due = [season for season in seasons if season_is_due(visits.get(season), season, now)]
        visits |= {season: page(season, now) for season in due}
        crawls.append(due)
    return crawls


def test_over_years_each_crawl_asks_for_a_few_pages_and_none_is_forgotten() -> None:
    seasons = parse_seasons("1974-winter..2024-fall")
    first, *later = crawled_weekly(seasons, years=5)
    assert first == seasons

    assert max(len(due) for due in later) <= 0.15 * len(seasons)
    assert sum(bool(due) for due in later) > len(later) / 2
    for year in range(5):
        assert sum(len(due) for due in later[52 * year : 52 * (year + 1)]) < 2 * len(seasons)

    longest_weeks = 79  # 18 months, and until the next crawl
    for season in seasons:
        weeks = [0, *(week for week, due in enumerate(later, start=1) if season in due), len(later)]
        assert max(after - before for before, after in itertools.pairwise(weeks)) <= longest_weeks


def poster_days(status: str, number: int) -> int | None:
    """After how many whole days a poster is asked for again, None for never."""
    visit = PosterVisit(number, f"http://a.test/{number}.jpg", NOW, status)
    return next((days for days in range(1000) if poster_is_due(visit, NOW + days * DAY)), None)


@pytest.mark.parametrize(
    ("status", "least", "most"), [("missing", 15, 45), ("refused", 182, 548), ("broken", 3, 11), ("failed", 0, 0)]
)
def test_posters_that_could_not_be_had_are_asked_for_again_later(status: str, least: int, most: int) -> None:
    days = [poster_days(status, number) for number in range(200)]
    assert all(day is not None and least <= day <= most for day in days)
    if least:
        assert len(set(days)) > 5, "all of them on one day"


def test_a_poster_that_failed_is_due_in_the_crawl_in_which_it_did() -> None:
    assert poster_is_due(PosterVisit(1, "http://a.test/1.jpg", NOW + 60, "failed"), NOW)
    assert not poster_is_due(PosterVisit(1, "http://a.test/1.jpg", NOW + 60, "missing"), NOW)
