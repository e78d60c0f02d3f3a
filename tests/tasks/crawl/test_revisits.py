"""When a page is due again, over years of crawls."""

import itertools
import time

import pytest

from tasks.crawl.ledger import PageVisit
from tasks.crawl.revisits import is_due, is_stale

DAY = 86_400.0
NOW = 1_515_394_800.0  # 2018-01-08, so that all crawls of these tests are in the past
URLS = [f"https://example.org/{number}" for number in range(200)]


def visited(days_ago: float, url: str = URLS[0], suspect: bool = False) -> PageVisit:
    return PageVisit(url, NOW - days_ago * DAY, "ab" * 32, suspect=suspect)


def test_is_due_without_a_visit() -> None:
    assert is_due(None, 365, NOW)


def test_is_due_in_every_crawl_without_quiet_days() -> None:
    assert is_due(visited(1e-5), 0, NOW)


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("quiet_days", [0, 365])
def test_is_due_at_most_once_per_crawl(quiet_days: float, refresh: bool) -> None:
    for days in (0, 1):
        assert not is_due(visited(-days, suspect=True), quiet_days, NOW, refresh)


@pytest.mark.parametrize("sha256", ["ab" * 32, None])
def test_is_due_after_a_crawl_whose_clock_was_ahead(sha256: str | None) -> None:
    now = time.time()
    for ahead in (2 / 24, 40, 4000):
        visit = PageVisit(URLS[0], now + ahead * DAY, sha256)
        assert is_due(visit, 365, now) and is_due(visit, 0, now)
        assert is_stale(visit.url, visit.checked, 30, now)
    assert not is_due(PageVisit(URLS[0], now + 0.5 / 24 * DAY, sha256), 365, now), "clocks differ by minutes"


def test_is_due_with_refresh_or_a_suspect_visit() -> None:
    assert not is_due(visited(1), 365, NOW)
    assert is_due(visited(1), 365, NOW, refresh=True)
    assert is_due(visited(1, suspect=True), 365, NOW)


@pytest.mark.parametrize(
    ("sha256", "quiet_days", "least", "most"), [("ab" * 32, 90, 44, 135), (None, 365, 14, 45), (None, 8, 3, 12)]
)
def test_is_due_after_half_to_one_and_a_half_times_the_quiet_days_and_without_a_page_after_a_month(
    sha256: str | None, quiet_days: float, least: float, most: float
) -> None:
    def due(days: float) -> int:
        return sum(is_due(PageVisit(url, NOW - days * DAY, sha256), quiet_days, NOW) for url in URLS)

    assert due(least) == 0
    assert 70 <= due((least + most) / 2) <= 130
    assert due(most) == 200


def test_is_due_spreads_pages_read_together_over_later_crawls() -> None:
    checked = dict.fromkeys(URLS, NOW)
    weeks_due: dict[str, list[int]] = {url: [0] for url in URLS}
    due_per_week = []
    for week in range(1, 52 * 5):
        started = NOW + 7 * DAY * week
        due = [url for url in URLS if is_due(PageVisit(url, checked[url], "ab" * 32), 365, started)]
        checked |= dict.fromkeys(due, started)
        due_per_week.append(len(due))
        for url in due:
            weeks_due[url].append(week)
    assert max(due_per_week) <= 0.15 * len(URLS)
    assert max(after - before for weeks in weeks_due.values() for before, after in itertools.pairwise(weeks)) <= 79
