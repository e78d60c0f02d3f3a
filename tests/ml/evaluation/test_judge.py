import json
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.decoding import Poster
from ml.evaluation.judge import Evaluation, judge, predict
from ml.evaluation.predictions import collect_predictions
from ml.scores.calibration import brier_skill
from ml.scores.metrics import weighted_f1
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import Model

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def evaluation(model: Model, outcome: TrainingOutcome, dataset: Dataset) -> Evaluation:
    return judge(model, collect_predictions(outcome, (), model, dataset), dataset)


def test_judge_scores_what_is_served(
    evaluation: Evaluation, model: Model, dataset: Dataset, posters: list[Poster]
) -> None:
    rows = dataset.rows("test")
    files = {poster.id: poster.file for poster in posters}
    served = model.predict([files[dataset.ids[row]].read_bytes() for row in rows])
    decisions = np.array([[genre.predicted for genre in poster] for poster in served])
    assert evaluation.chosen.scores.weighted_f1 == weighted_f1(decisions, dataset.labels[rows])
    assert np.array_equal(evaluation.chosen.predictions.decisions, decisions)


def test_evaluation_tells_how_far_served_probabilities_are_from_those_of_the_training(
    evaluation: Evaluation, model: Model, outcome: TrainingOutcome, dataset: Dataset
) -> None:
    assert 0 <= evaluation.probability_difference < 0.002
    predictions = collect_predictions(outcome, (), model, dataset)
    other = replace(predictions, networks=predictions.networks[::-1])
    assert judge(model, other, dataset).probability_difference > 0.01, "the predictions of another network"


def test_evaluation_lists_the_chosen_network_the_others_and_the_baselines(
    evaluation: Evaluation, outcome: TrainingOutcome
) -> None:
    names = list(evaluation.scores)
    assert names[0] == outcome.chosen.name
    assert {"scratch", "frozen", "recipe", "recipe-tuned"} == set(names[:4])
    assert names[4:] == ["every genre", "genre frequencies", "colour histogram"]
    assert list(evaluation.differences) == names[1:4]


def test_evaluation_of_a_trained_network_beats_baselines_that_see_no_poster(evaluation: Evaluation) -> None:
    scores = evaluation.chosen.scores
    for name in ("every genre", "genre frequencies"):
        assert scores.weighted_f1 > evaluation.baselines[name].weighted_f1 + 0.1
        assert scores.mean_average_precision > evaluation.baselines[name].mean_average_precision + 0.1


def test_model_figures_are_consistent(evaluation: Evaluation, dataset: Dataset) -> None:
    chosen = evaluation.chosen
    assert chosen.by_threshold.at_own == chosen.scores.weighted_f1
    assert chosen.intervals.weighted_f1.low <= chosen.scores.weighted_f1 <= chosen.intervals.weighted_f1.high
    assert 0 <= chosen.calibration_error < 0.5
    rows, rates = dataset.rows("test"), dataset.labels[dataset.rows("train")].mean(0)
    assert chosen.brier_skill == brier_skill(chosen.predictions.probabilities, dataset.labels[rows], rates) > 0.5
    other = evaluation.networks[1]
    gain = evaluation.differences[other.name].weighted_f1
    assert gain.value == pytest.approx(chosen.scores.weighted_f1 - other.scores.weighted_f1)


def test_evaluation_metrics_have_their_full_names(evaluation: Evaluation) -> None:
    metrics, chosen = evaluation.metrics(), evaluation.chosen
    assert metrics["test/weighted_f1"] == chosen.scores.weighted_f1
    assert metrics["test/f1/Comedy"] == chosen.scores.genres[1].f1
    assert metrics["test/brier_skill"] == chosen.brier_skill
    assert metrics["test/brier_skill/Comedy"] == chosen.genre_calibration[1].brier_skill
    assert metrics["test/calibration_error/Comedy"] == chosen.genre_calibration[1].calibration_error
    assert metrics["test/weighted_f1_minus/recipe"] == evaluation.differences["recipe"].weighted_f1.value
    assert all(name.startswith("test/") and type(value) is float for name, value in metrics.items())


def test_evaluation_as_dict_is_json(evaluation: Evaluation, outcome: TrainingOutcome) -> None:
    document = json.loads(json.dumps(evaluation.as_dict()))
    genre = document["test"][outcome.chosen.name]["genres"][1]
    assert set(genre) == {"genre", "precision", "recall", "f1", "average_precision", "support"}
    assert document["test"][outcome.chosen.name]["genre_calibration"][1]["genre"] == genre["genre"]
    assert set(document["test"]) == set(evaluation.scores)
    assert set(document["differences"]) == set(evaluation.differences)


def test_predict_keeps_few_posters_in_memory() -> None:
    images = _CountedImages()
    model = SimpleNamespace(
        manifest=SimpleNamespace(preprocessing=SimpleNamespace(size=8), genres=[SimpleNamespace(threshold=0.5)]),
        probabilities=lambda posters: np.full((len(posters), 1), 0.7),
    )
    dataset = SimpleNamespace(images=images, preprocessing=SimpleNamespace(size=8))
    probabilities, decisions = predict(model, dataset, rows=np.arange(640))  # type: ignore[arg-type]
    assert probabilities.shape == (640, 1)
    assert decisions.all()
    assert images.most <= 128


class _Block(np.ndarray):  # type: ignore[type-arg]
    """An array that can be in a set."""

    __hash__ = object.__hash__


class _CountedImages:
    """Posters that count how many of them are in memory at the same time."""

    def __init__(self) -> None:
        self._in_memory: weakref.WeakSet[_Block] = weakref.WeakSet()
        self.most = 0

    def __getitem__(self, rows: NDArray[np.int64]) -> _Block:
        block = np.zeros((len(rows), 3, 8, 8), np.uint8).view(_Block)
        self._in_memory.add(block)
        self.most = max(self.most, sum(map(len, self._in_memory)))
        return block
