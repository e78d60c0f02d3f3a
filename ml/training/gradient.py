"""Networks that are trained by gradient steps, whole: from scratch, from pretrained weights, or after their head."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.networks.backbones import GenreNetwork, feature_count, head
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities
from ml.scores.thresholds import common_threshold, fit_thresholds
from ml.training.bench import Bench
from ml.training.candidates import Candidate, hyperparameters
from ml.training.fit import Fit, Hyperparameters, Schedule, TrainingData, fit, predict_probabilities
from ml.training.outcome import NetworkOutcome
from ml.training.search import Step, best_of, search

_PRUNED_FROM = 1 / 3
"""Share of the epochs in which no trial is given up: first epochs say little."""


def train_by_gradient(
    bench: Bench,
    candidate: Candidate,
    reporter: Reporter,
    new_head: Callable[[Hyperparameters], nn.Module] | None = None,
) -> NetworkOutcome:
    """Search a network's hyperparameters, each trial trained on the training part, and keep the best epoch of all.

    `new_head` makes the head a trial starts with; without it a fresh one with the trial's width and dropout.
    """
    start = time.perf_counter()
    config, dataset = bench.config, bench.dataset
    features = feature_count(candidate.body(), dataset.preprocessing.size, candidate.backbone or candidate.name)
    data = TrainingData(bench.posters, bench.labels, bench.training, bench.validation, bench.folds)
    schedule = Schedule(config.epochs, config.batch_size, config.seed, flip=True)
    fits: dict[int, Fit] = {}

    def network(parameters: Hyperparameters) -> GenreNetwork:
        torch.manual_seed(config.seed)  # a trial's random weights do not depend on the trials before it
        top = (
            new_head(parameters)
            if new_head
            else head(features, bench.frequencies, parameters.hidden, parameters.dropout)
        )
        # The copy of a body that a frozen network had is frozen, too.
        made = GenreNetwork(candidate.body().requires_grad_(True), top, dataset.preprocessing, frozen=False)
        return made.to(bench.compute.device).to(memory_format=torch.channels_last)

    def attempt(number: int, chosen: dict[str, float], own: Reporter, step: Step) -> float:
        parameters = hyperparameters(chosen, candidate.first)

        def on_epoch(epoch: int, score: float) -> None:
            images = len(bench.training)
            done = ((number - 1) * config.epochs + epoch) * images
            reporter.progress(done, config.trials * config.epochs * images, f"training {candidate.name}", "images")
            if epoch < config.epochs:
                step(epoch, score)

        model = bench.compute.compiled(network(parameters), config.compile)
        slot = bench.checkpoints.slot(f"{candidate.name}-trial-{number}")
        fits[number] = fit(model, data, parameters, schedule, bench.compute, own, slot, on_epoch)
        return fits[number].validation_weighted_f1

    first = {name: asdict(candidate.first)[name] for name in candidate.space}
    trials = search(
        candidate.name,
        candidate.space,
        first,
        config.trials,
        config.seed,
        reporter,
        attempt,
        pruned_from_step=max(1, round(_PRUNED_FROM * config.epochs)),
    )
    best = best_of(trials)
    kept = network(hyperparameters(dict(best.parameters), candidate.first))
    kept.load_state_dict(fits[best.number].state)
    precise = replace(bench.compute, bf16=False)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        # In float32, as the exported network is going to answer.
        return predict_probabilities(kept.to(bench.compute.device), bench.posters, rows, precise)

    probabilities = predict(bench.validation)
    return NetworkOutcome(
        name=candidate.name,
        backbone=candidate.backbone,
        weights_sha256=candidate.weights_sha256,
        trained=candidate.trained,
        best=best,
        trials=trials,
        validation=bench.score(probabilities),
        validation_probabilities=probabilities,
        fitted_rows=bench.validation,
        fitted_probabilities=probabilities,
        thresholds=fit_thresholds(probabilities, bench.truth),
        common_threshold=common_threshold(probabilities, bench.truth),
        network=kept,
        predict=predict,
        device=str(bench.compute.device),
        precision=bench.compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=fits[best.number].images_per_second,
    )
