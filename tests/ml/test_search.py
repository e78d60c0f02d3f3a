from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.candidates import HEAD_SPACE, SCRATCH_SPACE, check_settings
from ml.configuration import TrainConfig
from ml.dataset import Dataset
from ml.errors import SettingError, TrainingError, WeightsError
from ml.networks import backbone
from ml.reporting import NullReporter, Reporter
from ml.search import TrainingOutcome, train_networks
from ml.weights import Weights


def test_both_networks_are_trained_and_the_better_one_is_chosen(outcome: TrainingOutcome) -> None:
    scratch, transfer = outcome.networks
    assert (scratch.name, scratch.trained, scratch.backbone) == ("scratch", "whole", None)
    assert (transfer.name, transfer.trained, transfer.backbone) == ("transfer", "head", "squeezenet1_1")
    assert outcome.chosen.validation.weighted_f1 == max(n.validation.weighted_f1 for n in outcome.networks)
    assert outcome.chosen.validation.weighted_f1 > 0.9
    assert all(len(network.trials) == 2 for network in outcome.networks)
    assert scratch.trials[0].hyperparameters == SCRATCH_SPACE.first
    assert transfer.trials[0].hyperparameters == HEAD_SPACE.first


def test_a_frozen_backbone_is_byte_identical_after_training(outcome: TrainingOutcome, weights_file: Path) -> None:
    given = torch.load(weights_file, weights_only=True)
    trained = outcome.networks[1].network.body.state_dict()
    assert trained.keys() == given.keys()
    assert all(trained[key].numpy().tobytes() == given[key].numpy().tobytes() for key in given)


def test_batch_normalisation_of_a_frozen_backbone_keeps_its_statistics(dataset: Dataset, quick: TrainConfig) -> None:
    given = backbone("resnet18").body.state_dict()
    config = replace(quick, backbone="resnet18", trials=1, epochs=2)
    trained = (
        train_networks(dataset, config, Weights(given, "sha256"), NullReporter()).networks[1].network.body.state_dict()
    )
    assert sum("running_mean" in key for key in given) == 20
    assert all(trained[key].numpy().tobytes() == given[key].numpy().tobytes() for key in given)


def test_without_weights_the_network_is_trained_whole(dataset: Dataset, quick: TrainConfig) -> None:
    config = replace(quick, trials=1, epochs=1)
    transfer = train_networks(dataset, config, None, NullReporter()).networks[1]
    assert (transfer.trained, transfer.weights_sha256) == ("whole", None)
    torch.manual_seed(config.seed)
    fresh = backbone("squeezenet1_1").body.state_dict()
    trained = transfer.network.body.state_dict()
    assert not any(torch.equal(fresh[key], trained[key]) for key in fresh if key.endswith("weight"))


def test_the_test_part_is_not_looked_at(dataset: Dataset, quick: TrainConfig, weights: Weights) -> None:
    config = replace(quick, trials=1, epochs=1)
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    first, second = (
        train_networks(data, config, weights, NullReporter()) for data in (dataset, replace(dataset, labels=labels))
    )
    for one, other in zip(first.networks, second.networks, strict=True):
        assert one.validation == other.validation
        assert np.array_equal(one.thresholds, other.thresholds)


def test_training_leaves_the_random_state_and_the_threads_alone(
    dataset: Dataset, quick: TrainConfig, weights: Weights
) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train_networks(dataset, replace(quick, trials=1, epochs=1), weights, NullReporter())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


class Runs(NullReporter):
    """Remembers the names of nested runs, the scalars and the progress that were told."""

    def __init__(self, name: str = "", all: list["Runs"] | None = None) -> None:
        self.name, self.all = name, [] if all is None else all
        self.told: set[str] = set()
        self.steps: list[tuple[int, int]] = []
        self.all.append(self)

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        assert parameters
        yield Runs(f"{self.name}/{name}", self.all)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        assert all(type(value) is float for value in values.values())
        self.told |= set(values)

    def progress(self, done: int, total: int, what: str) -> None:
        self.steps.append((done, total))


def test_trials_are_nested_runs_with_curves_and_networks_have_scores_a_genre(
    dataset: Dataset, quick: TrainConfig, weights: Weights
) -> None:
    runs = Runs()
    train_networks(dataset, replace(quick, epochs=1), weights, runs)
    told = {run.name: run.told for run in runs.all if run.name}
    assert set(told) == {"/scratch", "/scratch/trial-1", "/scratch/trial-2"} | {
        "/transfer",
        "/transfer/trial-1",
        "/transfer/trial-2",
    }
    assert {"loss/training", "loss/validation", "weighted_f1/validation", "learning_rate"} <= told["/scratch/trial-2"]
    assert {"weighted_f1", "mean_average_precision", "genre_f1/Comedy"} <= told["/transfer"]
    assert next(run for run in runs.all if run.name == "/scratch").steps == [(1, 2), (2, 2)]


def test_networks_that_all_diverge_end_with_the_reason(dataset: Dataset, quick: TrainConfig, weights: Weights) -> None:
    state = {**weights.state, "features.0.bias": weights.state["features.0.bias"] * float("nan")}
    with pytest.raises(TrainingError, match="no number any more"):
        train_networks(dataset, quick, Weights(state, "sha256"), NullReporter())


def test_settings_are_checked_before_anything_starts(tmp_path: Path, weights_file: Path) -> None:
    check_settings(TrainConfig(backbone="squeezenet1_1", weights=str(weights_file)))
    check_settings(TrainConfig(weights="gs://bucket/weights.pth"))
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        check_settings(TrainConfig(backbone="resnet18", weights=str(weights_file)))
    with pytest.raises(WeightsError, match="cannot be read"):
        check_settings(TrainConfig(weights=str(tmp_path / "absent.pth")))
    with pytest.raises(SettingError, match="no backbone named"):
        check_settings(TrainConfig(backbone="resnet"))
    with pytest.raises(SettingError, match="no kind of device"):
        check_settings(TrainConfig(device="abacus"))
