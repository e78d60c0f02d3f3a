"""Networks trained by gradient steps: from scratch, from pretrained weights, or from a fitted head on."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.networks.backbones import HALF, Backbone, GenreNetwork, Normalisation, feature_count, head
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities
from ml.training.bench import Bench
from ml.training.candidates import Candidate
from ml.training.fit import Fit, FitTask, Hyperparameters, Schedule, fit, predict_probabilities
from ml.training.outcome import NetworkOutcome
from ml.training.search import REFIT, SearchPlan, Step, TrialProgress, best_of, search

_SHARE_WITHOUT_PRUNING = 1 / 3
"""Share of the epochs in which no trial is pruned: the first epochs say little about the last."""


@dataclass(frozen=True)
class Body:
    """The body of a network before training.

    `make` returns a new body on each call, with random weights or with a copy of pretrained ones. `backbone` is None
    for a network without one.
    """

    make: Callable[[], nn.Module]
    backbone: Backbone | None = None

    @property
    def normalisation(self) -> Normalisation:
        """What the network's input is normalised with, as its backbone says."""
        return self.backbone.normalisation if self.backbone else HALF


def train_by_gradient(
    candidate: Candidate,
    bench: Bench,
    body: Body,
    reporter: Reporter,
    fit_head: Callable[[NDArray[np.int64]], nn.Module] | None = None,
) -> NetworkOutcome:
    """Search a network's hyperparameters and number of epochs, and train it with the best ones.

    Epochs and trials are compared on the bench's `selection`, which gradient steps of trials do not use. The network
    is then trained again on the whole training part, with the best trial's hyperparameters and learning rates, and as
    many epochs as the best one took. Each training starts with a copy of the head that `fit_head` fits on its rows, or
    with a new head of the trial's width and dropout.
    """
    start = time.perf_counter()
    config, dataset, compute = bench.config, bench.dataset, bench.compute
    name = body.backbone.name if body.backbone else candidate.name
    features = feature_count(body.make(), dataset.preprocessing.size, name)
    schedule = Schedule(config.epochs, config.batch_size, config.seed, flip=True)
    fits: dict[int, Fit] = {}
    progress = TrialProgress(candidate.name, config.trials + 1, config.epochs, len(bench.training), reporter)

    def train(
        run: str,
        parameters: Mapping[str, float],
        task: FitTask,
        fitted_head: nn.Module | None,
        run_reporter: Reporter,
        on_epoch: Callable[[int, float], None],
    ) -> tuple[GenreNetwork, Fit]:
        chosen = Hyperparameters.of({**candidate.first, **parameters})
        torch.manual_seed(config.seed)  # random weights must not depend on earlier trials
        if fitted_head is None:
            top: nn.Module = head(features, bench.frequencies, chosen.hidden, chosen.dropout)
        else:
            top = copy.deepcopy(fitted_head)
        # A copy of a frozen network's body is frozen, too.
        network = GenreNetwork(body.make().requires_grad_(True), top, body.normalisation, frozen=False)
        network.to(compute.device).to(memory_format=torch.channels_last)
        model = cast(nn.Module, torch.compile(network)) if config.compile else network
        slot = bench.checkpoints.slot(f"{candidate.name}-{run}")
        return network, fit(model, chosen, task, run_reporter, slot, on_epoch, progress.add)

    selecting = FitTask(bench.selecting(bench.posters), schedule, compute)
    first_head = fit_head(bench.gradient_rows) if fit_head else None

    def attempt(number: int, parameters: dict[str, float], trial_reporter: Reporter, step: Step) -> float:
        def on_epoch(epoch: int, score: float) -> None:
            progress.end_epoch(epoch)
            if epoch < config.epochs:
                step(epoch, score)

        progress.begin_trial(number)
        _, fits[number] = train(f"trial-{number}", parameters, selecting, first_head, trial_reporter, on_epoch)
        return max(fits[number].scores)

    plan = SearchPlan(
        candidate.name,
        candidate.space,
        candidate.first,
        config.trials,
        config.seed,
        pruned_from_step=max(1, round(_SHARE_WITHOUT_PRUNING * config.epochs)),
    )
    trials = search(plan, attempt, reporter)
    best = best_of(trials)
    epochs = fits[best.number].best_epoch
    whole = FitTask(bench.whole(bench.posters), replace(schedule, stop=epochs), compute)
    head_of_all = fit_head(bench.training) if fit_head else None
    progress.begin_refit(epochs, len(bench.training) + len(bench.validation))
    with reporter.run(REFIT, {**best.parameters, "trained_epochs": epochs}) as refit_reporter:
        network, kept = train(
            REFIT, best.parameters, whole, head_of_all, refit_reporter, lambda epoch, score: progress.end_epoch(epoch)
        )
    progress.end()
    full_precision = replace(compute, bf16=False)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        # In float32, like the exported network.
        return predict_probabilities(network.to(compute.device), bench.posters, rows, full_precision)

    return NetworkOutcome(
        name=candidate.name,
        backbone=body.backbone.name if body.backbone else None,
        weights=body.backbone.weights_file if body.backbone else None,
        trained=candidate.trained,
        best=replace(best, parameters={**best.parameters, "trained_epochs": epochs}),
        trials=trials,
        **bench.assess(predict(bench.validation)),
        network=network,
        predict=predict,
        device=str(compute.device),
        precision=compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=kept.images_per_second,
    )
