"""A budget is shared by threads that wait for each other."""

import threading
import time

import pytest

from serving.bundle.budget import Budget


def test_hold_waits_until_enough_is_free() -> None:
    budget, order = Budget(10), []

    def large() -> None:
        with budget.hold(8):
            order.append("large")

    with budget.hold(6):
        with budget.hold(4):
            thread = threading.Thread(target=large)
            thread.start()
            time.sleep(0.05)
            order.append("first")
        time.sleep(0.05)
        order.append("second")
    thread.join()
    assert order == ["first", "second", "large"]


def test_hold_of_more_than_the_budget_takes_all_of_it() -> None:
    budget = Budget(10)
    with budget.hold(25), pytest.raises(TimeoutError), budget.hold(1, timeout_seconds=0.01):
        pass
    with budget.hold(10):
        pass


def test_bytes_are_free_again_after_an_error() -> None:
    budget = Budget(10)
    with pytest.raises(ValueError, match="some"), budget.hold(10):
        raise ValueError("some")
    with budget.hold(10, timeout_seconds=0.01):
        pass
