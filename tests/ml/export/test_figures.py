import json

import numpy as np
import pytest

from ml.data.dataset import Dataset
from ml.data.splits import VALIDATION
from ml.export.figures import _confusions, figures
from ml.scores.metrics import Labels, Probabilities, weighted_f1
from ml.scores.thresholds import fit_thresholds
from ml.training.outcome import TrainingOutcome

pytestmark = pytest.mark.train


def test_figures_equal_the_validation_scores_of_the_network(outcome: TrainingOutcome, dataset: Dataset) -> None:
    for network in outcome.networks:
        found = figures(network.validation_probabilities, network.thresholds, dataset)
        scores = network.validation
        assert found["posters"] == scores.posters == len(dataset.rows(VALIDATION))
        assert found["weighted_f1"]["value"] == pytest.approx(scores.weighted_f1, abs=5e-5)
        assert found["mean_average_precision"]["value"] == pytest.approx(scores.mean_average_precision, abs=5e-5)
        for written, genre, expected, threshold in zip(
            found["genres"], dataset.genres, scores.genres, network.thresholds, strict=True
        ):
            assert (written["id"], written["name"], written["posters"]) == (genre.id, genre.name, expected.support)
            assert written["f1"]["value"] == pytest.approx(expected.f1, abs=5e-5)
            assert written["average_precision"] == pytest.approx(expected.average_precision, abs=5e-5)
            assert 0 <= written["calibration_error"] < 0.5
            assert written["brier_skill"] > 0.3
            assert written["threshold"] == pytest.approx(threshold, abs=5e-5)
        for interval in (found["weighted_f1"], found["mean_average_precision"], *(g["f1"] for g in found["genres"])):
            assert 0 <= interval["low"] <= interval["high"] <= 1


def test_figures_name_their_dataset_and_are_json(outcome: TrainingOutcome, dataset: Dataset) -> None:
    network = outcome.chosen
    found = figures(network.validation_probabilities, network.thresholds, dataset)
    assert found["part"] == "validation"
    parts = {part: int((dataset.parts == part).sum()) for part in ("train", "validation", "test")}
    assert found["dataset"] == {"key": dataset.key, "posters": parts}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert figures(network.validation_probabilities, network.thresholds, dataset) == found


def test_figures_do_not_score_thresholds_on_the_posters_they_were_fitted_on(dataset: Dataset) -> None:
    """With random probabilities, thresholds fitted on the same posters would look better than they are."""
    labels = dataset.labels[dataset.rows(VALIDATION)]
    noise: Probabilities = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    thresholds = fit_thresholds(noise, labels)
    found = figures(noise, thresholds, dataset)
    assert found["weighted_f1"]["value"] < weighted_f1(noise >= thresholds, labels) - 0.02


def test_confusions_count_posters_with_a_missed_and_a_wrong_genre() -> None:
    labels: Labels = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]], np.uint8)
    decisions = np.array([[0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]], np.bool_)
    assert _confusions(decisions, labels, ("Action", "Comedy", "Drama")) == [
        {"missed": "Action", "given": "Comedy", "posters": 2},
        {"missed": "Action", "given": "Drama", "posters": 1},
        {"missed": "Comedy", "given": "Action", "posters": 1},
    ]
    assert _confusions(labels == 1, labels, ("Action", "Comedy", "Drama")) == []


def test_confusions_are_limited_to_the_twelve_most_frequent() -> None:
    generator = np.random.default_rng(0)
    labels: Labels = generator.integers(0, 2, (100, 6), np.uint8)
    decisions = generator.random((100, 6)) < 0.5
    names = tuple("ABCDEF")
    found = _confusions(decisions, labels, names)
    counts = sorted(
        (
            int(((labels[:, i] == 1) & ~decisions[:, i] & (labels[:, j] == 0) & decisions[:, j]).sum())
            for i in range(6)
            for j in range(6)
        ),
        reverse=True,
    )
    assert [each["posters"] for each in found] == counts[:12]
