"""Which features and heads gain on a frozen backbone, and what more posters gain.

    PYTHONPATH=. python tests/benchmarks/bench_features.py [--backbones squeezenet1_1 resnet18]
        [--workspace FOLDER] [--final]

Ideas are compared on those posters of `posters/anime-more.zip` whose franchises have no poster in `posters/anime.zip`:
five franchise folds, means over three assignments of franchises to folds, differences to the head as `train` fits it,
with 95 % intervals of a bootstrap over franchises. Each idea takes the strength, out of a few, with the smallest
squared error on the predicted posters; so does the present head. Then comes the learning curve: the present head,
fitted on parts of the training folds' franchises.

--final gives the present head, the recipe and the curve for the first 1,045 posters (`anime.zip`) and for all of both
archives. Read it once, after everything is chosen; all posters were partly used for the choice.

Both archives and the weights are in the folder --data (`../shared`, or ANIME_GENRE_REAL_DATA). Features are kept in
--workspace, which may be that of a comparison of the same posters.
"""

import argparse
import csv
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_ideas import with_interval
from ideas_heads import Data, Recipe, Rows, kernel_ridge, train_head
from numpy.typing import NDArray

from ml.compute import choose_compute
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.feature_table import FeatureTable
from ml.data.splits import TEST
from ml.data.user_table import draw_parts, read_table
from ml.networks.backbones import read_backbone
from ml.networks.kernel import KernelRidge, fit_curves, fit_space
from ml.networks.pooling import PooledBody
from ml.reporting import NullReporter
from ml.scores.folds import FOLDS, stratified_folds
from ml.scores.intervals import Bootstrap, interval
from ml.scores.metrics import Labels, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import Bench
from ml.training.features import Pretrained
from tests.no_checkpoints import NoCheckpoints

BACKBONES = {
    "squeezenet1_1": "squeezenet1_1-imagenet-features.pth",
    "mobilenet_v2": "mobilenet_v2-imagenet.pth",
    "resnet18": "resnet18-imagenet-backbone.safetensors",
    "timm/tf_efficientnet_lite0": "tf_efficientnet_lite0-imagenet-timm.pth",
}
SIZE, MIN_POSTERS, RESAMPLES = 256, 30, 500
SEEDS = (0, 1, 2)
WIDTH, RIDGES = 0.5, (1.0, 2.5, 6.0, 15.0)
SUBSETS = (250, 500, 1000)
Features = NDArray[np.float32]
Predict = Callable[[Rows, Rows, int], NDArray[np.float64]]
"""From rows to fit, rows to predict and a seed to estimates [S, rows to predict, G], one for each strength."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--workspace", type=Path, metavar="FOLDER", help="default: a temporary folder")
    parser.add_argument("--final", action="store_true", help="the posters that choose nothing")
    arguments = parser.parse_args()
    data = Path(arguments.data)
    if not (data / "posters" / "anime-more.zip").is_file():
        print(f"Skipped: {data} has no posters. Set --data to the folder of the real data.")
        return
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        nullcontext(arguments.workspace) if arguments.workspace else tempfile.TemporaryDirectory() as workspace,
    ):
        dataset, first = read_posters(data / "posters", Path(folder), Path(workspace))
        chosen = ~first & ~np.isin(dataset.franchises, dataset.franchises[first])
        sets = {"first posters": first, "all posters": first | True} if arguments.final else {"choice": chosen}
        found = {name: extract(name, data / "weights" / BACKBONES[name], dataset) for name in arguments.backbones}
    for title, rows in sets.items():
        posters = Posters.of(dataset, rows)
        for name, backbone in found.items():
            print(f"\n{name}, {title}: {len(posters.labels)} posters, {posters.labels.shape[1]} genres\n")
            report(posters, replace(backbone, features=backbone.features[rows]), arguments.final)


def read_posters(archives: Path, folder: Path, workspace: Path) -> tuple[Dataset, NDArray[np.bool_]]:
    """The posters of both archives as one dataset, and which of them, [N], are those of `anime.zip`."""
    rows: list[dict[str, str]] = []
    for archive in ("anime", "anime-more"):
        first = {row["mal_id"] for row in rows}
        with zipfile.ZipFile(archives / f"{archive}.zip") as source:
            source.extractall(folder)
        with (folder / f"{archive}.csv").open(encoding="utf-8", newline="") as table:
            rows += csv.DictReader(table)
    with (folder / "all.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    pixels = open_pixels(workspace, SIZE)
    posters = draw_parts(read_table(folder / "all.csv", folder / "posters"), pixels, NullReporter())
    config = PreprocessConfig(SIZE, MIN_POSTERS, min_posters_per_part=0)
    posters = [replace(poster, part=TEST) for poster in posters]
    dataset = build_dataset(posters, workspace, config, NullReporter(), pixels)
    return dataset, np.array([id in first for id in dataset.ids])


@dataclass(frozen=True)
class Extracted:
    """Features [N, F] as `train` makes them, and the columns of the backbone's own ones and of the stages' means."""

    features: Features
    own: slice
    means: NDArray[np.int64]


def extract(name: str, weights: Path, dataset: Dataset) -> Extracted:
    """The features of all posters, from the dataset's workspace if it has them."""
    backbone = read_backbone(name, str(weights), weights.parent)
    bench = Bench(dataset, TrainConfig(), backbone, choose_compute("cpu"), NoCheckpoints())
    pretrained = Pretrained.load(bench, NullReporter())
    assert isinstance(pretrained.body, PooledBody)
    with torch.no_grad():
        _, maps = pretrained.body.maps(torch.zeros(1, 3, SIZE, SIZE))
    is_mean = [flag for each in maps for flag in (True, False) for _ in range(each.shape[1])]
    means = np.flatnonzero([True] * pretrained.plain_count + is_mean)
    features = torch.cat(list(pretrained.features.blocks())).numpy()
    return Extracted(features, slice(pretrained.plain_count), means)


@dataclass(frozen=True)
class Figures:
    """Means over seeds of weighted F1 and mAP, [2], and their values in resamples of the franchises, [2, R]."""

    values: NDArray[np.float64]
    resampled: NDArray[np.float64]


@dataclass(frozen=True)
class Posters:
    """Labels [N, G], franchises [N] and, for each seed, the fold of each poster."""

    labels: Labels
    franchises: NDArray[np.str_]
    folds: tuple[NDArray[np.int64], ...]
    bootstrap: Bootstrap

    @classmethod
    def of(cls, dataset: Dataset, rows: NDArray[np.bool_]) -> "Posters":
        labels, franchises = dataset.labels[rows], dataset.franchises[rows]
        labels = labels[:, labels.sum(0) >= MIN_POSTERS]
        # Which fold a franchise is in depends on a hash of its name.
        names = [np.array([f"{seed} {name}" for name in franchises]) for seed in SEEDS]
        folds = tuple(stratified_folds(each, labels) for each in names)
        return cls(labels, franchises, folds, Bootstrap(labels, franchises, RESAMPLES))

    def figures(self, predict: Predict) -> Figures:
        """Scores of out-of-fold estimates as training computes them: logistic curves, cross-fitted thresholds."""
        estimates = np.stack([out_of_fold(self.labels, folds, predict, seed) for seed, folds in enumerate(self.folds)])
        best = ((estimates - self.labels) ** 2).sum((0, 2, 3)).argmin()
        values, resampled = [], []
        for folds, each in zip(self.folds, estimates[:, best], strict=True):
            probabilities = fit_curves(each, self.labels).probabilities(each)
            decisions = cross_fitted_decisions(probabilities, self.labels, folds)
            scores = score(probabilities, decisions, self.labels, [""] * self.labels.shape[1])
            values.append((scores.weighted_f1, scores.mean_average_precision))
            by_resample = self.bootstrap.weighted_f1(decisions), self.bootstrap.mean_average_precision(probabilities)
            resampled.append(by_resample)
        return Figures(np.mean(values, 0), np.mean(resampled, 0))


def out_of_fold(labels: Labels, folds: NDArray[np.int64], predict: Predict, seed: int) -> NDArray[np.float64]:
    """Estimates [S, N, G] of each strength."""
    parts = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    each = [predict(np.setdiff1d(np.arange(len(labels)), inside), inside, seed) for inside in parts]
    estimates = np.zeros((len(each[0]), *labels.shape))
    for inside, values in zip(parts, each, strict=True):
        estimates[:, inside] = values
    return estimates


def report(posters: Posters, backbone: Extracted, final: bool) -> None:
    """Print the table of ideas, of which `final` has the first two only, and the learning curve."""
    print("| idea | weighted F1 | difference | mAP | difference |\n| --- | --- | --- | --- | --- |")
    present = posters.figures(kernel_head(posters, backbone.features))
    print_row("the present head", present)
    for number, (name, predict) in enumerate(ideas(posters, backbone)):
        if number == 0 or not final:
            print_row(name, posters.figures(predict), present)
    print("\n| training posters | weighted F1 | mAP |\n| --- | --- | --- |")
    whole = len(posters.labels) * (FOLDS - 1) // FOLDS
    for size in [size for size in SUBSETS if size < whole]:
        f1, mean_ap = posters.figures(kernel_head(posters, backbone.features, size)).values
        print(f"| {size} | {f1:.3f} | {mean_ap:.3f} |", flush=True)
    print("| {} (all) | {:.3f} | {:.3f} |".format(whole, *present.values), flush=True)


def print_row(name: str, figures: Figures, reference: Figures | None = None) -> None:
    cells = [name]
    for place, value in enumerate(figures.values.tolist()):
        gain = ""
        if reference:
            differences = figures.resampled[place] - reference.resampled[place]
            gain = with_interval(interval(value - float(reference.values[place]), differences))
        cells += [f"{value:.3f}", gain]
    print(f"| {' | '.join(cells)} |", flush=True)


def ideas(posters: Posters, backbone: Extracted) -> Iterator[tuple[str, Predict]]:
    """The recipe first, then fewer features and another head."""
    labels, features = torch.from_numpy(posters.labels).float(), torch.from_numpy(backbone.features)
    own = features[:, backbone.own]
    data = Data((), labels, posters.labels, posters.franchises, posters.folds[0])

    def recipe(fit: Rows, rows: Rows, seed: int) -> NDArray[np.float64]:
        return train_head(Recipe((own,), (own,)), data, fit, rows, seed)[None].astype(np.float64)

    def whole_kernel(fit: Rows, rows: Rows, seed: int) -> NDArray[np.float64]:
        settings = [(WIDTH, ridge) for ridge in RIDGES]
        return np.stack(kernel_ridge(features[fit], labels[fit], [features[rows]], settings)).astype(np.float64)

    yield "recipe: linear layer, Adam", recipe
    yield "the backbone's own features only", kernel_head(posters, backbone.features[:, backbone.own])
    yield "means of the stages without deviations", kernel_head(posters, backbone.features[:, backbone.means])
    yield "the whole kernel instead of landmarks", whole_kernel


def kernel_head(posters: Posters, features: Features, size: int | None = None) -> Predict:
    """The head as `train` fits it, on about `size` posters of whole franchises."""
    table = FeatureTable(features)

    def predict(fit: Rows, rows: Rows, seed: int) -> NDArray[np.float64]:
        names, franchise = np.unique(posters.franchises[fit], return_inverse=True)
        place = np.random.default_rng(seed).permutation(len(names))[franchise]
        kept = np.sort(fit[np.argsort(place, kind="stable")[:size]])
        space = fit_space(table.select(kept), seed)
        head = KernelRidge(space, torch.from_numpy(posters.labels[kept]).float(), WIDTH, seed)
        points = space.project(table.select(rows))
        return np.stack([head.estimate(points, ridge) for ridge in RIDGES])

    return predict


if __name__ == "__main__":
    main()
