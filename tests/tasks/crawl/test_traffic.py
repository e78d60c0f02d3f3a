"""What is said while a crawl goes on, and the table at its end."""

import time
from collections import Counter
from typing import Any

import pytest

from tasks.crawl.traffic import Traffic


def under_way(seconds: float, **counts: Any) -> Traffic:
    """Traffic that began so many seconds ago."""
    return Traffic("Season pages", began=time.monotonic() - seconds, **counts)


def test_it_says_how_many_are_done_how_fast_and_how_long_the_others_will_take() -> None:
    assert under_way(100, total=220, done=200).sentence() == "Season pages: 200 of 220 (2.0 a second, 10 s left)"


def test_it_says_how_long_hosts_asked_to_wait_and_what_was_tried_again() -> None:
    traffic = under_way(10, total=20, done=20, held_seconds=3.4, retries=Counter({"503 Busy": 2, "connection lost": 1}))
    assert traffic.sentence() == "Season pages: 20 of 20 (2.0 a second, asked to wait 3 s, 3 tried again)"


def test_a_moments_wait_is_not_worth_a_word() -> None:
    assert "wait" not in under_way(10, total=20, done=20, held_seconds=0.9).sentence()


def test_before_the_first_is_done_nothing_is_promised() -> None:
    traffic = Traffic("Posters")
    assert traffic.seconds_left is None
    assert traffic.sentence() == "Posters: 0 of 0 (0.0 a second)"
    traffic.expect(5)
    assert traffic.seconds_left is None
    assert traffic.sentence() == "Posters: 0 of 5 (0.0 a second)"


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(1, "1 s"), (119, "119 s"), (121, "2 min"), (7100, "118 min"), (7300, "2.0 h"), (36000, "10.0 h")],
)
def test_the_longer_it_takes_the_rounder_the_time_that_is_left(seconds: int, left: str) -> None:
    one_a_second = under_way(10_000, total=10_000 + seconds, done=10_000)
    assert one_a_second.sentence().endswith(f", {left} left)")


def test_what_is_expected_begins_anew_and_keeps_what_was_counted() -> None:
    traffic = under_way(1000, total=3, done=3)
    traffic.note("not due")
    traffic.expect(2)
    traffic.settle("new")
    assert (traffic.total, traffic.done) == (2, 1)
    assert traffic.per_second > 1
    assert traffic.outcomes == {"not due": 1, "new": 1}


def test_what_needed_no_request_is_counted_but_not_done() -> None:
    traffic = Traffic("Posters", total=2)
    traffic.note("explicit", "never downloaded")
    traffic.settle("new")
    assert traffic.done == 1
    assert traffic.outcomes == {"explicit": 1, "new": 1}


def row(outcome: str, count: int, reason: str = "") -> dict[str, str | int]:
    return {"what": "Posters", "outcome": outcome, "count": count, "reason": reason}


def test_the_table_says_what_became_of_all_and_why() -> None:
    traffic = Traffic("Posters", requests=9)
    for _ in range(3):
        traffic.settle("new")
    for reason in ("rare", "often", "often"):
        traffic.settle("broken", reason)
    traffic.settle("missing", "often")
    traffic.retries.update({"no answer in time": 1, "503 Busy": 2})
    assert traffic.rows() == [
        row("requested", 9),
        row("broken", 2, "often"),
        row("broken", 1, "rare"),
        row("missing", 1, "often"),
        row("new", 3),
        row("tried again", 2, "503 Busy"),
        row("tried again", 1, "no answer in time"),
    ]


def test_the_table_leaves_out_nothing_for_which_there_was_no_reason() -> None:
    traffic = Traffic("Posters")
    traffic.settle("missing", "404")
    traffic.settle("missing")
    counts = [int(line["count"]) for line in traffic.rows() if line["outcome"] == "missing"]
    assert sum(counts) == 2


def test_the_table_of_nothing_says_that_nothing_was_requested() -> None:
    assert Traffic("Posters").rows() == [row("requested", 0)]
