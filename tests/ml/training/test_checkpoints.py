import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.errors import SettingError, TrainingError
from ml.networks.backbones import Backbone
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, SCRATCH
from ml.training.checkpoints import Checkpoint, Checkpoints, remove_old_checkpoints
from ml.training.fit import Fit, FitTask, Hyperparameters, Inputs, Schedule, TrainingData, fit
from ml.training.gradient import Body, train_by_gradient
from ml.training.outcome import Trial
from tests.no_checkpoints import NoCheckpoint, NoCheckpoints

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[3]
ABOUT = {"dataset": "d", "epochs": 3, "weights": None}
SETTING = Hyperparameters(learning_rate=0.05, weight_decay=0.01, dropout=0.3, hidden=0)
SCHEDULE = Schedule(epochs=3, batch_size=16, seed=0, flip=True)
STEPS, VALIDATION_BATCHES = 4, 1


class Killed(BaseException):
    """Stands for the end of the process: no code catches it."""


class Mortal:
    """Inputs that kill the training at the k-th batch."""

    def __init__(self, images: Tensor, dies_at: int) -> None:
        self.images, self.left = images, dies_at

    def __getitem__(self, rows: Tensor) -> Tensor:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return self.images[rows]


class MortalReporter(NullReporter):
    """Kills the training at the k-th epoch."""

    def __init__(self, dies_at: int) -> None:
        self.left = dies_at

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if "train/loss" in values:
            if self.left == 0:
                raise Killed
            self.left -= 1


def new_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        Scaled(), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.4), nn.Linear(32, 3),
    )  # fmt: skip


class Scaled(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float() / 255


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (80, 3, 8, 8), np.uint8))


@dataclass(frozen=True)
class Trained:
    state: dict[str, Tensor]
    fit: Fit


def train(inputs: Inputs, checkpoint: Checkpoint, schedule: Schedule = SCHEDULE) -> Trained:
    labels = torch.from_numpy(np.random.default_rng(1).random((80, 3)) < 0.4).float()
    rows = np.arange(80)
    data = TrainingData(inputs, labels, rows[:60], rows[60:], rows[60:] % 5)
    with torch.random.fork_rng(devices=[]):
        model, task = new_model(), FitTask(data, schedule, choose_compute("cpu"))
        return Trained(model.state_dict(), fit(model, SETTING, task, NullReporter(), checkpoint))


@pytest.fixture(scope="module")
def undisturbed(images: Tensor) -> Trained:
    return train(images, NoCheckpoint())


def same(one: Trained, other: Trained) -> bool:
    """Whether two trainings gave the same result, bit for bit."""
    return (
        one.state.keys() == other.state.keys()
        and all(one.state[name].numpy().tobytes() == other.state[name].numpy().tobytes() for name in one.state)
        and one.fit.scores == other.fit.scores
    )


@pytest.mark.parametrize("killed_at", range(SCHEDULE.epochs * (STEPS + VALIDATION_BATCHES)))
def test_training_killed_at_any_step_resumes_bit_for_bit(
    killed_at: int, images: Tensor, undisturbed: Trained, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, ABOUT, every_seconds=0)
    with pytest.raises(Killed):
        train(Mortal(images, killed_at), checkpoints.slot("trial"))
    again = Mortal(images, 1000)
    assert same(train(again, checkpoints.slot("trial")), undisturbed)
    done = killed_at - (
        killed_at % (STEPS + VALIDATION_BATCHES) == STEPS
    )  # the last step before validation is not saved
    left = SCHEDULE.epochs * (STEPS + VALIDATION_BATCHES) - (1000 - again.left)
    assert left >= done - 1, "completed steps are repeated"


def test_training_killed_repeatedly_resumes_bit_for_bit(images: Tensor, undisturbed: Trained, tmp_path: Path) -> None:
    kills = 0
    while True:
        try:
            # Two batches per attempt: a state is saved after the first one.
            result = train(Mortal(images, 3), Checkpoints(tmp_path, ABOUT, every_seconds=0).slot("trial"))
            break
        except Killed:
            kills += 1
            assert kills < 20
    assert kills > 4
    assert same(result, undisturbed)


def test_checkpoint_interval_does_not_change_the_result(images: Tensor, undisturbed: Trained, tmp_path: Path) -> None:
    assert same(train(images, Checkpoints(tmp_path / "seldom", ABOUT, every_seconds=1e9).slot("trial")), undisturbed)
    saved = Checkpoints(tmp_path / "seldom", ABOUT, every_seconds=1e9).slot("trial").load()
    # Saved at the end, so that a completed training is skipped.
    assert saved is not None and saved["progress"]["epoch"] == SCHEDULE.epochs
    assert same(train(images, Checkpoints(tmp_path / "often", ABOUT, every_seconds=0).slot("trial")), undisturbed)
    assert [file.name for file in (tmp_path / "often").iterdir()] == ["trial.pt"]


def test_checkpoint_survives_a_loss_that_is_not_finite(images: Tensor, tmp_path: Path) -> None:
    class Spoiling(Mortal):
        def __getitem__(self, rows: Tensor) -> Tensor:
            batch = self.images[rows].float()
            self.left -= 1
            return batch * float("nan") if self.left < 0 else batch

    slot = Checkpoints(tmp_path, ABOUT, every_seconds=0).slot("trial")
    with pytest.raises(TrainingError, match=r"not finite in epoch 2\. Try a learning rate below 0\.05\."):
        train(Spoiling(images, 7), slot)
    saved = slot.load()
    assert saved is not None
    assert (saved["progress"]["epoch"], saved["progress"]["step"]) == (1, 2)
    assert all(bool(value.isfinite().all()) for value in saved["model"].values())


def test_checkpoint_is_not_saved_if_weights_are_not_finite(tmp_path: Path) -> None:
    class Root(nn.Module):
        """At zero the square root is finite, its gradient is not."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2, bias=False)

        def forward(self, features: Tensor) -> Tensor:
            return self.layer(features).abs().sqrt()

    features = torch.ones(80, 4)
    features[np.random.default_rng((0, 1)).permutation(60)[20]] = 0  # is in the second epoch's second batch
    rows = np.arange(80)
    data = TrainingData(features, torch.ones(80, 2), rows[:60], rows[60:], rows[60:] % 5)
    slot = Checkpoints(tmp_path, ABOUT, every_seconds=0).slot("trial")
    torch.manual_seed(0)
    task = FitTask(data, replace(SCHEDULE, flip=False), choose_compute("cpu"))
    with pytest.raises(TrainingError, match="not finite in epoch 1"):
        fit(Root(), SETTING, task, NullReporter(), slot)
    saved = slot.load()
    assert saved is None or bool(saved["model"]["layer.weight"].isfinite().all())


def test_checkpoint_of_another_configuration_names_the_differences(tmp_path: Path) -> None:
    Checkpoints(tmp_path, ABOUT, 0).slot("trial").save({"epoch": 1})
    with pytest.raises(SettingError, match="epochs is 3 in the checkpoint and 4 now\nseed is None in"):
        Checkpoints(tmp_path, {**ABOUT, "epochs": 4, "seed": 1}, 0).slot("trial").load()
    assert Checkpoints(tmp_path, ABOUT, 0).slot("trial").load() == {"epoch": 1}


def test_checkpoints_of_another_configuration_are_refused_at_the_start(tmp_path: Path) -> None:
    Checkpoints(tmp_path, ABOUT, 0).slot("trial").save({"epoch": 1})
    changed = Checkpoints(tmp_path, {**ABOUT, "epochs": 4}, 0)
    with pytest.raises(SettingError, match=f"The checkpoints in {tmp_path} belong to"), changed.held():
        pass
    with Checkpoints(tmp_path, ABOUT, 0).held():
        changed.clear()
    with changed.held():
        pass


def test_checkpoint_that_is_damaged_is_logged_and_ignored(
    images: Tensor, undisturbed: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, ABOUT, every_seconds=0)
    with pytest.raises(Killed):
        train(Mortal(images, 8), checkpoints.slot("trial"))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-500])
    assert same(train(images, checkpoints.slot("trial")), undisturbed)
    assert f"The checkpoint {file} is damaged and is ignored." in caplog.text


def test_checkpoint_detects_any_damage(tmp_path: Path) -> None:
    slot = Checkpoints(tmp_path, ABOUT, 0).slot("trial")
    slot.save({"model": {"weight": torch.arange(1000.0)}})
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    generator = np.random.default_rng(0)
    wrong = [b"", b"no checkpoint", b"PK", *(generator.bytes(200) for _ in range(20))]
    wrong += [good[:size] for size in generator.integers(0, len(good), 20).tolist()]
    start = good.index(torch.arange(1000.0).numpy().tobytes())
    for place in (start, start + 2000, start + 3999):
        wrong.append(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    for data in wrong:
        file.write_bytes(data)
        assert slot.load() is None
    for other in ([1, 2], torch.zeros(2), {"model": 1}, 3):
        torch.save(other, file)
        assert slot.load() is None


def test_checkpoint_does_not_run_code_of_the_file(tmp_path: Path) -> None:
    torch.save({"about": ABOUT, "evil": Path("a path is an object of a class")}, tmp_path / "trial.pt")
    assert Checkpoints(tmp_path, ABOUT, 0).slot("trial").load() is None


def test_checkpoint_keeps_the_previous_state_if_saving_is_killed(tmp_path: Path) -> None:
    class Unwritable:
        def __reduce__(self) -> str:
            raise Killed

    slot = Checkpoints(tmp_path, ABOUT, 0).slot("trial")
    slot.save({"epoch": 1})
    with pytest.raises(Killed):
        slot.save({"epoch": 2, "rest": Unwritable()})
    assert slot.load() == {"epoch": 1}


def small_body() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def test_search_that_is_killed_repeats_its_settings_and_prunings(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone, tmp_path: Path
) -> None:
    config = replace(quick, trials=6, epochs=3)

    def search(checkpoints: Checkpoints, reporter: NullReporter) -> tuple[list[Trial], list[bytes]]:
        with torch.random.fork_rng(devices=[]):
            bench = Bench(dataset, config, squeezenet, choose_compute("cpu"), checkpoints)
            outcome = train_by_gradient(CANDIDATES[SCRATCH], bench, Body(small_body), reporter)
        weights = [value.numpy().tobytes() for value in outcome.network.state_dict().values()]
        return [replace(trial, seconds=0) for trial in (outcome.best, *outcome.trials)], weights

    counting = MortalReporter(1000)
    undisturbed = search(NoCheckpoints(), counting)
    assert any(trial.pruned for trial in undisturbed[0])
    epochs = 1000 - counting.left
    for dies_at, in_refit in ((epochs // 2, False), (epochs - 1, True)):
        checkpoints = Checkpoints(tmp_path / str(dies_at), ABOUT, every_seconds=0)
        with pytest.raises(Killed):
            search(checkpoints, MortalReporter(dies_at))
        assert (tmp_path / str(dies_at) / "scratch-refit.pt").exists() == in_refit
        assert search(checkpoints, NullReporter()) == undisturbed


def test_checkpoints_that_nobody_resumes_are_removed_after_two_weeks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, days in (("resumable", 13), ("abandoned", 15), ("both", 15)):
        for slot in ("scratch", "frozen-trial-1"):
            Checkpoints(tmp_path / name, ABOUT).slot(slot).save({"epoch": 1})
        written = time.time() - days * 86_400
        for path in (tmp_path / name).glob("*.pt") if name != "both" else [tmp_path / "both" / "scratch.pt"]:
            os.utime(path, (written, written))
        os.utime(tmp_path / name, (written, written))
    (tmp_path / "renamed").mkdir()
    (tmp_path / "renamed" / ".trial.pt.part").symlink_to("gone")  # as a file that is listed and then renamed
    caplog.set_level("INFO")
    remove_old_checkpoints(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"resumable", "both", "renamed"}
    assert "older than 14 days are removed: 1, 0 MB." in caplog.text
    remove_old_checkpoints(tmp_path / "absent")


def test_checkpoint_that_the_disk_refuses_is_an_os_error(tmp_path: Path) -> None:
    slot = Checkpoints(tmp_path, {}).slot("trial")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            slot.save({"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
