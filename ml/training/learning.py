"""Trains all candidate networks and the recipe on one dataset, and chooses a candidate on the validation part."""

import logging
from pathlib import Path
from typing import Any

import torch

from ml.compute import choose_compute
from ml.configuration import TrainConfig, stored_settings
from ml.data.dataset import Dataset
from ml.data.splits import TRAIN, VALIDATION
from ml.errors import DatasetError
from ml.networks.backbones import HALF, Backbone
from ml.reporting import Reporter
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, chosen_candidates
from ml.training.checkpoints import CHECKPOINTS, Checkpoints, NoCheckpoints
from ml.training.features import Pretrained
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from ml.training.recipe import train_half_recipe, train_recipes

logger = logging.getLogger(__name__)

TRAINING_VERSION = 5
"""Raise this whenever the same data and settings would give other networks than before."""
_SAMPLES = 16


def train_networks(
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints | NoCheckpoints | None = None,
    *,
    half_recipe: bool = False,
) -> TrainingOutcome:
    """Train the candidates and the recipe, and choose the candidate with the highest validation weighted F1.

    Args:
        dataset: needs posters in the training and validation parts.
        config: names the candidates.
        backbone: what candidates start from. If it has no pretrained weights, candidates that need them are replaced.
        reporter: receives curves and progress.
        checkpoints: let a killed training resume (see `checkpoints_of`). The caller clears them after it has stored
            the result.
        half_recipe: also train the recipe with mean and deviation 0.5, if the backbone was trained with other ones.

    Raises SettingError, WeightsError, TrainingError, and DatasetError if a part is empty.
    """
    names = chosen_candidates(config, backbone.weights)
    for part in (TRAIN, VALIDATION):
        if not len(dataset.rows(part)):
            raise DatasetError(f"The {part} part has no posters. Add posters of more franchises.")
    bench = Bench(dataset, config, backbone, choose_compute(config.device), checkpoints or NoCheckpoints())
    device = bench.compute.device
    samples = bench.training[:_SAMPLES]
    reporter.images("posters", dataset.images[samples], [dataset.titles[row] for row in samples])
    # Training sets seeds. The caller's random state must not change.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pretrained = Pretrained.load(bench, reporter) if backbone.weights else None
        networks = tuple(_train(name, bench, pretrained, reporter) for name in names)
        recipes = train_recipes(bench, pretrained, reporter)
        if half_recipe and pretrained and backbone.normalisation != HALF:
            recipes += (train_half_recipe(bench, reporter),)
    chosen = max(networks, key=lambda network: network.validation.weighted_f1)
    logger.info("The network '%s' has the highest weighted F1 on the validation part.", chosen.name)
    for network in (*networks, *recipes):
        network.network.cpu().eval()
    return TrainingOutcome(networks, chosen, recipes, bench, pretrained.features if pretrained else None)


def checkpoints_of(
    workspace: Path, name: str, dataset: Dataset, config: TrainConfig, backbone: Backbone
) -> Checkpoints:
    """The workspace's checkpoints of the training with this name."""
    about = {
        **training_settings(config, backbone),
        "dataset": dataset.key,
        "version": TRAINING_VERSION,
    }
    return Checkpoints(workspace / CHECKPOINTS / name, about)


def training_settings(config: TrainConfig, backbone: Backbone) -> dict[str, Any]:
    """The settings by which a training is known again. Backbone and weights are those by content, not by address."""
    weights = backbone.weights.file.sha256 if backbone.weights else None
    return {**stored_settings(config), "backbone": backbone.key, "weights": weights}


def _train(name: str, bench: Bench, pretrained: Pretrained | None, reporter: Reporter) -> NetworkOutcome:
    """Train one candidate as a nested run."""
    candidate, compute = CANDIDATES[name], bench.compute
    parameters = {**stored_settings(bench.config), "network": name, "compute": f"{compute.device} {compute.precision}"}
    with reporter.run(name, parameters) as network_reporter:
        network = candidate.train(candidate, bench, pretrained, network_reporter)
    logger.info("%s: weighted F1 %.3f on validation, %.0f s", name, network.validation.weighted_f1, network.seconds)
    return network
