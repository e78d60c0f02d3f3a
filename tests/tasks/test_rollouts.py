"""The order in which models went live, from which a rollback takes the earlier one."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.rollouts import Rollout, time_of_next, went_live

pytestmark = pytest.mark.stack

MODELS = [letter * 64 for letter in "abcd"]


def rollout(event: str) -> Rollout:
    """A change such as "b", or "rollback a"."""
    what, _, letter = event.rpartition(" ")
    return Rollout(
        when="2026-11-29T00:00:00+00:00",
        what=what or "redeploy",
        by="a person",
        before=None,
        after=f"version 1 ({letter * 8})",
        revision="",
        reason="",
    )


@pytest.mark.parametrize(
    ("events", "order"),
    [
        ([], "abcd"),
        (["a", "b", "c"], "dabc"),
        (["a", "b", "c", "a"], "dbca"),
        (["a", "b", "c", "rollback b"], "dab"),
        (["a", "b", "c", "rollback b", "rollback a"], "da"),
        (["a", "b", "rollback a", "promote b"], "cdab"),
        (["a", "b", "c", "rollback b", "d"], "abd"),
        (["a", "b", "c", "c", "promote failed c"], "dabc"),
        (["a", "b", "x"], "cdab"),
        (["a", "b", "rollback a", "rollback b"], "cdab"),
    ],
)
def test_models_are_in_the_order_in_which_they_went_live(events: list[str], order: str) -> None:
    assert went_live([rollout(event) for event in events], MODELS) == [letter * 64 for letter in order]


@pytest.mark.parametrize("hours", [-1, 1], ids=["on_time", "an_hour_late"])
def test_next_rollout_follows_the_last_one_whatever_the_clock_says(hours: int) -> None:
    last = rollout("a").model_copy(update={"when": (datetime.now(UTC) + timedelta(hours=hours)).isoformat()})
    following = time_of_next([last])
    assert following > last.when
    assert datetime.fromisoformat(following) - datetime.now(UTC) < timedelta(hours=max(hours, 0), seconds=1)
