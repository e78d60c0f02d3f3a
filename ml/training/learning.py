"""All candidates and the recipe are trained on one dataset; validation chooses between the candidates."""

import copy
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import TRAIN, VALIDATION
from ml.errors import DatasetError
from ml.evaluation.leaks import leak_gauge
from ml.networks.backbones import Backbone, backbone, feature_count, scratch_body
from ml.networks.pooling import pooled
from ml.networks.weights import Weights
from ml.reporting import Reporter
from ml.training.bench import Bench
from ml.training.candidates import (
    FINE_TUNED,
    FINE_TUNED_FIRST,
    FINE_TUNED_SPACE,
    FROZEN,
    KERNEL_FIRST,
    SCRATCH,
    SCRATCH_FIRST,
    SCRATCH_SPACE,
    WHOLE,
    WHOLE_FIRST,
    WHOLE_SPACE,
    Candidate,
    chosen_candidates,
    pretrained,
)
from ml.training.checkpoints import Checkpoints, NoCheckpoints
from ml.training.features import Features, cached_features
from ml.training.frozen import head_of_training_part, train_frozen
from ml.training.gradient import train_by_gradient
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from ml.training.recipe import train_recipes

logger = logging.getLogger(__name__)

TRAINING_VERSION = 4
"""To be raised whenever the same data and settings would give other networks than before."""
_SAMPLES = 16


def train_networks(
    dataset: Dataset,
    config: TrainConfig,
    weights: Weights | None,
    reporter: Reporter,
    checkpoints: Checkpoints | NoCheckpoints | None = None,
    leaks: bool = True,
) -> TrainingOutcome:
    """Train the candidates and the recipe, and choose among the candidates by weighted F1 on the validation part.

    `weights` are the backbone's; without them what would transfer is trained whole. `checkpoints` (see
    `checkpoints_of`) let a training that was killed go on; whoever has kept what came of it clears them. `leaks` asks
    for the leak gauge. Raises SettingError, WeightsError, TrainingError, and DatasetError where a part is empty.
    """
    names = chosen_candidates(config, weights)
    for part in (TRAIN, VALIDATION):
        if not len(dataset.rows(part)):
            raise DatasetError(f"No poster is in the {part} part: more franchises are needed.")
    bench = Bench(dataset, config, choose_compute(config.device), checkpoints or NoCheckpoints())
    device = bench.compute.device
    samples = dataset.rows(TRAIN)[:_SAMPLES]
    reporter.images("posters", dataset.images[samples], [dataset.titles[row] for row in samples])
    # Seeds are set on the way; the caller's random state is to be as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        transfer = _Transfer.make(bench, weights, reporter) if weights else None
        outcomes = tuple(_train(name, bench, transfer, reporter) for name in names)
        recipes = train_recipes(
            bench,
            transfer.plain if transfer else None,
            weights.sha256 if weights else None,
            transfer.features if transfer else None,
            reporter,
        )
        gauge = leak_gauge(bench, transfer.features if transfer else None) if leaks else ()
    chosen = max(outcomes, key=lambda outcome: outcome.validation.weighted_f1)
    logger.info("Chosen on the validation part: the network '%s'.", chosen.name)
    for outcome in (*outcomes, *recipes):
        outcome.network.cpu().eval()
    return TrainingOutcome(outcomes, chosen, recipes, gauge)


def checkpoints_of(
    workspace: Path, name: str, dataset: Dataset, config: TrainConfig, weights: Weights | None
) -> Checkpoints:
    """Where a workspace keeps the checkpoints of the training of this name."""
    about = {
        **asdict(config),
        "weights": weights.sha256 if weights else None,
        "dataset": dataset.key,
        "version": TRAINING_VERSION,
    }
    return Checkpoints(workspace / "checkpoints" / name, about)


class _Transfer:
    """The pretrained backbone, plain and pooled, and its features of all posters."""

    def __init__(self, plain: Backbone, body: nn.Module, weights: Weights, features: Features) -> None:
        self.plain, self.body, self.weights, self.features = plain, body, weights, features

    @classmethod
    def make(cls, bench: Bench, weights: Weights, reporter: Reporter) -> "_Transfer":
        name, size = bench.config.backbone, bench.dataset.preprocessing.size
        plain = pretrained(name, weights)
        own = feature_count(plain.body, size, name)
        # A copy: what is trained or exported of one must not change the other.
        body = pooled(copy.deepcopy(plain.body), size, name)
        features = cached_features(body, own, name, weights.sha256, bench.dataset, bench.compute, reporter)
        return cls(plain, body, weights, features)


def _train(name: str, bench: Bench, transfer: _Transfer | None, reporter: Reporter) -> NetworkOutcome:
    """Train one candidate, as a nested run."""
    config, size = bench.config, bench.dataset.preprocessing.size
    about = {"network": name, "compute": f"{bench.compute.device} {bench.compute.precision}"}
    with reporter.run(name, {**asdict(config), **about}) as own:
        if transfer is not None and name == FROZEN:
            outcome = train_frozen(
                bench, transfer.body, config.backbone, transfer.weights.sha256, transfer.features, own
            )
        elif transfer is not None and name == FINE_TUNED:
            head = head_of_training_part(bench, transfer.features, KERNEL_FIRST)
            candidate = Candidate(
                FINE_TUNED,
                config.backbone,
                transfer.weights.sha256,
                "lp-ft",
                FINE_TUNED_SPACE,
                FINE_TUNED_FIRST,
                lambda: copy.deepcopy(transfer.body),
            )
            outcome = train_by_gradient(bench, candidate, own, lambda parameters: copy.deepcopy(head))
        else:
            outcome = train_by_gradient(bench, _whole(name, config, size, transfer), own)
        _tell(outcome, bench, own)
    logger.info("%s: weighted F1 %.3f on validation, %.0f s", name, outcome.validation.weighted_f1, outcome.seconds)
    return outcome


def _whole(name: str, config: TrainConfig, size: int, transfer: _Transfer | None) -> Candidate:
    if name == SCRATCH:
        return Candidate(SCRATCH, None, None, "whole", SCRATCH_SPACE, SCRATCH_FIRST, lambda: scratch_body(size))
    if transfer is None:
        return Candidate(
            WHOLE,
            config.backbone,
            None,
            "whole",
            WHOLE_SPACE,
            WHOLE_FIRST,
            lambda: backbone(config.backbone).body,
        )
    return Candidate(
        WHOLE,
        config.backbone,
        transfer.weights.sha256,
        "whole",
        WHOLE_SPACE,
        WHOLE_FIRST,
        lambda: copy.deepcopy(transfer.plain.body),
    )


def _tell(outcome: NetworkOutcome, bench: Bench, reporter: Reporter) -> None:
    """Final figures of a network: scores, a genre's F1, PR curves, and some posters with what was predicted."""
    scores, genres = outcome.validation, bench.dataset.genre_names
    reporter.scalars(scores.scalars(), bench.config.epochs)
    reporter.scalars({f"genre_f1/{genre.genre}": genre.f1 for genre in scores.genres}, bench.config.epochs)
    reporter.pr_curves("validation", bench.truth, outcome.validation_probabilities, genres)
    shown = slice(0, _SAMPLES)
    captions = [
        f"{_named(truth == 1, genres)}\n-> {_named(probabilities >= outcome.thresholds, genres)}"
        for truth, probabilities in zip(bench.truth[shown], outcome.validation_probabilities[shown], strict=True)
    ]
    reporter.images("predictions", bench.dataset.images[bench.validation[shown]], captions)


def _named(chosen: NDArray[np.bool_], genres: tuple[str, ...]) -> str:
    return ", ".join(genre for genre, has in zip(genres, chosen.tolist(), strict=True) if has) or "none"
