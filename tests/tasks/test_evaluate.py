"""The step `evaluate`: whether a challenger goes live, by the verdict of the gate and a person's word."""

import pytest

from tasks.evaluate import Verdict, choice
from tasks.records import Promotion
from tasks.rollouts import Hold

pytestmark = pytest.mark.stack

BETTER, WORSE = Verdict(True, "It is better."), Verdict(False, "It is worse.")
HOLD = Hold(version="version 2 (aaaaaaaa)", since="2026-11-01T00:00:00+00:00")
SETTING = "This run has the setting promote:"


@pytest.mark.parametrize(
    ("gate", "hold", "promotion", "overrules", "is_live", "chosen"),
    [
        (BETTER, None, "by_gate", False, False, (True, "It is better.")),
        (WORSE, None, "by_gate", False, False, (False, "It is worse.")),
        (BETTER, HOLD, "by_gate", False, False, (False, f"It is better. {HOLD.sentence}")),
        (WORSE, HOLD, "by_gate", False, False, (False, "It is worse.")),
        (WORSE, None, "always", True, False, (True, f"It is worse. {SETTING} always.")),
        (WORSE, HOLD, "always", True, False, (True, f"It is worse. {SETTING} always.")),
        (BETTER, HOLD, "always", False, False, (False, f"It is better. {HOLD.sentence}")),  # a scheduled run
        (WORSE, None, "always", False, False, (True, f"It is worse. {SETTING} always.")),
        (BETTER, None, "never", False, False, (False, f"It is better. {SETTING} never.")),
        (BETTER, HOLD, "never", False, False, (False, f"It is better. {SETTING} never.")),
        (WORSE, None, "always", True, True, (False, "It is worse.")),
        (WORSE, HOLD, "never", False, True, (False, "It is worse.")),
    ],
)
def test_choice_is_that_of_the_gate_unless_a_hold_or_the_setting_decides(
    gate: Verdict,
    hold: Hold | None,
    promotion: Promotion,
    overrules: bool,
    is_live: bool,
    chosen: tuple[bool, str],
) -> None:
    assert choice(gate, hold, promotion, overrules, is_live) == chosen
