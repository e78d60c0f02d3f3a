"""What another machine gets to train the same, and that nothing of it stays there if it fails."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks.train
from infra.settings import Settings
from ml.configuration import TrainConfig
from ml.errors import TrainingError
from tasks.records import DatasetRecord
from tasks.train import Training
from tasks.train_elsewhere import _sent
from tests.ml.networks.test_timm import RESNET, write_repository
from tests.storage import bucket_of_the_settings

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("has_own_weights", [True, False])
def test_backbone_in_a_folder_is_the_same_on_a_machine_without_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_own_weights: bool
) -> None:
    monkeypatch.setattr(tasks.train, "Registry", lambda settings: None)
    dataset = DatasetRecord.model_construct(collection="main", dataset_key="some")
    folder = write_repository(tmp_path / "net", RESNET, "license: apache-2.0")
    weights = "imagenet" if has_own_weights else str(shutil.move(folder / "model.safetensors", tmp_path))
    config = TrainConfig(backbone=f"local-dir:{folder}", weights=weights)
    with bucket_of_the_settings(tmp_path, monkeypatch):
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "here"))
        here = Training.of(dataset, config)
        sent = _sent(config, here)
        shutil.rmtree(folder)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "there"))
        there = Training.of(dataset, sent)
    assert there.key == here.key
    assert there.backbone.name == here.backbone.name == "local-dir:net"
    assert there.backbone.weights.file == here.backbone.weights.file


def test_training_that_fails_leaves_no_files_and_removes_those_of_killed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, bundle_folder: Path, temporary_folder: Path, **__: object) -> None:
        for folder in (bundle_folder, temporary_folder / ".int8-new"):
            folder.mkdir(parents=True)
            (folder / "model.onnx").touch()
        raise TrainingError("Every trial failed.")

    anything: Any = SimpleNamespace(
        read_parsed=lambda *_: None,
        run=lambda *_, **__: nullcontext("run"),
        check_size=lambda size: None,
        preprocessing=SimpleNamespace(size=32),
        weights=None,
        name="net",
        fetch=lambda: None,
    )
    settings = Settings(workspace=tmp_path)
    training = Training(settings, anything, anything, TrainConfig(), anything, "key")
    monkeypatch.setattr(Training, "of", lambda *_: training)
    for name in ("fetch_dataset", "CheckpointCopies", "checkpoints_of", "StoredFeatures"):
        monkeypatch.setattr(tasks.train, name, lambda *_: anything)
    monkeypatch.setattr(tasks.train, "_reporter", lambda *_: nullcontext())
    monkeypatch.setattr(tasks.train, "run_training", fail)
    dataset = DatasetRecord.model_construct(
        collection="films", snapshot_date="2026-11-29", posters=3, genres=[], dataset_key="some"
    )
    bundles = training.folder / "bundles"
    names = (f".killed.{2**22 + 1}.part", f".of-another-process.{os.getppid()}.part", "a" * 64)
    for name in names:
        (bundles / name).mkdir(parents=True)
    with pytest.raises(TrainingError, match="Every trial failed"):
        tasks.train.train.__wrapped__(dataset, TrainConfig())
    assert sorted(path.name for path in bundles.iterdir()) == sorted(names[1:])
