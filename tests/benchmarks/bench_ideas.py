"""An ablation table: known ideas for small datasets, each added to the standard recipe, with intervals.

    PYTHONPATH=. python tests/benchmarks/bench_ideas.py [--data FOLDER] [--movies] [--fine-tune] [--min-posters 30]

The recipe: SqueezeNet 1.1 with ImageNet's weights, frozen; posters squashed to 256 x 256; its last features, averaged
over positions; one linear layer, 12 epochs of Adam (1e-3, batches of 64) on MultiLabelSoftMarginLoss. Ideas use the
values of their papers or usual ones. Strengths are chosen by inner folds of the training posters.

The posters are real ones (`posters/anime.zip` in FOLDER: `../shared`, or ANIME_GENRE_REAL_DATA). There are five folds,
stratified by genre, with each franchise in one fold. Predictions and thresholds are out of fold. Ideas with randomness
are trained with five seeds (fine-tuning with one), and their figures are means over the seeds, not of an ensemble.
Differences to the recipe are paired, with 95 % intervals of a bootstrap over franchises and seeds. On one idle core the
benchmark takes about 6 minutes; `--movies` (the body first learns the genres of film posters, `posters/movies.zip`)
takes about 5 more, `--fine-tune` about 9.
"""

import argparse
import os
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ideas_heads import (
    Data,
    Recipe,
    Rows,
    Setting,
    asymmetric,
    capped_weights,
    kernel_ridge,
    logistic,
    train_head,
)
from ideas_networks import (
    DEVIATION,
    EQUAL_PIXELS,
    FINE_TUNING_EPOCHS,
    MAXIMUM,
    MEAN,
    MORE_PIXELS,
    SMALL,
    SQUASHED,
    extract,
    fine_tuned,
    joined,
    load_body,
    pixels,
    pretrained,
    several,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.data.user_table import read_table
from ml.scores.folds import stratified_folds
from ml.scores.intervals import RESAMPLES, Bootstrap, Interval, Predictions, interval
from ml.scores.metrics import score, weighted_f1
from ml.scores.thresholds import cross_fitted_decisions

SEEDS = (0, 1, 2, 3, 4)
FOLDS, INNER_FOLDS = 5, 4
CROPS = 4
LAST = {12: "s16"}
STRENGTHS = ((3.0,), (1.0,), (0.3,), (0.1,), (0.03,))
WIDTHS, RIDGES = (0.125, 0.25, 0.5, 1.0), (0.5, 1.5, 5.0, 15.0)


@dataclass(frozen=True)
class Idea:
    """A row: `predict` maps training rows, rows to predict and a seed to probabilities, float32 [len(rows), G]."""

    name: str
    predict: Callable[[Rows, Rows, int], NDArray[np.float32]]
    seeds: tuple[int, ...] = SEEDS


@dataclass(frozen=True)
class Figures:
    """Means over seeds: each figure, and its values in the resamples of franchises and seeds, [R]."""

    weighted_f1: float
    mean_average_precision: float
    resampled_f1: NDArray[np.float64]
    resampled_map: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--movies", action="store_true", help="include a body pretrained on film posters")
    parser.add_argument("--fine-tune", action="store_true", help="include fine-tuning of the body")
    parser.add_argument("--min-posters", type=int, default=30, help="smallest number of posters per genre")
    arguments = parser.parse_args()
    posters, weights = arguments.data / "posters", arguments.data / "weights" / "squeezenet1_1-imagenet-features.pth"
    needed = [posters / "anime.zip", weights, *([posters / "movies.zip"] if arguments.movies else [])]
    absent = [str(file) for file in needed if not file.is_file()]
    if absent:
        print(f"Skipped: {' and '.join(absent)} not found. Set --data to the folder of the real data.")
        return
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        data = read_posters(posters / "anime.zip", Path(temporary) / "anime", arguments.min_posters)
        films = posters / "movies.zip" if arguments.movies else None
        print_table(data, all_ideas(data, weights, films, arguments.fine_tune))
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes on one thread, torch {torch.__version__}")


def read_posters(archive: Path, folder: Path, min_posters: int) -> Data:
    """The posters of an archive with its table of the same name. Rare genres and posters without genres are omitted."""
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    table = read_table(folder / f"{archive.stem}.csv", folder / "posters")
    posters = [poster for poster in table.posters if poster.genres]
    counts = Counter(genre.name for poster in posters for genre in poster.genres)
    names = sorted(name for name, count in counts.items() if count >= min_posters)
    truth = np.array([[name in {genre.name for genre in poster.genres} for name in names] for poster in posters])
    truth = truth.astype(np.uint8)
    franchises = np.array([poster.franchise for poster in posters])
    folds = stratified_folds(franchises, truth, FOLDS)
    return Data(tuple(poster.file for poster in posters), torch.from_numpy(truth).float(), truth, franchises, folds)


def all_ideas(data: Data, weights: Path, films: Path | None, fine_tune: bool) -> Iterator[Idea]:
    """The recipe first, then the ideas. Bodies are trained lazily."""
    yield from on_frozen_features(data, load_body(weights))
    if films:
        with tempfile.TemporaryDirectory() as temporary:
            body = pretrained(read_posters(films, Path(temporary), min_posters=30), load_body(weights))
        yield from on_film_features(data, body)
    if fine_tune:
        yield from fine_tuned_ideas(data, weights)


def on_frozen_features(data: Data, body: nn.Sequential) -> list[Idea]:
    """The recipe, and ideas with ImageNet's body unchanged."""
    whole = extract(body, data.files, SQUASHED)
    mirrored = extract(body, data.files, SQUASHED, mirrored=True)
    crops = [extract(body, data.files, SQUASHED, crop_seed=seed, taps=LAST) for seed in range(CROPS)]
    equal, more = extract(body, data.files, EQUAL_PIXELS), extract(body, data.files, MORE_PIXELS)
    last = joined(whole, ("s16",), (MEAN,))
    turned = joined(mirrored, ("s16",), (MEAN,))
    cropped = [joined(crop, ("s16",), (MEAN,)) for crop in crops]
    style, turned_style = several(whole), several(mirrored)
    recipe = Recipe((last,), (last,))

    def of_recipe(name: str, **changes: object) -> Idea:
        changed = replace(recipe, **changes)  # type: ignore[arg-type]
        return Idea(name, lambda train, test, seed: train_head(changed, data, train, test, seed))

    def of_features(name: str, features: Tensor, **changes: object) -> Idea:
        return of_recipe(name, training=(features,), predicting=(features,), **changes)

    return [
        of_recipe("the recipe"),
        of_recipe("features standardised", standardised=True),
        of_recipe("dropout 0.5 before the layer", dropout=0.5),
        of_recipe("AdamW, weight decay 1", weight_decay=1.0),
        logistic_idea("L2, convex, strength by inner folds", data, (last,)),
        of_features("mean, deviation of the last layer", joined(whole, ("s16",), (MEAN, DEVIATION))),
        of_features("mean, deviation, maximum of the last layer", joined(whole, ("s16",), (MEAN, DEVIATION, MAXIMUM))),
        of_features("mean, deviation of four layers", style),
        of_features("the same, standardised", style, standardised=True),
        of_recipe("positive weights up to 10", loss=capped_weights),
        of_recipe("asymmetric loss", loss=asymmetric),
        of_features("2:3, 208 x 312", joined(equal, ("s16",), (MEAN,))),
        of_features("2:3, 256 x 384 (1.5 times the pixels)", joined(more, ("s16",), (MEAN,))),
        of_recipe("mirrored in training", training=(last, turned)),
        of_recipe("mirrored in training and prediction", training=(last, turned), predicting=(last, turned)),
        of_recipe(f"{CROPS} crops of 75-100 % a side in training", training=(last, *cropped)),
        of_recipe("the same, and in prediction", training=(last, *cropped), predicting=(last, *cropped)),
        of_recipe("label smoothing 0.1", smoothing=0.1),
        of_recipe("mixup of features, alpha 0.2", mixup=0.2),
        of_recipe("moving average of weights, 0.98", moving_average=0.98),
        of_recipe("mean of weights after the last 6 epochs", averaged_epochs=6),
        kernel_idea("kernel ridge, chosen by inner folds", data, (last,)),
        logistic_idea("together: L2, mean and deviation of four layers", data, (style,)),
        kernel_idea("together: kernel ridge, mean and deviation of four layers", data, (style,)),
        kernel_idea("together: the same, mirrored in training and prediction", data, (style, turned_style)),
        kernel_idea("together: not mirrored, but 2:3, 208 x 312", data, (several(equal),)),
        kernel_idea("together: not mirrored, but 2:3, 256 x 384", data, (several(more),)),
    ]


def on_film_features(data: Data, body: nn.Sequential) -> list[Idea]:
    """The recipe and kernel ridge on a body trained on the genres of film posters."""
    films = extract(body, data.files, SQUASHED)
    last = joined(films, ("s16",), (MEAN,))
    recipe = Recipe((last,), (last,))
    return [
        Idea("body trained on film posters", lambda train, test, seed: train_head(recipe, data, train, test, seed)),
        logistic_idea("the same, and L2", data, (last,)),
        kernel_idea("the same, and kernel ridge on mean and deviation of four layers", data, (several(films),)),
    ]


def fine_tuned_ideas(data: Data, weights: Path) -> list[Idea]:
    """The body trained with the head on small posters, and the head alone at this size, with one seed."""
    images = pixels(data.files, SMALL)
    at = f"{SMALL[0]} x {SMALL[1]}"

    def idea(name: str, epochs: int, probe: bool) -> Idea:
        return Idea(
            f"{name}, {at}",
            lambda train, test, seed: fine_tuned(images, data, load_body(weights), train, test, epochs, probe, seed),
            seeds=(0,),
        )

    return [
        idea("L2 head without fine-tuning", epochs=0, probe=True),
        idea(f"fine-tuning, {FINE_TUNING_EPOCHS} epochs", FINE_TUNING_EPOCHS, probe=False),
        idea("L2, then fine-tuning (LP-FT)", FINE_TUNING_EPOCHS, probe=True),
    ]


def logistic_idea(name: str, data: Data, views: tuple[Tensor, ...]) -> Idea:
    return chosen_inside(name, data, views, STRENGTHS, logistic)


def kernel_idea(name: str, data: Data, views: tuple[Tensor, ...]) -> Idea:
    settings = [(width, ridge) for width in WIDTHS for ridge in RIDGES]
    return chosen_inside(name, data, views, settings, kernel_ridge)


def chosen_inside(
    name: str,
    data: Data,
    views: tuple[Tensor, ...],
    settings: Sequence[Setting],
    fit: Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Setting]], list[Tensor]],
) -> Idea:
    """An idea whose setting minimises the squared error on inner folds of the training posters.

    `fit` maps features [M, F], labels [M, G], views to predict and settings to probabilities for each setting. With
    several views, training uses all of them, and the prediction is their mean.
    """

    def fitted(train: Rows, test: Rows, tested: Sequence[Setting]) -> list[Tensor]:
        features, labels = torch.cat([view[train] for view in views]), data.labels[train].repeat(len(views), 1)
        return fit(features, labels, [view[test] for view in views], tested)

    def predict(train: Rows, test: Rows, seed: int) -> NDArray[np.float32]:
        inner = stratified_folds(data.franchises[train], data.truth[train], INNER_FOLDS)
        errors = np.zeros(len(settings))
        for fold in range(INNER_FOLDS):
            held = train[inner == fold]
            each = fitted(train[inner != fold], held, settings)
            errors += [float(((probabilities - data.labels[held]) ** 2).sum()) for probabilities in each]
        best = settings[int(errors.argmin())]
        return fitted(train, test, [best])[0].numpy().astype(np.float32)

    return Idea(name, predict, seeds=(0,))


def print_table(data: Data, ideas: Iterable[Idea]) -> None:
    """Print one row per idea, compared with the first one."""
    every_genre = weighted_f1(np.ones(data.truth.shape, np.bool_), data.truth)
    print(
        f"{len(data.files)} posters of {len(set(data.franchises.tolist()))} franchises, {data.truth.shape[1]} genres, "
        f"{FOLDS} folds; 'every genre' has weighted F1 {every_genre:.3f}, mAP {data.truth.mean():.3f}\n"
    )
    print(
        "| idea | weighted F1 | difference | mAP | difference |\n| --- | --- | --- | --- | --- |",
        flush=True,
    )
    bootstrap = Bootstrap(data.truth, data.franchises)
    recipe: Figures | None = None
    for idea in ideas:
        figures = figures_of(idea, data, bootstrap)
        recipe = recipe or figures
        f1 = interval(figures.weighted_f1 - recipe.weighted_f1, figures.resampled_f1 - recipe.resampled_f1)
        gained = figures.mean_average_precision - recipe.mean_average_precision
        mean_ap = interval(gained, figures.resampled_map - recipe.resampled_map)
        print(
            f"| {idea.name} | {figures.weighted_f1:.3f} | {with_interval(f1)} | {figures.mean_average_precision:.3f} | "
            f"{with_interval(mean_ap)} |",
            flush=True,
        )


def with_interval(difference: Interval) -> str:
    """A difference with its interval, bold if the interval excludes zero."""
    if difference.low == difference.high:
        return ""
    mark = "**" if difference.low > 0 or difference.high < 0 else ""
    return f"{mark}{difference.value:+.3f}{mark} ({difference.low:+.3f} to {difference.high:+.3f})"


def figures_of(idea: Idea, data: Data, bootstrap: Bootstrap) -> Figures:
    """Score the out-of-fold predictions of each seed and average the scores.

    Each resample also draws seeds with replacement. Ideas with the same number of seeds draw the same seeds and
    franchises.
    """
    names = [""] * data.truth.shape[1]
    each = []
    drawn = np.random.default_rng(0).integers(0, len(idea.seeds), (len(idea.seeds), RESAMPLES))
    for seed in idea.seeds:
        predictions = out_of_fold(idea, data, seed)
        scores = score(predictions.probabilities, predictions.decisions, data.truth, names)
        each.append(
            (
                scores.weighted_f1,
                scores.mean_average_precision,
                bootstrap.weighted_f1(predictions.decisions),
                bootstrap.mean_average_precision(predictions.probabilities),
            )
        )
    f1, mean_ap, resampled_f1, resampled_map = (np.array(values) for values in zip(*each, strict=True))
    return Figures(
        float(f1.mean()),
        float(mean_ap.mean()),
        np.take_along_axis(resampled_f1, drawn, 0).mean(0),
        np.take_along_axis(resampled_map, drawn, 0).mean(0),
    )


def out_of_fold(idea: Idea, data: Data, seed: int) -> Predictions:
    """Predict each poster by a model, and decide by thresholds, that were fitted on the other folds."""
    probabilities = np.zeros(data.truth.shape, np.float32)
    for fold in range(FOLDS):
        train, test = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
        probabilities[test] = idea.predict(train, test, seed)
    return Predictions(probabilities, cross_fitted_decisions(probabilities, data.truth, data.folds))


if __name__ == "__main__":
    main()
