"""The standard recipe, trained beside the candidates as a baseline.

A frozen pretrained backbone (without weights: a small CNN) with a new last layer, Adam and MultiLabelSoftMarginLoss.
`recipe` uses fixed hyperparameters; `recipe-tuned` searches weight decay and the number of epochs on the bench's
`selection`, and is then trained with them on the whole training part. Both take thresholds from the validation part.
Neither is ever chosen.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import one_thread
from ml.networks.backbones import HALF, Backbone, GenreNetwork, feature_count, scratch_body
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities
from ml.training.bench import Bench
from ml.training.candidates import Range, Trained
from ml.training.features import Pretrained, cached_features
from ml.training.fit import Fit, FitTask, Hyperparameters, Inputs, Schedule, fit, predict_probabilities
from ml.training.outcome import NetworkOutcome, Trial
from ml.training.search import REFIT, SearchPlan, Step, TrialProgress, best_of, search

RECIPE, TUNED, HALF_RECIPE = "recipe", "recipe-tuned", "recipe-mean-0.5"
FIXED = {"learning_rate": 1e-3, "weight_decay": 0.0, "dropout": 0.0, "hidden": 0}
EPOCHS, BATCH_SIZE = 10, 64
_TUNED_SPACE, _TUNED_FIRST = {"weight_decay": Range(1e-2, 100.0)}, {"weight_decay": 1.0}
_TUNED_EPOCHS, _TUNED_TRIALS = 5, 2
"""Multiples of the configured epochs and trials. A head trains in seconds, so its search can be thorough."""


@dataclass(frozen=True)
class _Recipe:
    """The recipe for one dataset.

    `new_model` makes the untrained part, which is trained on `inputs`; `network` completes it to a network.
    """

    new_model: Callable[[], nn.Module]
    inputs: Inputs
    network: Callable[[nn.Module], GenreNetwork]
    trained: Trained
    tuned_epochs: int
    tuned_trials: int
    backbone: Backbone | None = None


def train_recipe(name: str, bench: Bench, pretrained: Pretrained | None, reporter: Reporter) -> NetworkOutcome:
    """Train the recipe or the tuned recipe, on a backbone's own features or without one on posters."""
    recipe = _from_scratch(bench)
    if pretrained:
        recipe = _on_features(bench, pretrained.plain, pretrained.features.columns(pretrained.plain_count))
    return _as_run(name, recipe, bench, reporter)


def train_half_recipe(bench: Bench, reporter: Reporter) -> NetworkOutcome:
    """Train the recipe on a backbone's features of posters that were normalised with mean 0.5 and deviation 0.5.

    Some descriptions of the recipe do so, whatever the backbone was trained with.
    """
    bench = replace(bench, backbone=replace(bench.backbone, normalisation=HALF))
    body = bench.backbone.body()
    features, _ = cached_features(body, bench, reporter)
    recipe = _on_features(bench, body, features.columns(features.shape[1]))
    return _as_run(HALF_RECIPE, recipe, bench, reporter)


def _as_run(name: str, recipe: _Recipe, bench: Bench, reporter: Reporter) -> NetworkOutcome:
    backbone = recipe.backbone.name if recipe.backbone else None
    with reporter.run(name, {"network": name, "backbone": backbone}) as network_reporter:
        return _train(name, recipe, bench, network_reporter)


def _on_features(bench: Bench, body: nn.Module, features: Tensor) -> _Recipe:
    width, genres = features.shape[1], bench.labels.shape[1]
    return _Recipe(
        new_model=lambda: nn.Linear(width, genres),
        inputs=features,
        network=lambda head: GenreNetwork(body, head, bench.backbone.normalisation, frozen=True),
        trained="frozen",
        tuned_epochs=_TUNED_EPOCHS * bench.config.epochs,
        tuned_trials=_TUNED_TRIALS * bench.config.trials,
        backbone=bench.backbone,
    )


def _from_scratch(bench: Bench) -> _Recipe:
    size, genres = bench.dataset.preprocessing.size, bench.labels.shape[1]

    def new_model() -> nn.Module:
        body = scratch_body(size)
        head = nn.Linear(feature_count(body, size, RECIPE), genres)
        return GenreNetwork(body, head, HALF, frozen=False).to(memory_format=torch.channels_last)

    return _Recipe(
        new_model=new_model,
        inputs=bench.posters,
        network=lambda network: network,  # type: ignore[arg-type, return-value]
        trained="whole",
        tuned_epochs=bench.config.epochs,
        tuned_trials=bench.config.trials,
    )


def _train(name: str, recipe: _Recipe, bench: Bench, reporter: Reporter) -> NetworkOutcome:
    start = time.perf_counter()
    seed, tuned = bench.config.seed, name == TUNED
    epochs, trial_count = (recipe.tuned_epochs, recipe.tuned_trials) if tuned else (EPOCHS, 1)
    only_head = recipe.trained == "frozen"
    # A head is so small that neither bfloat16 nor a second thread would save time.
    compute = replace(bench.compute, bf16=False) if only_head else bench.compute
    schedule = Schedule(epochs, BATCH_SIZE, seed, flip=False, rate="constant")
    progress = TrialProgress(name, trial_count + 1 if tuned else 1, epochs, len(bench.training), reporter)

    def new_model() -> nn.Module:
        torch.manual_seed(seed)
        return recipe.new_model().to(compute.device)

    def train(
        run: str, parameters: Mapping[str, float], task: FitTask, run_reporter: Reporter
    ) -> tuple[nn.Module, Fit]:
        model, slot = new_model(), bench.checkpoints.slot(f"{name}-{run}")
        with one_thread() if only_head else nullcontext():
            return model, fit(
                *(model, Hyperparameters.of({**FIXED, **parameters}), task, run_reporter, slot),
                on_epoch=lambda epoch, score: progress.end_epoch(epoch),
                on_batch=progress.add,
            )

    run: str = "trial-1"
    parameters: Mapping[str, float] = {"weight_decay": FIXED["weight_decay"]}
    trials: tuple[Trial, ...] = ()
    if tuned:
        selecting = FitTask(bench.selecting(recipe.inputs), schedule, compute)
        fits: dict[int, Fit] = {}

        def attempt(number: int, tried: dict[str, float], trial_reporter: Reporter, step: Step) -> float:
            progress.begin_trial(number)
            _, fits[number] = train(f"trial-{number}", tried, selecting, trial_reporter)
            return max(fits[number].scores)

        trials = search(SearchPlan(name, _TUNED_SPACE, _TUNED_FIRST, trial_count, seed), attempt, reporter)
        run, parameters = REFIT, best_of(trials).parameters
        epochs = fits[best_of(trials).number].best_epoch
    progress.begin_refit(epochs, len(bench.training) + len(bench.validation))
    whole = FitTask(bench.whole(recipe.inputs), replace(schedule, stop=epochs), compute)
    with reporter.run(run, {**FIXED, **parameters, "epochs": epochs}) as run_reporter:
        model, kept = train(run, parameters, whole, run_reporter)
    progress.end()
    trials = trials or (Trial(1, parameters, kept.scores[-1], time.perf_counter() - start),)
    network = recipe.network(model.eval())
    full_precision = replace(compute, bf16=False)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        return predict_probabilities(model.to(compute.device), recipe.inputs, rows, full_precision)

    return NetworkOutcome(
        name=name,
        backbone=recipe.backbone.name if recipe.backbone else None,
        weights=recipe.backbone.weights_file if recipe.backbone else None,
        trained=recipe.trained,
        best=replace(best_of(trials), parameters={**parameters, "epochs": epochs}),
        trials=trials,
        **bench.assess(predict(bench.validation)),
        network=network,
        predict=predict,
        device=str(compute.device),
        precision=compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=kept.images_per_second,
    )
