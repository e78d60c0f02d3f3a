"""Networks trained by gradient steps: from scratch, from pretrained weights, or from a fitted head on."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.networks.backbones import Backbone, GenreNetwork, Normalisation, feature_count, head
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities
from ml.training.bench import Bench
from ml.training.candidates import Candidate
from ml.training.fit import Fit, FitTask, Hyperparameters, Schedule, fit, predict_probabilities
from ml.training.outcome import NetworkOutcome
from ml.training.search import SearchPlan, Step, TrialProgress, best_of, search

_SHARE_WITHOUT_PRUNING = 1 / 3
"""Share of the epochs in which no trial is pruned: the first epochs say little about the last."""


@dataclass(frozen=True)
class Body:
    """The body of a network before training.

    `make` returns a new body on each call, with random weights or with a copy of pretrained ones. `backbone` is None
    for a network without one.
    """

    make: Callable[[], nn.Module]
    normalisation: Normalisation
    backbone: Backbone | None = None


def train_by_gradient(
    candidate: Candidate, bench: Bench, body: Body, reporter: Reporter, fitted_head: nn.Module | None = None
) -> NetworkOutcome:
    """Search a network's hyperparameters on the training part, and keep the best epoch of all trials.

    Epochs and trials are compared on the bench's `selection`, which gradient steps do not use. Each trial starts with a
    copy of `fitted_head`, or with a new head of the trial's width and dropout.
    """
    start = time.perf_counter()
    config, dataset, compute = bench.config, bench.dataset, bench.compute
    name = body.backbone.name if body.backbone else candidate.name
    features = feature_count(body.make(), dataset.preprocessing.size, name)
    task = FitTask(
        bench.selecting(bench.posters),
        Schedule(config.epochs, config.batch_size, config.seed, flip=True),
        compute,
    )
    fits: dict[int, Fit] = {}
    progress = TrialProgress(candidate.name, config.trials, config.epochs, len(bench.training), reporter)

    def new_network(parameters: Hyperparameters) -> GenreNetwork:
        torch.manual_seed(config.seed)  # a trial's random weights must not depend on earlier trials
        if fitted_head is None:
            top: nn.Module = head(features, bench.frequencies, parameters.hidden, parameters.dropout)
        else:
            top = copy.deepcopy(fitted_head)
        # A copy of a frozen network's body is frozen, too.
        network = GenreNetwork(body.make().requires_grad_(True), top, body.normalisation, frozen=False)
        return network.to(compute.device).to(memory_format=torch.channels_last)

    def attempt(number: int, parameters: dict[str, float], trial_reporter: Reporter, step: Step) -> float:
        hyperparameters = Hyperparameters.of({**candidate.first, **parameters})

        def on_epoch(epoch: int, score: float) -> None:
            progress.end_epoch(epoch)
            if epoch < config.epochs:
                step(epoch, score)

        model = new_network(hyperparameters)
        if config.compile:
            model.compile()
        slot = bench.checkpoints.slot(f"{candidate.name}-trial-{number}")
        progress.begin_trial(number)
        fits[number] = fit(model, hyperparameters, task, trial_reporter, slot, on_epoch, progress.add)
        return fits[number].validation_weighted_f1

    plan = SearchPlan(
        candidate.name,
        candidate.space,
        candidate.first,
        config.trials,
        config.seed,
        pruned_from_step=max(1, round(_SHARE_WITHOUT_PRUNING * config.epochs)),
    )
    trials = search(plan, attempt, reporter)
    progress.end()
    best = best_of(trials)
    network = new_network(Hyperparameters.of({**candidate.first, **best.parameters}))
    network.load_state_dict(fits[best.number].state)
    full_precision = replace(compute, bf16=False)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        # In float32, like the exported network.
        return predict_probabilities(network.to(compute.device), bench.posters, rows, full_precision)

    return NetworkOutcome(
        name=candidate.name,
        backbone=body.backbone.name if body.backbone else None,
        weights=body.backbone.weights.file if body.backbone and body.backbone.weights else None,
        trained=candidate.trained,
        best=best,
        trials=trials,
        **bench.assess(predict(bench.validation)),
        network=network,
        predict=predict,
        device=str(compute.device),
        precision=compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=fits[best.number].images_per_second,
    )
