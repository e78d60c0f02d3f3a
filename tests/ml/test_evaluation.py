import json

import numpy as np

from ml.dataset import Dataset
from ml.evaluation import baselines, evaluate, predict
from ml.metrics import weighted_f1
from ml.posters import Poster
from serving.function.model import Model


def test_what_is_scored_is_what_is_served(model: Model, dataset: Dataset, posters: list[Poster]) -> None:
    scores = evaluate(model, dataset)
    rows = dataset.rows("test")
    files = {poster.id: poster.file for poster in posters}
    served = model.predict([files[dataset.ids[row]].read_bytes() for row in rows])
    decisions = np.array([[genre.predicted for genre in poster] for poster in served])
    assert scores.weighted_f1 == weighted_f1(decisions, dataset.labels[rows])
    assert np.array_equal(predict(model, dataset, "test")[1], decisions)


def test_a_model_that_learned_beats_both_baselines(model: Model, dataset: Dataset) -> None:
    scores, others = evaluate(model, dataset), baselines(dataset)
    assert set(others) == {"every genre", "genre frequencies"}
    for other in others.values():
        assert scores.weighted_f1 > other.weighted_f1 + 0.1
        assert scores.mean_average_precision > other.mean_average_precision + 0.1
        assert other.posters == scores.posters == len(dataset.rows("test"))


def test_scores_can_be_written_as_json(model: Model, dataset: Dataset) -> None:
    document = json.loads(json.dumps(evaluate(model, dataset).as_dict()))
    assert document["genres"][1]["genre"] == "Comedy"
    assert set(document["genres"][1]) == {"genre", "precision", "recall", "f1", "average_precision", "support"}
