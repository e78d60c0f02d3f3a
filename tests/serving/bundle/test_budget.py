import threading
import time

import pytest

from serving.bundle.budget import Budget


def test_who_wants_more_than_is_left_waits_until_others_are_done() -> None:
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


def test_who_wants_more_than_there_is_gets_all() -> None:
    budget = Budget(10)
    with budget.hold(25), pytest.raises(TimeoutError), budget.hold(1, timeout_seconds=0.01):
        pass
    with budget.hold(10):
        pass


def test_what_ends_with_an_error_is_given_back() -> None:
    budget = Budget(10)
    with pytest.raises(ValueError, match="some"), budget.hold(10):
        raise ValueError("some")
    with budget.hold(10, timeout_seconds=0.01):
        pass
