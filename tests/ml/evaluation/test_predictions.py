from pathlib import Path

import numpy as np
import pytest

from ml.data.dataset import Dataset
from ml.errors import TrainingError
from ml.evaluation.leaks import Leak
from ml.evaluation.predictions import PredictionSet, collect_predictions
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import Model

pytestmark = pytest.mark.train

LEAKS = (Leak("colours alone: mAP", 0.4, 0.3),)


@pytest.fixture(scope="module")
def predictions(outcome: TrainingOutcome, model: Model, dataset: Dataset) -> PredictionSet:
    return collect_predictions(outcome, LEAKS, model, dataset)


def test_prediction_set_survives_a_file(predictions: PredictionSet, tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    file.write_bytes(predictions.to_bytes())
    read = PredictionSet.read(file)
    assert read.leaks == predictions.leaks == LEAKS
    for one, other in zip(read.networks, predictions.networks, strict=True):
        assert (one.name, one.common_threshold) == (other.name, other.common_threshold)
        assert np.array_equal(one.probabilities, other.probabilities)
        assert np.array_equal(one.decisions, other.decisions)
    for name, value in vars(predictions.activations).items():
        assert np.array_equal(getattr(read.activations, name), value)


def test_collect_predictions_covers_the_test_part_with_the_chosen_network_first(
    predictions: PredictionSet, outcome: TrainingOutcome, dataset: Dataset
) -> None:
    assert predictions.networks[0].name == outcome.chosen.name
    assert {network.name for network in predictions.networks} == {"scratch", "frozen", "recipe", "recipe-tuned"}
    shape = len(dataset.rows("test")), len(dataset.genres)
    assert all(network.probabilities.shape == shape for network in predictions.networks)


def test_activation_examples_are_correct_predictions_on_validation_posters(
    predictions: PredictionSet, dataset: Dataset
) -> None:
    examples = predictions.activations
    assert 0 < len(examples.rows) <= 12
    assert set(dataset.parts[examples.rows]) == {"validation"}
    assert all(dataset.labels[examples.rows, examples.genres] == 1)
    assert len(set(examples.genres[:3].tolist())) == min(3, len(examples.rows))
    assert examples.maps.min() >= 0 and examples.maps.max() <= 1


def test_activation_examples_are_the_maps_of_the_served_graph(
    predictions: PredictionSet, model: Model, dataset: Dataset
) -> None:
    assert model.manifest.explains
    examples = predictions.activations
    _, maps = model.explained(dataset.images[examples.rows])
    for shown, served in zip(examples.maps, maps[np.arange(len(maps)), examples.genres], strict=True):
        assert shown == pytest.approx(served / served.max() if served.any() else served)


def test_prediction_set_refuses_other_files(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    file.write_bytes(b"PK")
    with pytest.raises(TrainingError, match="holds no predictions of a training"):
        PredictionSet.read(file)
    with pytest.raises(TrainingError, match="holds no predictions"):
        PredictionSet.read(tmp_path / "absent.npz")
