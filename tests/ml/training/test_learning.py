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
from ml.networks.backbones import Backbone, read_backbone
from ml.networks.pooling import PooledBody
from ml.networks.weights import Weights, WeightsFile
from ml.reporting import NullReporter, Reporter
from ml.scores.choice import Contender, choose
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, FINE_TUNED, FROZEN, SCRATCH
from ml.training.features import Pretrained
from ml.training.frozen import KERNEL_FIRST, fit_head, head_probabilities
from ml.training.learning import checkpoints_of, train_networks
from ml.training.outcome import TrainingOutcome
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


class Runs(NullReporter):
    """Records the names of nested runs, and the scalars and progress reported to each."""

    def __init__(self, name: str = "", all: list["Runs"] | None = None) -> None:
        self.name, self.all = name, [] if all is None else all
        self.scalar_names: set[str] = set()
        self.steps: list[tuple[int, int]] = []
        self.all.append(self)

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        assert parameters
        yield Runs(f"{self.name}/{name}", self.all)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        assert all(type(value) is float for value in values.values())
        self.scalar_names |= set(values)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        self.steps.append((done, total))


def test_training_starts_with_the_first_hyperparameters_and_ends_with_good_networks(outcome: TrainingOutcome) -> None:
    scratch, frozen = outcome.networks
    assert (scratch.name, scratch.trained, scratch.backbone) == ("scratch", "whole", None)
    assert (frozen.name, frozen.trained, frozen.backbone) == ("frozen", "frozen", "squeezenet1_1")
    assert min(network.validation.weighted_f1 for network in outcome.networks) > 0.85
    assert all(len(network.trials) == 2 for network in outcome.networks)
    assert scratch.trials[0].parameters == CANDIDATES[SCRATCH].first
    assert frozen.trials[0].parameters == CANDIDATES[FROZEN].first
    assert all(network.network.training is False for network in (*outcome.networks, *outcome.recipes))


def test_training_chooses_the_cheapest_network_within_one_standard_error(fine_tuned: TrainingOutcome) -> None:
    frozen, tuned = fine_tuned.networks
    assert frozen.gradient_weights == 0 < tuned.gradient_weights
    bench = fine_tuned.bench
    contenders = [
        Contender(each.name, each.gradient_weights, bench.decisions(each.validation_probabilities))
        for each in fine_tuned.networks
    ]
    choice = choose(contenders, bench.truth, bench.dataset.franchises[bench.validation])
    assert (fine_tuned.chosen.name, fine_tuned.reason) == (choice.name, choice.reason)


def test_frozen_backbone_keeps_its_weights_byte_for_byte(outcome: TrainingOutcome, squeezenet: Backbone) -> None:
    for network in (outcome.networks[1], *outcome.recipes):
        body = network.network.body
        trained = (body.maps.extractor if isinstance(body, PooledBody) else body).state_dict()
        assert trained.keys() == squeezenet.weights.state.keys()
        assert all(trained[key].numpy().tobytes() == squeezenet.weights.state[key].numpy().tobytes() for key in trained)


def test_frozen_backbone_keeps_its_batch_norm_statistics(dataset: Dataset, quick: TrainConfig) -> None:
    with torch.random.fork_rng(devices=[]):
        given = read_backbone("resnet18", "none", Path()).body().state_dict()
    config = replace(quick, backbone="resnet18", candidates=("frozen",), trials=1)
    resnet = replace(read_backbone("resnet18", "none", Path()), weights=Weights(given, WeightsFile("sha256")))
    (network,) = train_networks(dataset, config, resnet, NullReporter(), NoCheckpoints()).networks
    trained = network.network.body.state_dict()
    assert sum("running_mean" in key for key in given) == 20
    assert all(trained[f"maps.extractor.{key}"].numpy().tobytes() == given[key].numpy().tobytes() for key in given)


def test_fine_tuning_trains_all_weights_of_a_copy_of_the_body(
    fine_tuned: TrainingOutcome, squeezenet: Backbone
) -> None:
    frozen, tuned = fine_tuned.networks
    assert (tuned.name, tuned.trained, tuned.backbone) == ("lp-ft", "lp-ft", "squeezenet1_1")
    before, after = (network.network.body.maps.extractor.state_dict() for network in (frozen, tuned))
    assert all(torch.equal(before[key], squeezenet.weights.state[key]) for key in before)
    assert not any(torch.equal(after[key], squeezenet.weights.state[key]) for key in after if key.endswith("weight"))


def test_fine_tuning_starts_from_the_fitted_head(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> None:
    """With a learning rate near zero it predicts what its first head predicts."""
    bench = Bench(dataset, replace(quick, trials=1, epochs=1), squeezenet, choose_compute("cpu"), NoCheckpoints())
    tuned = CANDIDATES[FINE_TUNED]
    still = replace(tuned, space={"dropout": (0,)}, first={**tuned.first, "learning_rate": 1e-12})
    with torch.random.fork_rng(devices=[]):
        loaded = Pretrained.load(bench, NullReporter())
        head = fit_head(bench, loaded.features, bench.training, KERNEL_FIRST)
        outcome = still.train(still, bench, loaded, NullReporter())
    expected = head_probabilities(head, loaded.features.select(bench.validation))
    assert np.abs(outcome.validation_probabilities - expected).max() < 0.02


def test_training_without_weights_trains_the_whole_backbone(
    dataset: Dataset, quick: TrainConfig, random_squeezenet: Backbone
) -> None:
    config = replace(quick, candidates=("frozen",), trials=1, epochs=1)
    outcome = train_networks(dataset, config, random_squeezenet, NullReporter(), NoCheckpoints())
    (whole,) = outcome.networks
    assert (whole.name, whole.trained, whole.weights) == ("whole", "whole", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        fresh = random_squeezenet.body().state_dict()
    trained = whole.network.body.state_dict()
    assert not any(torch.equal(fresh[key], trained[key]) for key in fresh if key.endswith("weight"))
    assert [(recipe.trained, recipe.backbone) for recipe in outcome.recipes] == [("whole", None)] * 2


def test_training_uses_validation_labels_for_nothing_but_thresholds_the_choice_and_the_served_head(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone, outcome: TrainingOutcome, fine_tuned: TrainingOutcome
) -> None:
    """With other validation labels, all networks but the served frozen one are the same, epoch and trial included."""
    labels, rows = dataset.labels.copy(), dataset.rows("validation")
    labels[rows] = 1 - labels[rows]
    config = replace(quick, candidates=("scratch", "frozen", "lp-ft"))
    other = train_networks(replace(dataset, labels=labels), config, squeezenet, NullReporter(), NoCheckpoints())
    before = (*outcome.networks, fine_tuned.networks[1], *outcome.recipes)
    for one, two in zip(before, (*other.networks, *other.recipes), strict=True):
        assert np.array_equal(one.validation_probabilities, two.validation_probabilities), one.name
        assert one.best.parameters == two.best.parameters
        states = one.network.head.state_dict(), two.network.head.state_dict()
        is_same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert is_same == (one.name != "frozen"), one.name


def test_training_ignores_test_labels_and_restores_random_state_and_threads(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone, outcome: TrainingOutcome, fine_tuned: TrainingOutcome
) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    labels = dataset.labels.copy()
    labels[dataset.rows("test")] = 1 - labels[dataset.rows("test")]
    config = replace(quick, candidates=("scratch", "frozen", "lp-ft"))
    runs = Runs()
    other = train_networks(replace(dataset, labels=labels), config, squeezenet, runs, NoCheckpoints())
    for one, two in zip(
        (*outcome.networks, fine_tuned.networks[1], *outcome.recipes), (*other.networks, *other.recipes), strict=True
    ):
        assert one.validation == two.validation
        assert np.array_equal(one.thresholds, two.thresholds)
        states = one.network.state_dict(), two.network.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    reported = {run.name: run.scalar_names for run in runs.all if run.name}  # checked here to save another training
    networks = {f"/{name}" for name in ("scratch", "frozen", "lp-ft", "recipe", "recipe-tuned")}
    trials = {"/scratch/trial-2", "/frozen/trial-1", "/lp-ft/trial-2", "/recipe-tuned/trial-2"}
    assert networks | trials <= set(reported)
    parts = {"scratch": "selection", "lp-ft": "selection", "recipe": "validation", "recipe-tuned": "selection"}
    runs_of_parts = [(f"/{name}/trial-1", part) for name, part in parts.items()]
    refits = [(f"/{name}/refit", "validation") for name in ("scratch", "lp-ft", "recipe-tuned")]
    for name, part in (*runs_of_parts, *refits):
        curves = {"train/loss", f"{part}/loss", f"{part}/weighted_f1", "learning_rate"}
        assert curves <= reported[name], name
    for run in runs.all:
        assert all(0 <= done <= total for done, total in run.steps), run.name


def test_training_with_weights_that_are_not_finite_raises(
    dataset: Dataset, quick: TrainConfig, squeezenet: Backbone
) -> None:
    state = {**squeezenet.weights.state, "features.0.bias": squeezenet.weights.state["features.0.bias"] * float("nan")}
    damaged = replace(squeezenet, weights=Weights(state, WeightsFile("damaged")))
    with pytest.raises(TrainingError, match="features are not finite"):
        train_networks(dataset, replace(quick, candidates=("frozen",)), damaged, NullReporter(), NoCheckpoints())


def test_training_without_a_validation_part_raises(
    dataset: Dataset, quick: TrainConfig, random_squeezenet: Backbone
) -> None:
    parts = np.where(dataset.parts == "validation", "train", dataset.parts)
    with pytest.raises(DatasetError, match="The validation part has no posters"):
        train_networks(replace(dataset, parts=parts), quick, random_squeezenet, NullReporter(), NoCheckpoints())


def test_checkpoints_belong_to_one_training_until_they_are_cleared(
    dataset: Dataset, quick: TrainConfig, random_squeezenet: Backbone, tmp_path: Path
) -> None:
    config = replace(quick, candidates=("scratch",), trials=1, epochs=1)
    checkpoints = checkpoints_of(tmp_path, "one", dataset, config, random_squeezenet)
    other = checkpoints_of(tmp_path, "another", dataset, config, random_squeezenet)
    for each in (checkpoints, other):
        each.slot("left-behind").save({})
    train_networks(dataset, config, random_squeezenet, NullReporter(), checkpoints)
    assert checkpoints.slot("scratch-trial-1").load() is not None
    checkpoints.clear()
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["another"]
    assert other.slot("left-behind").load() == {}
    with pytest.raises(SettingError, match=r"dataset is .* in the checkpoint and changed now"):
        checkpoints_of(tmp_path, "another", replace(dataset, key="changed"), config, random_squeezenet).slot(
            "left-behind"
        ).load()


def test_training_refuses_checkpoints_of_other_settings(
    dataset: Dataset, quick: TrainConfig, random_squeezenet: Backbone, tmp_path: Path
) -> None:
    config = replace(quick, candidates=("scratch",), trials=2, epochs=2)
    checkpoints_of(tmp_path, "name", dataset, config, random_squeezenet).slot("scratch-trial-1").save({})
    other = replace(config, epochs=3)
    with pytest.raises(SettingError, match="epochs is 2 in the checkpoint and 3 now"):
        train_networks(
            dataset,
            other,
            random_squeezenet,
            NullReporter(),
            checkpoints_of(tmp_path, "name", dataset, other, random_squeezenet),
        )
    assert (tmp_path / "checkpoints" / "name" / "scratch-trial-1.pt").exists()
