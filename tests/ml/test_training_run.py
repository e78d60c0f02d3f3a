from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import PARTS, SUSPECT
from ml.errors import DatasetError
from ml.evaluation.leaks import leak_gauge
from ml.export import quantisation
from ml.networks.backbones import Backbone
from ml.reporting import NullReporter, TensorBoardReporter
from ml.training.learning import checkpoints_of
from ml.training_run import TrainingRun, run_training, validation_metrics
from serving.bundle.model import MODEL_INT8

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def run(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone, workspace: Path) -> TrainingRun:
    """A training whose chosen network is served in int8, so that its figures change after it was trained."""
    config = replace(quick, candidates=("scratch", "frozen"), trials=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantisation, "MAX_LOSS", 1.0)
        patch.setattr(quantisation, "MIN_SPEED_UP", 0.0)
        reporter = TensorBoardReporter(workspace / "tensorboard")
        result = run_training(
            dataset,
            config,
            squeezenet,
            reporter,
            checkpoints_of(workspace, "test", dataset, config, squeezenet),
            bundle_folder=workspace / "bundle",
            temporary_folder=workspace,
            date="2026-11-24",
        )
        reporter.close()
    return result


def test_training_run_writes_the_bundle_that_is_served(run: TrainingRun, workspace: Path) -> None:
    assert run.bundle.manifest.served.file == MODEL_INT8
    assert run.predictions.networks[0].name == run.outcome.chosen.name
    assert run.predictions.leaks == leak_gauge(run.outcome.bench, run.outcome.features)
    assert {path.name for path in workspace.iterdir()} == {"bundle", "checkpoints", "tensorboard"}
    assert "as of 2026-11-24" in (workspace / "bundle" / "card.md").read_text()


def test_training_run_reports_final_figures_once_in_each_networks_run(run: TrainingRun, workspace: Path) -> None:
    for network in (*run.outcome.networks, *run.outcome.recipes):
        reported = _scalars(workspace / "tensorboard" / network.name)
        for name, value in validation_metrics(network).items():
            assert reported[name] == [pytest.approx(value, abs=1e-6)], (network.name, name)
    chosen = _scalars(workspace / "tensorboard")
    for name, value in validation_metrics(run.outcome.chosen).items():
        assert chosen[name] == [pytest.approx(value, abs=1e-6)]


@pytest.mark.parametrize("part", PARTS)
def test_training_run_names_an_empty_part_before_it_trains(
    part: str, dataset: Dataset, quick: TrainConfig, squeezenet: Backbone, tmp_path: Path
) -> None:
    without = replace(dataset, parts=np.where(dataset.parts == part, SUSPECT, dataset.parts))
    with pytest.raises(DatasetError, match=f"^The {part} part has no posters"):
        run_training(
            without,
            quick,
            squeezenet,
            NullReporter(),
            checkpoints_of(tmp_path, "test", dataset, quick, squeezenet),
            bundle_folder=tmp_path / "bundle",
            temporary_folder=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def _scalars(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
