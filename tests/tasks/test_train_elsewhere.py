"""What another machine gets to train the same."""

import shutil
from pathlib import Path

import pytest

import tasks.train
from ml.configuration import TrainConfig
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
