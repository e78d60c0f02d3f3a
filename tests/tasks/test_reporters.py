"""Progress with its remaining time."""

import logging
import re
from pathlib import Path

import pytest

from infra import disk
from infra.errors import DiskFull
from ml.training.search import TrialProgress
from tasks.reporters import ProgressLog
from tests.messages import project_messages

pytestmark = pytest.mark.stack


class Clock:
    """A clock that work moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_remaining_time_holds_when_the_first_batches_are_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, every_seconds=0, clock=clock)
    epochs, batches = 8, 6
    left_at: dict[int, tuple[float, float]] = {}
    progress = TrialProgress("scratch", 1, epochs, 64 * batches, log)
    progress.begin_trial(1)
    for epoch in range(1, epochs + 1):
        for batch in range(batches):
            clock.seconds += 3.0 if (epoch, batch) == (1, 0) else 1.0
            progress.add(64)
            found = re.search(r"(\d+) of (\d+) \(.*, (\d+) (s|min) left\)$", project_messages(caplog)[-1])
            if found:
                left_at[100 * int(found[1]) // int(found[2])] = (clock.seconds, float(found[3]))
        clock.seconds += 0.5  # the epoch's scores and checkpoint
        progress.end_epoch(epoch)
    progress.end()
    for percent in (20, 50):
        at, left = left_at[percent]
        assert 1 / 1.5 < left / (clock.seconds - at) < 1.5
    assert [each.partition(" (")[0] for each in project_messages(caplog)].count("training scratch: 3072 of 3072") == 1


def test_remaining_time_follows_a_machine_that_becomes_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, clock=clock)
    for done in range(101):
        log.progress(done, 150, "training scratch", "images")
        clock.seconds += 3.0 if done < 50 else 1.0  # another program ends
    left = re.search(r"(\d+) s left\)$", project_messages(caplog)[-1])
    assert left and 50 <= int(left[1]) <= 80


def test_remaining_time_counts_neither_restored_nor_pruned_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    progress = TrialProgress("scratch", 3, 4, 100, ProgressLog(tmp_path, every_seconds=5, clock=clock))
    progress.begin_trial(1)
    for epoch in range(1, 5):  # from a checkpoint
        progress.end_epoch(epoch)
    progress.begin_trial(2)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog) == ["training scratch: 100 of 800 (10.0 images per second, 70 s left)"]
    progress.begin_trial(3)  # the second was pruned after its first epoch
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog)[-1] == "training scratch: 200 of 500 (10.0 images per second, 30 s left)"
    progress.end()
    progress.end()
    assert project_messages(caplog)[2:] == ["training scratch: 200 of 200 (10.0 images per second)"]


def test_remaining_time_includes_the_training_after_the_search(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    progress = TrialProgress("scratch", 2, 4, 100, ProgressLog(tmp_path, every_seconds=5, clock=clock))
    progress.begin_trial(1)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog) == ["training scratch: 100 of 800 (10.0 images per second, 70 s left)"]
    for epoch in range(1, 5):
        progress.end_epoch(epoch)
    progress.begin_refit(epochs=2, images=120)
    clock.seconds += 10
    progress.add(100)
    assert project_messages(caplog)[-1] == "training scratch: 200 of 340 (10.0 images per second, 14 s left)"


def test_work_that_was_done_before_the_first_call_does_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    clock = Clock()
    log = ProgressLog(tmp_path, clock=clock)
    log.progress(1000, 4000, "backbone's features", "images")
    clock.seconds += 100
    log.progress(2000, 4000, "backbone's features", "images")
    assert project_messages(caplog) == ["backbone's features: 2000 of 4000 (10.0 images per second, 3 min left)"]


def test_progress_ends_a_step_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVED_BYTES", 10**18)
    with pytest.raises(DiskFull):
        ProgressLog(tmp_path, every_seconds=0).progress(1, 4, "training scratch")
