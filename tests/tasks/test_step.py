"""The log of a step that says nothing for a while."""

import logging
import time

import pytest

from tasks.step import no_silence
from tests.messages import project_messages

pytestmark = pytest.mark.stack


def test_silent_step_repeats_its_last_line_with_its_age(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tasks")
    logger = logging.getLogger("ml.training_run")
    with no_silence("train", seconds=0.4):
        for _ in range(4):
            logger.warning("Predicting the test part.")
            time.sleep(0.1)
        talking = list(project_messages(caplog))
        time.sleep(1.5)
    silent = project_messages(caplog)[len(talking) :]
    assert set(talking) == {"Predicting the test part."}
    assert 2 <= len(silent) <= 4 and silent[0] == "Predicting the test part. (0 s)" and silent[-1].endswith("(1 s)")
    time.sleep(0.6)
    assert len(project_messages(caplog)) == len(talking) + len(silent)
    assert not logging.getLogger("ml").handlers
