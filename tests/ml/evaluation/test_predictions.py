from pathlib import Path

import numpy as np
import pytest

from ml.data.dataset import Dataset
from ml.errors import TrainingError
from ml.evaluation.predictions import Answers, collect_answers
from ml.training.outcome import TrainingOutcome


def test_answers_are_the_same_after_their_way_through_a_file(
    outcome: TrainingOutcome, dataset: Dataset, tmp_path: Path
) -> None:
    answers = collect_answers(outcome, dataset)
    file = tmp_path / "answers.npz"
    file.write_bytes(answers.to_bytes())
    read = Answers.read(file)
    assert read.leaks == answers.leaks
    for one, other in zip(read.networks, answers.networks, strict=True):
        assert one.name == other.name
        assert one.common_threshold == other.common_threshold
        assert np.array_equal(one.probabilities, other.probabilities)
        assert np.array_equal(one.decisions, other.decisions)
    for name, value in vars(answers.activations).items():
        assert np.array_equal(getattr(read.activations, name), value)


def test_the_chosen_network_answers_first_and_all_answer_about_the_test_part(
    outcome: TrainingOutcome, dataset: Dataset
) -> None:
    answers = collect_answers(outcome, dataset)
    assert answers.networks[0].name == outcome.chosen.name
    assert {answer.name for answer in answers.networks} == {"scratch", "frozen", "recipe", "recipe-tuned"}
    shape = len(dataset.rows("test")), len(dataset.genres)
    assert all(answer.probabilities.shape == shape for answer in answers.networks)


def test_activation_maps_are_of_right_answers_about_validation_posters(
    outcome: TrainingOutcome, dataset: Dataset
) -> None:
    maps = collect_answers(outcome, dataset).activations
    assert 0 < len(maps.rows) <= 12
    assert set(dataset.parts[maps.rows]) == {"validation"}
    assert all(dataset.labels[maps.rows, maps.genres] == 1)
    assert len(set(maps.genres[:3].tolist())) == min(3, len(maps.rows))
    assert maps.maps.min() >= 0 and maps.maps.max() <= 1


def test_a_file_that_holds_no_answers_is_a_training_error(tmp_path: Path) -> None:
    file = tmp_path / "answers.npz"
    file.write_bytes(b"PK")
    with pytest.raises(TrainingError, match="holds no answers of a training"):
        Answers.read(file)
    with pytest.raises(TrainingError, match="holds no answers"):
        Answers.read(tmp_path / "absent.npz")
