"""The recipe that is usually written, trained beside the others so that every gain is measured against it.

A frozen pretrained backbone with a new last layer (where there are no weights, a small CNN), Adam, and
MultiLabelSoftMarginLoss: `recipe` as written, `recipe-tuned` with a search of its own over weight decay and epochs.
Both are trained on the training part; thresholds come from the validation part. Neither is ever chosen.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.compute import one_thread
from ml.networks.backbones import Backbone, GenreNetwork, feature_count, scratch_body
from ml.reporting import Reporter
from ml.scores.metrics import Probabilities
from ml.scores.thresholds import common_threshold, fit_thresholds
from ml.training.bench import Bench
from ml.training.candidates import RECIPE_SPACE, hyperparameters
from ml.training.features import Features
from ml.training.fit import Fit, Hyperparameters, Inputs, Schedule, TrainingData, fit, predict_probabilities
from ml.training.outcome import NetworkOutcome, Trial
from ml.training.search import Step, best_of, search

RECIPE, TUNED = "recipe", "recipe-tuned"
AS_WRITTEN = Hyperparameters(learning_rate=1e-3, weight_decay=0.0, dropout=0.0, hidden=0)
EPOCHS, BATCH_SIZE = 10, 64
_TUNED_EPOCHS, _TUNED_TRIALS = 5, 2
"""Times the candidates' epochs and trials: a head trains in seconds, so its search may be thorough."""


@dataclass(frozen=True)
class _Recipe:
    """What is trained, `model` anew each time, on which inputs, and the network around it."""

    model: Callable[[], nn.Module]
    inputs: Inputs
    network: Callable[[nn.Module], GenreNetwork]
    tuned_epochs: int
    tuned_trials: int
    whole: bool


def train_recipes(
    bench: Bench, backbone: Backbone | None, weights_sha256: str | None, features: Features | None, reporter: Reporter
) -> tuple[NetworkOutcome, ...]:
    """The recipe as written and tuned, on a backbone's own features, or without one on posters."""
    recipe = _on_features(bench, backbone, features) if backbone and features else _from_scratch(bench)
    name = backbone.name if backbone else None
    outcomes = []
    for kind in (RECIPE, TUNED):
        with reporter.run(kind, {"network": kind, "backbone": name}) as own:
            outcomes.append(_train(kind, recipe, bench, name, weights_sha256, own))
    return tuple(outcomes)


def _on_features(bench: Bench, backbone: Backbone, features: Features) -> _Recipe:
    genres = bench.labels.shape[1]
    return _Recipe(
        model=lambda: nn.Linear(features.own, genres),
        inputs=features.values.columns(features.own),
        network=lambda head: GenreNetwork(backbone.body, head, bench.dataset.preprocessing, frozen=True),
        tuned_epochs=_TUNED_EPOCHS * bench.config.epochs,
        tuned_trials=_TUNED_TRIALS * bench.config.trials,
        whole=False,
    )


def _from_scratch(bench: Bench) -> _Recipe:
    how, genres = bench.dataset.preprocessing, bench.labels.shape[1]

    def model() -> nn.Module:
        body = scratch_body(how.size)
        network = GenreNetwork(body, nn.Linear(feature_count(body, how.size, RECIPE), genres), how, frozen=False)
        return network.to(memory_format=torch.channels_last)

    return _Recipe(
        model=model,
        inputs=bench.posters,
        network=lambda trained: trained,  # type: ignore[arg-type, return-value]
        tuned_epochs=bench.config.epochs,
        tuned_trials=bench.config.trials,
        whole=True,
    )


def _train(
    kind: str, recipe: _Recipe, bench: Bench, backbone: str | None, weights_sha256: str | None, reporter: Reporter
) -> NetworkOutcome:
    start = time.perf_counter()
    config = bench.config
    tuned = kind == TUNED
    keep: Literal["best", "last"] = "best" if tuned else "last"
    epochs = recipe.tuned_epochs if tuned else EPOCHS
    schedule = Schedule(epochs, BATCH_SIZE, config.seed, flip=False, rate="constant", keep=keep)
    data = TrainingData(recipe.inputs, bench.labels, bench.training, bench.validation, bench.folds)
    # A head is so small that neither bfloat16 nor a second thread would save anything.
    compute = bench.compute if recipe.whole else replace(bench.compute, bf16=False)
    fits: dict[int, Fit] = {}

    def new_model() -> nn.Module:
        torch.manual_seed(config.seed)
        return recipe.model().to(compute.device)

    def attempt(number: int, chosen: dict[str, float], own: Reporter, step: Step) -> float:
        setting = hyperparameters(chosen, AS_WRITTEN)
        slot = bench.checkpoints.slot(f"{kind}-trial-{number}")

        def on_epoch(epoch: int, score: float) -> None:
            if epoch == epochs:
                reporter.progress(number, trials, f"training {kind}", "trials")

        def train() -> Fit:
            return fit(new_model(), data, setting, schedule, compute, own, slot, on_epoch)

        if recipe.whole:
            fits[number] = train()
        else:
            with one_thread():
                fits[number] = train()
        return fits[number].validation_weighted_f1

    trials = recipe.tuned_trials if tuned else 1
    if tuned:
        done = search(kind, RECIPE_SPACE, {"weight_decay": 1.0}, trials, config.seed, reporter, attempt)
    else:
        score = attempt(1, {}, reporter, lambda epoch, score: None)
        done = (Trial(1, {"weight_decay": AS_WRITTEN.weight_decay}, score, time.perf_counter() - start),)
    best = best_of(done)
    model = new_model()
    model.load_state_dict(fits[best.number].state)
    network = recipe.network(model.eval())
    precise = replace(compute, bf16=False)

    def predict(rows: NDArray[np.int64]) -> Probabilities:
        return predict_probabilities(model.to(compute.device), recipe.inputs, rows, precise)

    probabilities = predict(bench.validation)
    return NetworkOutcome(
        name=kind,
        backbone=backbone,
        weights_sha256=weights_sha256,
        trained="whole" if recipe.whole else "frozen",
        best=replace(best, parameters={**best.parameters, "epochs": fits[best.number].kept_epoch}),
        trials=done,
        validation=bench.score(probabilities),
        validation_probabilities=probabilities,
        fitted_rows=bench.validation,
        fitted_probabilities=probabilities,
        thresholds=fit_thresholds(probabilities, bench.truth),
        common_threshold=common_threshold(probabilities, bench.truth),
        network=network,
        predict=predict,
        device=str(bench.compute.device),
        precision=compute.precision,
        seconds=time.perf_counter() - start,
        images_per_second=fits[best.number].images_per_second,
    )
