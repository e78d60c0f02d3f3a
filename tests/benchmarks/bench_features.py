"""Which features, heads and uses of labels gain on a frozen backbone: `python tests/benchmarks/bench_features.py`.

It reads `posters/anime-more.zip` and `weights` of the folder --data. Ideas are compared on the posters of
`anime-more.zip` whose franchises have no poster in `anime.zip`: five franchise folds, means over three assignments of
franchises to folds, differences to the head as it is trained, with 95 % intervals of a bootstrap over franchises. Each
idea takes the ridge, out of four, with the smallest squared error on the predicted posters; so does the present head.
Then the learning curve: the present head, fitted on subsets of the training franchises.

--final gives the curve of the first 1,045 posters (`anime.zip`) and of all posters instead. Read it once, after
everything is chosen; all posters were partly used for the choice.

On one idle core a backbone takes 1 minute for its features and 2 minutes for its ideas, and about half of it with
--final.
"""

import argparse
import csv
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from bench_ideas import with_interval
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, multilabel_soft_margin_loss

from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.splits import TEST
from ml.data.user_table import draw_parts, read_table
from ml.networks.backbones import GenreNetwork, read_backbone
from ml.networks.pooling import STAGES, PooledBody, join, pooled
from ml.reporting import NullReporter
from ml.scores.folds import FOLDS, stratified_folds
from ml.scores.intervals import Bootstrap, Interval, interval
from ml.scores.logistic import fit_curves
from ml.scores.metrics import Labels, average_precision, f1_of_counts, weighted_f1
from ml.scores.thresholds import common_threshold, fit_thresholds

BACKBONES = {
    "squeezenet1_1": "squeezenet1_1-imagenet-features.pth",
    "mobilenet_v2": "mobilenet_v2-imagenet.pth",
    "resnet18": "resnet18-imagenet-backbone.safetensors",
    "timm/tf_efficientnet_lite0": "tf_efficientnet_lite0-imagenet-timm.pth",
}
SIZE, BATCH, MIN_POSTERS, RESAMPLES = 256, 32, 30, 500
SEEDS = (0, 1, 2)
WIDTH, RIDGES = 0.5, (1.0, 2.5, 6.0, 15.0)
SUBSETS = (250, 500, 1000)
DIRECTIONS, POSITIONS = 32, 30
Features = dict[str, Tensor]
Estimates = Sequence[NDArray[np.float64]]
"""Out-of-fold estimates [N, G] for each seed."""
Thresholds = Callable[[NDArray[np.float32], Labels], NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--final", action="store_true", help="the learning curves of the posters that choose nothing")
    arguments = parser.parse_args()
    data = Path(arguments.data)
    absent = [name for name in ("posters/anime.zip", "posters/anime-more.zip") if not (data / name).is_file()]
    if absent:
        print(f"Skipped: {' and '.join(absent)} not found. Set --data to the folder of the real data.")
        return
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        dataset, first = read_posters(data / "posters", Path(folder))
        chosen = ~first & ~np.isin(dataset.franchises, dataset.franchises[first])
        everywhere = np.ones(len(first), np.bool_)
        sets = {"first posters": first, "all posters": everywhere} if arguments.final else {"choice": chosen}
        styles: dict[str, Tensor] = {}
        for name in arguments.backbones:
            kept = np.flatnonzero(everywhere if arguments.final else chosen)
            features = extract(name, data / "weights" / BACKBONES[name], dataset, kept, style_only=arguments.final)
            for title, rows in sets.items():
                inside = torch.from_numpy(rows[kept])
                report(name, title, {key: values[inside] for key, values in features.items()}, dataset, rows)
            styles[name] = features["style"]
        if not arguments.final:
            report_several(styles, Posters.of(dataset, chosen))


def read_posters(archives: Path, folder: Path) -> tuple[Dataset, NDArray[np.bool_]]:
    """The posters of both archives as one dataset, and which of them [N] are those of `anime.zip`."""
    rows: list[dict[str, str]] = []
    for archive in ("anime", "anime-more"):
        with zipfile.ZipFile(archives / f"{archive}.zip") as source:
            source.extractall(folder)
        with (folder / f"{archive}.csv").open(encoding="utf-8", newline="") as table:
            rows += [{**row, "first": archive} for row in csv.DictReader(table)]
    with (folder / "all.csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, [name for name in rows[0] if name != "first"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    pixels = open_pixels(folder, SIZE)
    posters = draw_parts(read_table(folder / "all.csv", folder / "posters"), pixels, NullReporter())
    posters = [replace(poster, part=TEST) for poster in posters]
    config = PreprocessConfig(SIZE, MIN_POSTERS, min_posters_per_part=0)
    dataset = build_dataset(posters, folder, config, NullReporter(), pixels)
    first = {row["mal_id"] for row in rows if row["first"] == "anime"}
    return dataset, np.array([id in first for id in dataset.ids])


def extract(name: str, weights: Path, dataset: Dataset, rows: NDArray[np.int64], style_only: bool) -> Features:
    """The served features ("style") of these rows, and more statistics of the maps unless `style_only`.

    For each stage i: "mean i" and "deviation i", "skew i" (third moment), "maximum i", "grid i" (means of a 2 x 2 grid)
    and "covariance i", of the first principal components of its channels.
    """
    backbone = read_backbone(name, str(weights), weights.parent)
    body = pooled(backbone.body(), SIZE, name)
    assert isinstance(body, PooledBody)
    network = GenreNetwork(body, nn.Identity(), backbone.normalisation, frozen=True).eval()
    found: dict[str, list[Tensor]] = {}
    axes: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(rows), BATCH):
        images = torch.from_numpy(dataset.images[rows[start : start + BATCH]])
        own, maps = body.maps(network.normalised(images.contiguous(memory_format=torch.channels_last)))
        batch = {"own": own, "style": join(own, maps)}
        if not style_only:
            # Without labels, so posters of all folds may be used: those of the first batch.
            axes = axes or [principal_axes(thinned(each)) for each in maps]
            for stage, each in enumerate(maps):
                batch |= {f"{key} {stage}": values for key, values in statistics(each, axes[stage]).items()}
        for key, values in batch.items():
            found.setdefault(key, []).append(values)
    return {key: torch.cat(values) for key, values in found.items()}


def thinned(maps: Tensor) -> Tensor:
    """At most about `POSITIONS` rows and columns of maps [N, C, h, w], flattened to [N, C, positions]."""
    step = max(1, maps.shape[-1] // POSITIONS)
    return maps[..., ::step, ::step].flatten(2)


def principal_axes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [C] and the first principal directions [C, K], scaled to unit variance, of pixels [N, C, P]."""
    flat = pixels.transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(flat.cov().double())
    scale = values[-DIRECTIONS:].clamp(min=1e-9).rsqrt()
    return flat.mean(1), (vectors[:, -DIRECTIONS:] * scale).float()


def statistics(maps: Tensor, axes: tuple[Tensor, Tensor]) -> Features:
    """Statistics of maps [N, C, h, w] over positions, without those of `join`."""
    count = maps.shape[1]
    moments = join(maps.new_empty(len(maps), 0), [maps])
    pixels = thinned(maps)
    centred = pixels - pixels.mean(2, keepdim=True)
    projected = torch.einsum("ncp,ck->nkp", pixels - axes[0][:, None], axes[1])
    projected = projected - projected.mean(2, keepdim=True)
    covariance = projected @ projected.mT / projected.shape[2]
    upper = torch.triu_indices(*covariance.shape[1:])
    return {
        "mean": moments[:, :count],
        "deviation": moments[:, count:],
        "skew": (centred**3).mean(2) / moments[:, count:] ** 3,
        "maximum": maps.amax((2, 3)),
        "grid": adaptive_avg_pool2d(maps, 2).flatten(1),
        "covariance": signed_root(covariance[:, upper[0], upper[1]]),
    }


@dataclass(frozen=True)
class Posters:
    """Labels [N, G] and, for each seed, the fold of each poster."""

    labels: Labels
    franchises: NDArray[np.str_]
    folds: tuple[NDArray[np.int64], ...]
    bootstrap: Bootstrap

    @classmethod
    def of(cls, dataset: Dataset, rows: NDArray[np.bool_]) -> "Posters":
        labels, franchises = dataset.labels[rows], dataset.franchises[rows]
        labels = labels[:, labels.sum(0) >= MIN_POSTERS]
        # The fold of equal franchises depends on a hash of the name.
        names = [np.array([f"{seed} {name}" for name in franchises]) for seed in SEEDS]
        folds = tuple(stratified_folds(each, labels) for each in names)
        return cls(labels, franchises, folds, Bootstrap(labels, franchises, RESAMPLES))

    def out_of_fold(self, predict: Callable[[NDArray[np.int64], NDArray[np.int64], int], Tensor]) -> Estimates:
        """Estimates of a function from the rows to fit, the rows to predict and the seed to [rows to predict, G]."""
        every = []
        for seed, folds in enumerate(self.folds):
            estimates = np.zeros(self.labels.shape)
            for fold in range(FOLDS):
                inside = np.flatnonzero(folds == fold)
                estimates[inside] = predict(np.flatnonzero(folds != fold), inside, seed).numpy()
            every.append(estimates)
        return every

    def figures(self, estimates: Estimates, thresholds: Thresholds = fit_thresholds) -> "Figures":
        """Scores as training computes them: logistic curves, and thresholds fitted on the other folds."""
        each = []
        for folds, raw in zip(self.folds, estimates, strict=True):
            probabilities = fit_curves(raw, self.labels).probabilities(raw)
            decisions = np.zeros(self.labels.shape, np.bool_)
            for fold in range(FOLDS):
                inside = folds == fold
                decisions[inside] = probabilities[inside] >= thresholds(probabilities[~inside], self.labels[~inside])
            precisions = [average_precision(p, truth) for p, truth in zip(probabilities.T, self.labels.T, strict=True)]
            resampled = self.bootstrap.weighted_f1(decisions), self.bootstrap.mean_average_precision(probabilities)
            each.append((weighted_f1(decisions, self.labels), float(np.mean(precisions)), *resampled))
        return Figures(*(np.mean(values, axis=0) for values in zip(*each, strict=True)))


@dataclass(frozen=True)
class Figures:
    """Means over seeds of weighted F1 and mAP, and of their values in resamples of the franchises, [R]."""

    f1: float
    mean_ap: float
    resampled_f1: NDArray[np.float64]
    resampled_map: NDArray[np.float64]

    def minus(self, other: "Figures") -> tuple[Interval, Interval]:
        return (
            interval(float(self.f1 - other.f1), self.resampled_f1 - other.resampled_f1),
            interval(float(self.mean_ap - other.mean_ap), self.resampled_map - other.resampled_map),
        )


def report(name: str, title: str, features: Features, dataset: Dataset, rows: NDArray[np.bool_]) -> None:
    """Print the table of ideas, if the features allow it, and the learning curve."""
    posters = Posters.of(dataset, rows)
    count, genres = posters.labels.shape
    print(f"\n{name}, {title}: {count} posters, {genres} genres\n", flush=True)
    kernel = similarity(features["style"])
    present, ridge = best_of_kernel(posters, kernel)
    reference = posters.figures(present)
    print("| idea | weighted F1 | difference | mAP | difference |\n| --- | --- | --- | --- | --- |")
    print_row("the present head", reference, None)
    print_row("thresholds with the highest F1 on the labels", posters.figures(present, highest_f1), reference)
    print_row("recipe: linear layer, Adam", posters.figures(recipe(posters, features["own"])), reference)
    if "covariance 0" in features:
        for idea, estimates in ideas(posters, features, kernel, present, ridge):
            print_row(idea, posters.figures(estimates), reference)
    print("\n| training posters | weighted F1 | mAP |\n| --- | --- | --- |")
    for size in (*SUBSETS, count):
        if size < (1 - 1 / FOLDS) * count or size == count:
            figures = posters.figures(learned_from(posters, kernel, ridge, size))
            shown = f"{size}" if size < count else f"{(1 - 1 / FOLDS) * count:.0f} (all)"
            print(f"| {shown} | {figures.f1:.3f} | {figures.mean_ap:.3f} |", flush=True)


def report_several(styles: Features, posters: Posters) -> None:
    """Print what the features of several backbones gain over those of the one with the higher weighted F1."""
    squares = {name: distance(features) for name, features in styles.items()}
    alone = {
        name: posters.figures(best_of_kernel(posters, torch.exp(-WIDTH * each))[0]) for name, each in squares.items()
    }
    print(
        "\n| backbones together | weighted F1 | over the better one | mAP | over it |\n| --- | --- | --- | --- | --- |"
    )
    for names in (*combinations(squares, 2), *[tuple(squares)] * (len(squares) > 2)):
        kernel = torch.exp(-WIDTH * torch.stack([squares[name] for name in names]).mean(0))
        better = alone[max(names, key=lambda name: alone[name].f1)]
        print_row(" + ".join(names), posters.figures(best_of_kernel(posters, kernel)[0]), better)


def ideas(
    posters: Posters, features: Features, kernel: Tensor, present: Estimates, ridge: float
) -> Iterator[tuple[str, Estimates]]:
    """Ideas with their out-of-fold estimates. What is added to the features counts 0.3 of the squared distance."""
    style = distance(features["style"])
    parts = {key: [distance(features[f"{key} {i}"]) for i in range(STAGES)] for key in ("mean", "deviation")}
    stages = [(mean + deviation) / 2 for mean, deviation in zip(*parts.values(), strict=True)]

    def by_kernel(squares: Tensor) -> Estimates:
        return best_of_kernel(posters, torch.exp(-WIDTH * squares))[0]

    yield "the backbone's own features only", by_kernel(distance(features["own"]))
    yield "each stage counts the same", by_kernel(torch.stack(stages).mean(0))
    yield "a kernel per stage", best_of_kernel(posters, torch.stack([torch.exp(-WIDTH * s) for s in stages]).mean(0))[0]
    for key in ("covariance", "skew", "maximum", "grid"):
        added = torch.stack([distance(features[f"{key} {i}"]) for i in range(STAGES)]).mean(0)
        yield f"with the {key} of each stage", by_kernel(0.7 * style + 0.3 * added)
        if key == "covariance":
            yield "the covariance only", by_kernel(added)
    values = standardised(features["style"])
    yield "features clipped at 3 deviations", by_kernel(squared(values.clamp(-3, 3)))
    yield "signed square root of features", by_kernel(2 * squared(signed_root(values)))
    yield "Laplacian kernel", best_of_kernel(posters, torch.exp(-style.sqrt()))[0]
    yield "linear kernel", best_of_kernel(posters, values.double() @ values.double().T / values.shape[1])[0]
    yield "estimates of all genres stacked", posters.out_of_fold(stacked(posters, kernel, ridge))
    own = standardised(features["own"]).double()
    probe = best_of_kernel(posters, 0.3 * own @ own.T / own.shape[1])[0]
    yield "mean with a regularised probe", [(a + b) / 2 for a, b in zip(present, probe, strict=True)]


def print_row(name: str, figures: Figures, reference: Figures | None) -> None:
    gains = [with_interval(each) for each in figures.minus(reference)] if reference else ["", ""]
    print(f"| {name} | {figures.f1:.3f} | {gains[0]} | {figures.mean_ap:.3f} | {gains[1]} |", flush=True)


def signed_root(values: Tensor) -> Tensor:
    return values.sign() * values.abs().sqrt()


def standardised(features: Tensor) -> Tensor:
    """Features [N, F] over all posters; without labels, so posters of all folds may be used."""
    deviation = features.std(0)
    return (features - features.mean(0)) * torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0)


def squared(values: Tensor) -> Tensor:
    """Mean squared differences, float64 [N, N], of values [N, F]."""
    values = values.double()
    norms = values.square().sum(1)
    return (norms[:, None] + norms - 2 * values @ values.T).clamp(min=0) / values.shape[1]


def distance(features: Tensor) -> Tensor:
    return squared(standardised(features))


def similarity(features: Tensor) -> Tensor:
    return torch.exp(-WIDTH * distance(features))


def solve(kernel: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Ridge regression: coefficients [M, G] of centred kernel values [M, M], for centred labels [M, G]."""
    regularised = kernel + ridge * torch.eye(len(kernel), dtype=torch.float64)
    return torch.cholesky_solve(labels, torch.linalg.cholesky(regularised))


def predicted(kernel: Tensor, labels: Labels, fit: NDArray[np.int64], rows: NDArray[np.int64], ridge: float) -> Tensor:
    """Estimates [rows, G] of a head fitted on the rows `fit`, from the kernel [N, N] of all posters."""
    truth = torch.from_numpy(labels[fit]).double()
    inner, outer = kernel[fit][:, fit], kernel[rows][:, fit]
    means = inner.mean(0)
    centred = inner - means - means[:, None] + means.mean()
    return (outer - means - outer.mean(1, keepdim=True) + means.mean()) @ solve(
        centred, truth - truth.mean(0), ridge
    ) + truth.mean(0)


def best_of_kernel(posters: Posters, kernel: Tensor) -> tuple[Estimates, float]:
    """Out-of-fold estimates of the ridge with the smallest squared error, and the ridge."""
    tried = [
        posters.out_of_fold(lambda fit, rows, _, ridge=ridge: predicted(kernel, posters.labels, fit, rows, ridge))
        for ridge in RIDGES
    ]
    errors = [sum(float(((each - posters.labels) ** 2).sum()) for each in estimates) for estimates in tried]
    best = int(np.argmin(errors))
    return tried[best], RIDGES[best]


def stacked(
    posters: Posters, kernel: Tensor, ridge: float
) -> Callable[[NDArray[np.int64], NDArray[np.int64], int], Tensor]:
    """A second ridge from the out-of-fold estimates of all genres: Breiman and Friedman 1997
    (https://doi.org/10.1111/1467-9868.00054)."""

    def predict(fit: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Tensor:
        labels = posters.labels
        inner = stratified_folds(posters.franchises[fit], labels[fit], FOLDS - 1)
        estimates = torch.zeros(len(fit), labels.shape[1], dtype=torch.float64)
        for fold in range(FOLDS - 1):
            inside = inner == fold
            estimates[inside] = predicted(kernel, labels, fit[~inside], fit[inside], ridge)
        centred = estimates - estimates.mean(0)
        errors = torch.from_numpy(labels[fit]).double() - estimates
        correction = solve(centred.T @ centred, centred.T @ (errors - errors.mean(0)), 3.0)
        raw = predicted(kernel, labels, fit, rows, ridge)
        return raw + (raw - estimates.mean(0)) @ correction

    return predict


def learned_from(posters: Posters, kernel: Tensor, ridge: float, size: int) -> Estimates:
    """Estimates of heads fitted on about `size` posters of whole franchises; all if there are not as many."""

    def predict(fit: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Tensor:
        names, franchise = np.unique(posters.franchises[fit], return_inverse=True)
        place = np.random.default_rng(seed).permutation(len(names))[franchise]
        return predicted(kernel, posters.labels, fit[np.argsort(place, kind="stable")[:size]], rows, ridge)

    return posters.out_of_fold(predict)


def recipe(posters: Posters, features: Tensor) -> Estimates:
    """Log odds of the standard recipe on the backbone's own features."""
    labels = torch.from_numpy(posters.labels).float()

    def predict(fit: NDArray[np.int64], rows: NDArray[np.int64], seed: int) -> Tensor:
        torch.manual_seed(seed)
        head = nn.Linear(features.shape[1], labels.shape[1])
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        for _ in range(10):
            for batch in torch.from_numpy(fit)[torch.randperm(len(fit))].split(64):
                optimizer.zero_grad()
                with torch.enable_grad():
                    multilabel_soft_margin_loss(head(features[batch]), labels[batch]).backward()
                optimizer.step()
        return head(features[rows])

    return posters.out_of_fold(predict)


def highest_f1(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.float64]:
    """Thresholds with the highest F1 on the labels, shrunk to the common one for rare genres (prior of 40 posters)."""
    best = []
    for column, truth in zip(probabilities.T, labels.T, strict=True):
        order = np.argsort(-column, kind="stable")
        found = truth[order].cumsum(dtype=np.int64)
        place = int(f1_of_counts(found, np.arange(1, len(order) + 1), found[-1:]).argmax())
        best.append(column[order[place : place + 2]].mean())
    support = labels.sum(0, dtype=np.int64)
    thresholds: NDArray[np.float64] = (support * best + 40 * common_threshold(probabilities, labels)) / (support + 40)
    return thresholds


if __name__ == "__main__":
    main()
