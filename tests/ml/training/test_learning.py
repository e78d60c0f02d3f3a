from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.errors import DatasetError, SettingError, TrainingError
from ml.networks.backbones import backbone
from ml.networks.pooling import PooledBody
from ml.networks.weights import Weights
from ml.reporting import NullReporter, Reporter
from ml.training import learning
from ml.training.bench import Bench
from ml.training.candidates import (
    FINE_TUNED,
    FINE_TUNED_FIRST,
    FINE_TUNED_SPACE,
    KERNEL_FIRST,
    SCRATCH_FIRST,
    Candidate,
)
from ml.training.checkpoints import NoCheckpoints
from ml.training.frozen import answers_of, head_of_training_part
from ml.training.gradient import train_by_gradient
from ml.training.learning import checkpoints_of, train_networks
from ml.training.outcome import TrainingOutcome


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

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        self.steps.append((done, total))


def test_networks_are_trained_and_the_better_one_is_chosen(outcome: TrainingOutcome) -> None:
    scratch, frozen = outcome.networks
    assert (scratch.name, scratch.trained, scratch.backbone) == ("scratch", "whole", None)
    assert (frozen.name, frozen.trained, frozen.backbone) == ("frozen", "frozen", "squeezenet1_1")
    assert outcome.chosen.validation.weighted_f1 == max(n.validation.weighted_f1 for n in outcome.networks)
    assert outcome.chosen.validation.weighted_f1 > 0.9
    assert all(len(network.trials) == 2 for network in outcome.networks)
    assert scratch.trials[0].parameters == vars(SCRATCH_FIRST)
    assert frozen.trials[0].parameters == vars(KERNEL_FIRST)
    assert all(network.network.training is False for network in (*outcome.networks, *outcome.recipes))


def test_a_frozen_backbone_is_byte_identical_after_training(outcome: TrainingOutcome, weights: Weights) -> None:
    for network in (outcome.networks[1], *outcome.recipes):
        body = network.network.body
        trained = (body.extractor if isinstance(body, PooledBody) else body).state_dict()
        assert trained.keys() == weights.state.keys()
        assert all(trained[key].numpy().tobytes() == weights.state[key].numpy().tobytes() for key in trained)


def test_fine_tuning_trains_the_whole_body_after_the_frozen_one_has_had_it(
    fine_tuned: TrainingOutcome, weights: Weights
) -> None:
    frozen, tuned = fine_tuned.networks
    assert (tuned.name, tuned.trained, tuned.backbone) == ("lp-ft", "lp-ft", "squeezenet1_1")
    before, after = (network.network.body.extractor.state_dict() for network in (frozen, tuned))
    assert all(torch.equal(before[key], weights.state[key]) for key in before)
    assert not any(torch.equal(after[key], weights.state[key]) for key in after if key.endswith("weight"))


def test_batch_normalisation_of_a_frozen_backbone_keeps_its_statistics(dataset: Dataset, quick: TrainConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        given = backbone("resnet18").body.state_dict()
    config = replace(quick, backbone="resnet18", candidates="frozen", trials=1)
    (network,) = train_networks(dataset, config, Weights(given, "sha256"), NullReporter()).networks
    trained = network.network.body.state_dict()
    assert sum("running_mean" in key for key in given) == 20
    assert all(trained[f"extractor.{key}"].numpy().tobytes() == given[key].numpy().tobytes() for key in given)


def test_fine_tuning_starts_from_the_head(dataset: Dataset, quick: TrainConfig, weights: Weights) -> None:
    """With a learning rate of next to nothing it answers as the head of the training part does."""
    bench = Bench(dataset, replace(quick, trials=1, epochs=1), choose_compute("cpu"), NoCheckpoints())
    with torch.random.fork_rng(devices=[]):
        transfer = learning._Transfer.make(bench, weights, NullReporter())
        head = head_of_training_part(bench, transfer.features, KERNEL_FIRST)
        still = replace(FINE_TUNED_FIRST, learning_rate=1e-12)
        candidate = Candidate(
            FINE_TUNED, "squeezenet1_1", "sha256", "lp-ft", {"dropout": (0,)}, still, lambda: transfer.body
        )
        outcome = train_by_gradient(bench, candidate, NullReporter(), lambda parameters: head)
    expected = answers_of(head, transfer.features.values.only(bench.validation))
    assert np.abs(outcome.validation_probabilities - expected).max() < 0.02
    assert set(FINE_TUNED_SPACE) == {"learning_rate", "weight_decay"}


def test_without_weights_the_backbone_is_trained_whole_and_the_recipe_is_a_small_network(
    dataset: Dataset, quick: TrainConfig
) -> None:
    config = replace(quick, candidates="frozen", trials=1, epochs=1)
    outcome = train_networks(dataset, config, None, NullReporter())
    (whole,) = outcome.networks
    assert (whole.name, whole.trained, whole.weights_sha256) == ("whole", "whole", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = backbone("squeezenet1_1").body.state_dict()
    trained = whole.network.body.state_dict()
    assert not any(torch.equal(fresh[key], trained[key]) for key in fresh if key.endswith("weight"))
    assert [(recipe.trained, recipe.backbone) for recipe in outcome.recipes] == [("whole", None)] * 2


def test_the_test_part_is_not_looked_at_and_the_random_state_and_threads_are_left_alone(
    dataset: Dataset, quick: TrainConfig, weights: Weights, outcome: TrainingOutcome, fine_tuned: TrainingOutcome
) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    config = replace(quick, candidates="scratch,frozen,lp-ft")
    runs = Runs()
    other = train_networks(replace(dataset, labels=labels), config, weights, runs)
    for one, two in zip(
        (*outcome.networks, fine_tuned.networks[1], *outcome.recipes), (*other.networks, *other.recipes), strict=True
    ):
        assert one.validation == two.validation
        assert np.array_equal(one.thresholds, two.thresholds)
        states = one.network.state_dict(), two.network.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    # What was told on the way, too, so that it need not be trained once more.
    told = {run.name: run.told for run in runs.all if run.name}
    networks = {f"/{name}" for name in ("scratch", "frozen", "lp-ft", "recipe", "recipe-tuned")}
    assert networks | {"/scratch/trial-2", "/frozen/trial-1", "/lp-ft/trial-2", "/recipe-tuned/trial-2"} <= set(told)
    curves = {"loss/training", "loss/validation", "weighted_f1/validation", "learning_rate"}
    for run in ("/scratch/trial-1", "/lp-ft/trial-1", "/recipe", "/recipe-tuned/trial-1"):
        assert curves <= told[run], run
    for name in ("/scratch", "/frozen", "/lp-ft"):
        assert {"weighted_f1", "mean_average_precision", "genre_f1/Comedy"} <= told[name]
    for run in runs.all:
        assert all(0 <= done <= total for done, total in run.steps), run.name


def test_the_recipe_is_never_chosen(outcome: TrainingOutcome) -> None:
    assert outcome.chosen in outcome.networks
    assert {recipe.name for recipe in outcome.recipes}.isdisjoint(network.name for network in outcome.networks)


def test_weights_that_are_no_numbers_end_with_the_reason(
    dataset: Dataset, quick: TrainConfig, weights: Weights
) -> None:
    state = {**weights.state, "features.0.bias": weights.state["features.0.bias"] * float("nan")}
    with pytest.raises(TrainingError, match="no numbers any more"):
        train_networks(dataset, replace(quick, candidates="frozen"), Weights(state, "damaged"), NullReporter())


def test_checkpoints_belong_to_one_training_and_stay_until_they_are_cleared(
    dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, candidates="scratch", trials=1, epochs=1)
    checkpoints = checkpoints_of(tmp_path, "one", dataset, config, None)
    other = checkpoints_of(tmp_path, "another", dataset, config, None)
    for each in (checkpoints, other):
        each.slot("left-behind").save({})
    train_networks(dataset, config, None, NullReporter(), checkpoints)
    assert checkpoints.slot("scratch-trial-1").load() is not None
    checkpoints.clear()
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["another"]
    assert other.slot("left-behind").load() == {}
    with pytest.raises(SettingError, match=r"dataset .* there and changed here"):
        checkpoints_of(tmp_path, "another", replace(dataset, key="changed"), config, None).slot("left-behind").load()


def test_a_dataset_without_a_validation_part_is_told(dataset: Dataset, quick: TrainConfig) -> None:
    parts = np.where(dataset.parts == "validation", "train", dataset.parts)
    with pytest.raises(DatasetError, match="No poster is in the validation part"):
        train_networks(replace(dataset, parts=parts), quick, None, NullReporter())
