"""Time to an F1 on real posters: a frozen backbone and the standard recipe, LP-FT and fine-tuning."""

import shutil
import statistics
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
from plain_recipe import PosterFiles, train_recipe

from ml.compute import Compute
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster, open_pixels
from ml.data.user_table import draw_parts, read_table
from ml.networks.backbones import read_backbone
from ml.networks.kernel import KernelSetting
from ml.reporting import NullReporter
from ml.scores.folds import FOLDS
from ml.scores.metrics import weighted_f1
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import SELECTION, Bench
from ml.training.candidates import CANDIDATES, FINE_TUNED, FROZEN, WHOLE
from ml.training.features import Pretrained
from ml.training.frozen import KERNEL_FIRST, OutOfFoldHeads, fit_head, head_probabilities, train_frozen
from tests.no_checkpoints import NoCheckpoints

BACKBONE = "squeezenet1_1"
FINE_TUNED_EPOCHS = 3
_SAMPLED, _DRAWS = (0.1, 0.2, 0.4, 0.8), 5
SETTINGS = (KERNEL_FIRST, *(KernelSetting(ridge, width) for ridge in (1.0, 10.0) for width in (0.25, 1.0)))
"""Kernel heads, fitted in this order until one reaches the recipe's F1."""


@dataclass(frozen=True)
class RealPosters:
    """A table with its folder of posters, and the backbone's weights."""

    catalogue: Path
    folder: Path
    weights: Path

    @classmethod
    def unpacked(cls, data: Path, folder: Path, name: str = "anime") -> "RealPosters | None":
        """Unpack the posters `name` of the real data into `folder`. None if they are missing."""
        archive, weights = data / "posters" / f"{name}.zip", data / "weights" / f"{BACKBONE}-imagenet-features.pth"
        if not (archive.exists() and weights.exists()):
            return None
        with zipfile.ZipFile(archive) as source:
            source.extractall(folder)
        return cls(folder / f"{name}.csv", folder / "posters", weights)

    def dataset(self, workspace: Path, size: int) -> tuple[Dataset, list[Poster]]:
        """The dataset and its posters, built from the files unless the workspace has it."""
        pixels = open_pixels(workspace, size)
        posters = draw_parts(read_table(self.catalogue, self.folder), pixels, NullReporter())
        return build_dataset(posters, workspace, PreprocessConfig(image_size=size), NullReporter(), pixels), posters


@dataclass(frozen=True)
class Reached:
    """The F1 of a frozen backbone, the seconds in total and for its head alone, and the number of heads fitted."""

    weighted_f1: float
    seconds: float
    head_seconds: float
    heads: int


def against_the_recipe(real: RealPosters, folder: Path, size: int, runs: int, compute: Compute) -> None:
    """Compare the seconds to the recipe's F1: the recipe, and a frozen backbone with empty and with full caches."""
    dataset, posters = real.dataset(folder / "known", size)
    bench = new_bench(real, dataset, compute, TrainConfig())
    file_of = {poster.id: poster.file for poster in posters}
    training, validation = (
        PosterFiles([file_of[dataset.ids[row]] for row in rows], dataset.labels[rows], dataset.preprocessing)
        for rows in (bench.training, bench.validation)
    )
    enough: float | None = None
    recipe: list[float] = []
    uncached: list[Reached] = []
    cached: list[Reached] = []
    for _ in range(runs):
        start = time.perf_counter()
        plain = read_backbone(BACKBONE, str(real.weights), folder)
        plain.body()
        loaded = time.perf_counter() - start
        epochs = train_recipe(
            training, validation, bench.folds, plain, dataset.preprocessing, len(dataset.genres), compute, 0, enough
        )
        best = max(epochs, key=lambda epoch: epoch.weighted_f1)
        if enough is None:
            enough = best.weighted_f1
            print(
                f"the standard recipe, {BACKBONE} at {size} x {size} in {compute.precision}, "
                f"{len(training)} training and {len(validation)} validation posters: F1 {enough:.3f}, first "
                f"reached in epoch {epochs.index(best) + 1} of {len(epochs)}, "
                f"each {epochs[-1].seconds / len(epochs):.1f} s",
                flush=True,
            )
        recipe.append(loaded + best.seconds)
        workspace = folder / "new"
        uncached.append(frozen_to(enough, real, workspace, size, compute))
        cached.append(frozen_to(enough, real, workspace, size, compute))
        shutil.rmtree(workspace)
    print(
        f"  frozen backbone, kernel head on the same training part: F1 {cached[-1].weighted_f1:.3f} with head "
        f"{cached[-1].heads} of at most {len(SETTINGS)}"
        + ("" if cached[-1].weighted_f1 >= (enough or 0) else ": THE RECIPE'S F1 IS NOT REACHED")
    )
    print(f"  the recipe: {spread(recipe)} s to its F1")
    for what, seconds in (
        ("with empty caches, from the poster files on", [run.seconds for run in uncached]),
        ("with cached features, from the table on", [run.seconds for run in cached]),
        ("the head alone", [run.head_seconds for run in cached]),
    ):
        times = [slow / fast for slow, fast in zip(recipe, seconds, strict=True)]
        print(f"  {what}: {spread(seconds, 2)} s, {spread(times)} times faster", flush=True)
    print(f"  {whole_search(real, folder / 'known', dataset, compute)}", flush=True)


def frozen_to(enough: float, real: RealPosters, workspace: Path, size: int, compute: Compute) -> Reached:
    """Fit heads on a frozen backbone until one has an F1 of `enough`. Cached pixels and features are reused."""
    start = time.perf_counter()
    dataset, _ = real.dataset(workspace, size)
    bench = new_bench(real, dataset, compute, TrainConfig())
    features = Pretrained.load(bench, NullReporter()).features
    begun = time.perf_counter()
    score, heads = 0.0, 0
    for setting in SETTINGS:
        head = fit_head(bench, features, bench.training, setting)
        score = max(score, bench.score(head_probabilities(head, features.select(bench.validation))).weighted_f1)
        heads += 1
        if score >= enough:
            break
    ended = time.perf_counter()
    return Reached(score, ended - start, ended - begun, heads)


def whole_search(real: RealPosters, workspace: Path, dataset: Dataset, compute: Compute) -> str:
    """Time and F1 of the candidate network `frozen` with its default search."""
    bench = new_bench(real, dataset, compute, TrainConfig())
    pretrained = Pretrained.load(bench, NullReporter())
    outcome = train_frozen(CANDIDATES[FROZEN], bench, pretrained, NullReporter())
    return (
        f"the default search of the candidate network, {len(outcome.trials)} settings out of fold in training: "
        f"{outcome.seconds:.1f} s, F1 {outcome.validation.weighted_f1:.3f}"
    )


def space_of_a_sample(real: RealPosters, folder: Path, size: int, compute: Compute) -> None:
    """Compare heads in the space of all posters with heads in the space of some of them, by out-of-fold F1."""
    dataset, _ = real.dataset(folder / "sampled", size)
    bench = new_bench(real, dataset, compute, TrainConfig())
    rows = np.sort(np.concatenate([bench.training, bench.validation]))
    features, labels = Pretrained.load(bench, NullReporter()).features.select(rows), dataset.labels[rows]

    def f1(most: int, seed: int) -> float:
        with mock.patch("ml.networks.kernel.SPACE_ROWS", most):
            heads = OutOfFoldHeads(features, labels, dataset.franchises[rows], seed)
        return heads.score(heads.estimates(KERNEL_FIRST))

    of_all = [f1(len(rows), seed) for seed in range(_DRAWS)]
    for share in _SAMPLED:
        most = int(share * len(rows) * (FOLDS - 1) / FOLDS)
        losses = [whole - f1(most, seed) for seed, whole in enumerate(of_all)]
        error = statistics.stdev(losses) / _DRAWS**0.5
        print(
            f"components of {most} of {len(rows)} posters: {statistics.mean(losses):.4f} weighted F1 lost "
            f"(standard error {error:.4f}, {min(losses):.4f} to {max(losses):.4f})",
            flush=True,
        )


def fine_tuned(real: RealPosters, folder: Path, size: int, runs: int, compute: Compute) -> None:
    """Compare LP-FT, features and head included, with fine-tuning of the same weights with a new last layer."""
    dataset, _ = real.dataset(folder / "fine-tuned", size)
    plain: list[Curve] = []
    after_head: list[Curve] = []
    for seed in range(runs):
        config = TrainConfig(trials=1, epochs=FINE_TUNED_EPOCHS, seed=seed)
        plain.append(plain_curve(new_bench(real, dataset, compute, config)))
        shutil.rmtree(folder / "fine-tuned" / "features", ignore_errors=True)
        after_head.append(lp_ft_curve(new_bench(real, dataset, compute, config)))
    bests = [curve.best for curve in plain]
    print(
        f"fine-tuning {BACKBONE} at {size} x {size} in {compute.precision}, {FINE_TUNED_EPOCHS} "
        f"epochs: F1 {spread([best.weighted_f1 for best in bests], 3)}, "
        f"first reached in epoch {spread([best.epoch for best in bests], 0)}, after "
        f"{spread([best.seconds for best in bests])} s"
    )
    print(
        f"  LP-FT, features and head included: the head alone F1 "
        f"{spread([curve.points[0].weighted_f1 for curve in after_head], 3)} after "
        f"{spread([curve.points[0].seconds for curve in after_head])} s, the best of all epochs F1 "
        f"{spread([curve.best.weighted_f1 for curve in after_head], 3)} after "
        f"{spread([curve.best.seconds for curve in after_head])} s"
    )
    firsts = [curve.first(best.weighted_f1) for curve, best in zip(after_head, bests, strict=True)]
    reached = [(first, best) for first, best in zip(firsts, bests, strict=True) if first]
    if reached:
        print(
            f"  to plain fine-tuning's F1: epoch {spread([first.epoch for first, _ in reached], 0)} (0 is the head), "
            f"{spread([first.seconds for first, _ in reached])} s, "
            f"{spread([best.seconds / first.seconds for first, best in reached])} times faster, "
            f"in {len(reached)} of {runs} runs",
            flush=True,
        )
    else:
        print(f"  plain fine-tuning's F1 is reached in none of {runs} runs", flush=True)


@dataclass(frozen=True)
class Point:
    """Seconds since the start and weighted F1 after an epoch. Epoch 0 is the head before the first one."""

    epoch: int
    seconds: float
    weighted_f1: float


class Curve(NullReporter):
    """A training's F1 over time, on the posters of the training part that choose the epoch."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.start()

    def start(self) -> None:
        self._start = time.perf_counter()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if f"{SELECTION}/weighted_f1" in values:  # reported for each epoch of a trial
            self.add(step, values[f"{SELECTION}/weighted_f1"])

    def add(self, epoch: int, score: float) -> None:
        self.points.append(Point(epoch, time.perf_counter() - self._start, score))

    @property
    def best(self) -> Point:
        return max(self.points, key=lambda point: point.weighted_f1)

    def first(self, score: float) -> Point | None:
        """The first point that has at least this score; None if there is none."""
        return next((point for point in self.points if point.weighted_f1 >= score), None)


def plain_curve(bench: Bench) -> Curve:
    curve = Curve()
    pretrained = Pretrained.load(bench, NullReporter())
    curve.start()
    candidate = CANDIDATES[WHOLE]
    candidate.train(candidate, bench, pretrained, curve)
    return curve


def lp_ft_curve(bench: Bench) -> Curve:
    curve = Curve()
    pretrained = Pretrained.load(bench, NullReporter())
    head = fit_head(bench, pretrained.features, bench.gradient_rows, KERNEL_FIRST)
    chosen_on = bench.selecting(bench.posters)
    probabilities = head_probabilities(head, pretrained.features.select(chosen_on.validation))
    labels = bench.dataset.labels[chosen_on.validation]
    curve.add(0, weighted_f1(cross_fitted_decisions(probabilities, labels, chosen_on.folds), labels))
    candidate = CANDIDATES[FINE_TUNED]
    candidate.train(candidate, bench, pretrained, curve)
    return curve


def new_bench(real: RealPosters, dataset: Dataset, compute: Compute, config: TrainConfig) -> Bench:
    backbone = read_backbone(BACKBONE, str(real.weights), dataset.folder)
    return Bench(dataset, replace(config, backbone=BACKBONE), backbone, compute, NoCheckpoints())


def spread(values: list[float] | list[int], digits: int = 1) -> str:
    """The median, with minimum and maximum if they differ."""
    median, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return median if least == most else f"{median} ({least} to {most})"
