import json

import numpy as np
import pytest

from ml.data.dataset import Dataset
from ml.data.decoding import Poster
from ml.evaluation.judge import Evaluation, baselines, judge, predict, report_page
from ml.evaluation.predictions import Answers, collect_answers
from ml.scores.metrics import weighted_f1
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import Model


@pytest.fixture(scope="module")
def answers(outcome: TrainingOutcome, dataset: Dataset) -> Answers:
    return collect_answers(outcome, dataset)


@pytest.fixture(scope="module")
def verdict(model: Model, answers: Answers, dataset: Dataset) -> Evaluation:
    return judge(model, answers, dataset)


def test_what_is_scored_is_what_is_served(
    verdict: Evaluation, model: Model, dataset: Dataset, posters: list[Poster]
) -> None:
    rows = dataset.rows("test")
    files = {poster.id: poster.file for poster in posters}
    served = model.predict([files[dataset.ids[row]].read_bytes() for row in rows])
    decisions = np.array([[genre.predicted for genre in poster] for poster in served])
    assert verdict.chosen.scores.weighted_f1 == weighted_f1(decisions, dataset.labels[rows])
    assert np.array_equal(predict(model, dataset, "test")[1], decisions)


def test_the_chosen_network_stands_beside_the_others_the_recipe_and_the_baselines(
    verdict: Evaluation, outcome: TrainingOutcome
) -> None:
    names = [model.name for model in verdict.models]
    assert names[0] == outcome.chosen.name
    assert {"scratch", "frozen", "recipe", "recipe-tuned"} == set(names[:4])
    assert names[4:] == ["every genre", "genre frequencies", "colour histogram"]
    assert [each.opponent for each in verdict.comparisons] == names[1:4]


def test_a_model_that_learned_beats_what_looks_at_no_poster(verdict: Evaluation, dataset: Dataset) -> None:
    scores, others = verdict.chosen.scores, baselines(dataset)
    for name in ("every genre", "genre frequencies"):
        assert scores.weighted_f1 > others[name].weighted_f1 + 0.1
        assert scores.mean_average_precision > others[name].mean_average_precision + 0.1
    assert all(other.posters == scores.posters == len(dataset.rows("test")) for other in others.values())


def test_figures_have_intervals_thresholds_and_calibration(verdict: Evaluation) -> None:
    chosen = verdict.chosen
    assert chosen.by_threshold is not None and chosen.intervals is not None and chosen.calibration_error is not None
    assert chosen.by_threshold.at_own == chosen.scores.weighted_f1
    assert chosen.intervals.weighted_f1.low <= chosen.scores.weighted_f1 <= chosen.intervals.weighted_f1.high
    assert 0 <= chosen.calibration_error < 0.5
    other = verdict.models[1].scores.weighted_f1
    gain = verdict.comparisons[0].differences.weighted_f1
    assert gain.value == pytest.approx(chosen.scores.weighted_f1 - other)


def test_figures_can_be_written_as_json(verdict: Evaluation, outcome: TrainingOutcome) -> None:
    document = json.loads(json.dumps(verdict.as_dict()))
    genre = document["test"][outcome.chosen.name]["genres"][1]
    assert genre["genre"] == "Comedy"
    assert set(genre) == {"genre", "precision", "recall", "f1", "average_precision", "support"}
    assert set(document["differences"]) >= {"recipe", "recipe-tuned"}


def test_the_page_shows_the_models_the_leaks_and_posters(
    verdict: Evaluation, answers: Answers, dataset: Dataset
) -> None:
    page = report_page(verdict, answers, dataset)
    assert page == report_page(verdict, answers, dataset)
    assert "recipe-tuned" in page and "copying siblings" in page
    assert page.count("data:image/jpeg;base64,") + page.count("data:image/webp;base64,") > 12
    assert "http://" not in page.replace("http://www.w3.org", "")
