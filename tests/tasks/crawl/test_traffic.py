"""The progress line of a crawl, and its final table."""

import time
from collections import Counter
from typing import Any

import pytest

from tasks.crawl.traffic import Traffic


def started(seconds_ago: float, **counts: Any) -> Traffic:
    return Traffic("Season pages", began=time.monotonic() - seconds_ago, **counts)


def test_sentence_has_rate_waits_retries_and_time_left() -> None:
    assert started(100, total=220, done=200).sentence() == "Season pages: 200 of 220 (2.0 per second, 10 s left)"
    waited = started(10, total=20, done=20, held_seconds=3.4, retries=Counter({"503 Busy": 2, "timeout": 1}))
    assert waited.sentence() == "Season pages: 20 of 20 (2.0 per second, asked to wait 3 s, 3 retried)"
    assert "wait" not in started(10, total=20, done=20, held_seconds=0.9).sentence()


def test_sentence_has_no_time_left_before_the_first_item() -> None:
    traffic = Traffic("Posters")
    traffic.expect(5)
    assert traffic.seconds_left is None
    assert traffic.sentence() == "Posters: 0 of 5 (0.0 per second)"


@pytest.mark.parametrize(
    ("seconds", "left"), [(1, "1 s"), (119, "119 s"), (121, "2 min"), (7100, "118 min"), (7300, "2.0 h")]
)
def test_sentence_rounds_the_time_left(seconds: int, left: str) -> None:
    assert started(10_000, total=10_000 + seconds, done=10_000).sentence().endswith(f", {left} left)")


def test_expect_restarts_the_progress_and_keeps_the_outcomes() -> None:
    traffic = started(1000, total=3, done=3)
    traffic.note("not due")
    traffic.expect(2)
    traffic.settle("new")
    assert (traffic.total, traffic.done) == (2, 1)
    assert traffic.per_second > 1
    assert traffic.outcomes == {"not due": 1, "new": 1}


def row(outcome: str, count: int, reason: str = "") -> dict[str, str | int]:
    return {"what": "Posters", "outcome": outcome, "count": count, "reason": reason}


def test_rows_have_each_outcome_with_its_reasons_and_the_retries() -> None:
    traffic = Traffic("Posters", requests=9)
    for reason in (None, "rare", "often", "often"):
        traffic.settle("broken", reason)
    traffic.settle("missing", "often")
    traffic.note("explicit")
    traffic.retries.update({"timeout": 1, "503 Busy": 2})
    assert traffic.rows() == [
        row("requested", 9),
        row("broken", 2, "often"),
        row("broken", 1, "rare"),
        row("broken", 1),
        row("explicit", 1),
        row("missing", 1, "often"),
        row("retried", 2, "503 Busy"),
        row("retried", 1, "timeout"),
    ]
    assert traffic.done == 5
