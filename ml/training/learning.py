"""Trains all candidate networks and the recipe on one dataset, and chooses a candidate on the validation part."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ml.compute import choose_compute
from ml.configuration import TrainConfig, stored_settings
from ml.data.dataset import Dataset
from ml.data.splits import TRAIN, VALIDATION
from ml.errors import DatasetError
from ml.networks.backbones import HALF, Backbone
from ml.reporting import Reporter
from ml.scores.choice import Choice, Contender, choose
from ml.scores.metrics import Probabilities
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, chosen_candidates
from ml.training.checkpoints import CHECKPOINTS, Checkpoints
from ml.training.features import FeatureExchange, Pretrained
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from ml.training.recipe import HALF_RECIPE, RECIPE, TUNED, train_half_recipe, train_recipe

logger = logging.getLogger(__name__)

TRAINING_VERSION = 7
"""Raise this whenever the same data and settings would give other networks than before."""
_SAMPLES = 16


@dataclass(frozen=True)
class Trainings:
    """The networks to train on one bench: by name, a function that trains the network and returns it on the CPU.

    The functions do not change PyTorch's global random state, and their order does not matter. `pretrained` loads the
    pretrained backbone once, and returns None if there are no weights.
    """

    bench: Bench
    pretrained: Callable[[], Pretrained | None]
    candidates: Mapping[str, Callable[[], NetworkOutcome]]
    recipes: Mapping[str, Callable[[], NetworkOutcome]]


def plan_trainings(
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints,
    *,
    half_recipe: bool = False,
    exchange: FeatureExchange | None = None,
) -> Trainings:
    """Prepare the training of the candidates and the recipe.

    Args:
        dataset: needs posters in the training and validation parts.
        config: names the candidates.
        backbone: what candidates start from. If it has no pretrained weights, candidates that need them are replaced.
        reporter: receives curves and progress.
        checkpoints: let a killed training resume (see `checkpoints_of`). The caller clears them after it has stored
            the result.
        half_recipe: also train the recipe with mean and deviation 0.5, if the backbone was trained with other ones.
        exchange: shares the backbone's features with other machines.

    Raises SettingError, WeightsError, and DatasetError if a part is empty. Training raises TrainingError.
    """
    names = chosen_candidates(config, backbone.weights)
    check_parts(dataset, TRAIN, VALIDATION)
    bench = Bench(dataset, config, backbone, choose_compute(config.device), checkpoints)
    samples = bench.training[:_SAMPLES]
    reporter.images("posters", dataset.images[samples], [dataset.titles[row] for row in samples])

    @cache
    def pretrained() -> Pretrained | None:
        return Pretrained.load(bench, reporter, exchange) if backbone.weights else None

    def isolated(train: Callable[[], NetworkOutcome]) -> Callable[[], NetworkOutcome]:
        def run() -> NetworkOutcome:
            device = bench.compute.device
            # Training sets seeds. The caller's random state must not change.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                network = train()
            network.network.cpu().eval()
            return network

        return run

    def candidate(name: str) -> Callable[[], NetworkOutcome]:
        return isolated(lambda: _train(name, bench, pretrained(), reporter))

    def recipe(name: str) -> Callable[[], NetworkOutcome]:
        return isolated(lambda: train_recipe(name, bench, pretrained(), reporter))

    recipes = {name: recipe(name) for name in (RECIPE, TUNED)}
    if half_recipe and backbone.weights and backbone.normalisation != HALF:
        recipes[HALF_RECIPE] = isolated(lambda: train_half_recipe(bench, reporter))
    return Trainings(bench, pretrained, {name: candidate(name) for name in names}, recipes)


def check_parts(dataset: Dataset, *parts: str) -> None:
    """Raise DatasetError if one of these parts of a dataset is empty."""
    for part in parts:
        if not len(dataset.rows(part)):
            raise DatasetError(f"The {part} part has no posters. Add posters of more franchises.")


def train_networks(
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints,
    exchange: FeatureExchange | None = None,
) -> TrainingOutcome:
    """Train the candidates and the recipe (see `plan_trainings`), and choose a candidate on the validation part."""
    trainings = plan_trainings(dataset, config, backbone, reporter, checkpoints, exchange=exchange)
    networks = tuple(train() for train in trainings.candidates.values())
    recipes = tuple(train() for train in trainings.recipes.values())
    bench, pretrained = trainings.bench, trainings.pretrained()
    choice = choose_candidate(
        bench, {each.name: (each.gradient_weights, each.validation_probabilities) for each in networks}
    )
    chosen = next(network for network in networks if network.name == choice.name)
    features = pretrained.features if pretrained else None
    return TrainingOutcome(networks, chosen, choice.reason, recipes, bench, features)


def choose_candidate(bench: Bench, candidates: Mapping[str, tuple[int, Probabilities]]) -> Choice:
    """Choose the cheapest candidate within one standard error of the highest weighted F1 (`ml.scores.choice`).

    `candidates` has, by name, the cost and the validation part's probabilities [V, G]. A network's cost is the number
    of weights that gradient steps train: 0 for a head on a frozen backbone, few for the network from scratch, all of
    the backbone's for the others. The more weights, the longer each new training takes and the more posters it needs.
    """
    contenders = [
        Contender(name, cost, bench.decisions(probabilities)) for name, (cost, probabilities) in candidates.items()
    ]
    choice = choose(contenders, bench.truth, bench.dataset.franchises[bench.validation])
    logger.info("%s", choice.reason)
    return choice


def checkpoints_of(
    workspace: Path,
    name: str,
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    saved: Callable[[Path], None] = lambda file: None,
    about: Mapping[str, object] = MappingProxyType({}),
) -> Checkpoints:
    """The workspace's checkpoints of the training with this name. `saved` is called with each file that is written.

    `about` are further values that must match before a training resumes.
    """
    about = {
        **training_settings(config, backbone),
        **about,
        "dataset": dataset.key,
        "version": TRAINING_VERSION,
    }
    return Checkpoints(workspace / CHECKPOINTS / name, about, saved=saved)


def training_settings(config: TrainConfig, backbone: Backbone) -> dict[str, Any]:
    """The settings that identify a training. Backbone and weights are those by content, not by address."""
    weights = backbone.weights_file.sha256 if backbone.weights_file else None
    return {**stored_settings(config), "backbone": backbone.key, "weights": weights}


def _train(name: str, bench: Bench, pretrained: Pretrained | None, reporter: Reporter) -> NetworkOutcome:
    """Train one candidate as a nested run."""
    candidate, compute = CANDIDATES[name], bench.compute
    parameters = {**stored_settings(bench.config), "network": name, "compute": f"{compute.device} {compute.precision}"}
    with reporter.run(name, parameters) as network_reporter:
        network = candidate.train(candidate, bench, pretrained, network_reporter)
    logger.info("%s: weighted F1 %.3f on validation, %.0f s", name, network.validation.weighted_f1, network.seconds)
    return network
