"""What the field knows about few posters, each idea alone on the plain recipe: an ablation table with intervals.

    python tests/benchmarks/bench_ideas.py [--data FOLDER] [--movies] [--fine-tune] [--min-posters 30]

The recipe: SqueezeNet 1.1 with ImageNet's weights, frozen; posters squashed to 256 x 256; its last features, averaged
over positions; one linear layer, 12 epochs of Adam (1e-3, batches of 64) on MultiLabelSoftMarginLoss. Ideas have the
values of their papers or usual ones; those with a strength to choose choose it by inner folds of the training posters.

Posters are real ones (`posters/anime.zip` in FOLDER: `../shared`, or where ANIME_GENRE_REAL_DATA points). Five folds,
no franchise in two, genres evenly in all; each poster is predicted by the model that has not seen its fold, and
decided by thresholds of the other folds. What is drawn by chance is trained with five seeds (fine-tuning with one),
and its figures are means over them, no ensemble. Differences to the recipe are paired, with 95 % intervals of the
bootstrap over franchises and seeds. One thread: about 6 minutes of a free core; `--movies` (the body first learns the
genres of film posters, `posters/movies.zip`) takes about 5 more, `--fine-tune` about 9.
"""

import argparse
import copy
import os
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ml.folds import stratified_folds
from ml.intervals import RESAMPLES, Bootstrap, Interval, Predictions, interval
from ml.metrics import score, weighted_f1
from ml.table import read_table
from ml.thresholds import cross_fitted_decisions

EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 64, 1e-3
SEEDS = (0, 1, 2, 3, 4)
FOLDS, INNER_FOLDS = 5, 4
FILM_EPOCHS, FINE_TUNING_EPOCHS = 6, 6
SQUASHED, EQUAL_PIXELS, MORE_PIXELS, SMALL, FILM = (256, 256), (208, 312), (256, 384), (128, 192), (160, 240)
CROPS = 4
TAPS = {1: "s2", 4: "s4", 7: "s8", 12: "s16"}
"""Layers of SqueezeNet's features whose statistics are kept, by the stride of their output."""
LAST = {12: "s16"}
MEAN, DEVIATION, MAXIMUM = "mean", "std", "max"
STRENGTHS = ((3.0,), (1.0,), (0.3,), (0.1,), (0.03,))
WIDTHS, RIDGES = (0.125, 0.25, 0.5, 1.0), (0.5, 1.5, 5.0, 15.0)

Rows = NDArray[np.int64]
Features = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Setting = tuple[float, ...]


@dataclass(frozen=True)
class Data:
    """Posters as files [N], labels float [N, G] and as uint8, franchises [N] and folds [N]."""

    files: tuple[Path, ...]
    labels: Tensor
    truth: NDArray[np.uint8]
    franchises: NDArray[np.str_]
    folds: NDArray[np.int64]


@dataclass(frozen=True)
class Idea:
    """A row: `predict` maps training rows, rows to predict and a seed to probabilities, float32 [len(rows), G]."""

    name: str
    predict: Callable[[Rows, Rows, int], NDArray[np.float32]]
    seeds: tuple[int, ...] = SEEDS


@dataclass(frozen=True)
class Figures:
    """Means over seeds: each figure, and what it is in each resample of franchises and seeds, [R]."""

    weighted_f1: float
    mean_average_precision: float
    resampled_f1: NDArray[np.float64]
    resampled_map: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--movies", action="store_true", help="also a body pretrained on film posters")
    parser.add_argument("--fine-tune", action="store_true", help="also the body trained with the head")
    parser.add_argument("--min-posters", type=int, default=30, help="posters that a genre needs")
    arguments = parser.parse_args()
    posters, weights = arguments.data / "posters", arguments.data / "weights" / "squeezenet1_1-imagenet-features.pth"
    needed = [posters / "anime.zip", weights, *([posters / "movies.zip"] if arguments.movies else [])]
    absent = [str(file) for file in needed if not file.is_file()]
    if absent:
        print(f"skipped: {' and '.join(absent)} cannot be found; --data names the folder of the real posters")
        return
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        data = read_posters(posters / "anime.zip", Path(temporary) / "anime", arguments.min_posters)
        films = posters / "movies.zip" if arguments.movies else None
        print_table(data, all_ideas(data, weights, films, arguments.fine_tune))
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes on one thread, torch {torch.__version__}")


def read_posters(archive: Path, folder: Path, min_posters: int) -> Data:
    """Posters of an archive with a table of its name; genres of fewer posters are left out, as are posters without."""
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


# The rows.


def all_ideas(data: Data, weights: Path, films: Path | None, fine_tune: bool) -> Iterator[Idea]:
    """The recipe, which is first, and what is compared with it; a body is trained when its turn has come."""
    yield from on_frozen_features(data, load_body(weights))
    if films:
        with tempfile.TemporaryDirectory() as temporary:
            body = pretrained(read_posters(films, Path(temporary), min_posters=30), load_body(weights))
        yield from on_film_features(data, body)
    if fine_tune:
        yield from fine_tuned_ideas(data, weights)


def on_frozen_features(data: Data, body: nn.Sequential) -> list[Idea]:
    """The recipe, and ideas that leave ImageNet's body as it is."""
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
    """The recipe, and kernel ridge, on a body that learnt the genres of film posters."""
    films = extract(body, data.files, SQUASHED)
    last = joined(films, ("s16",), (MEAN,))
    recipe = Recipe((last,), (last,))
    return [
        Idea("body trained on film posters", lambda train, test, seed: train_head(recipe, data, train, test, seed)),
        logistic_idea("the same, and L2", data, (last,)),
        kernel_idea("the same, and kernel ridge on mean and deviation of four layers", data, (several(films),)),
    ]


def fine_tuned_ideas(data: Data, weights: Path) -> list[Idea]:
    """The body trained with the head on small posters; one seed, and beside the head alone at this size."""
    images = pixels(data.files, SMALL)
    at = f"{SMALL[0]} x {SMALL[1]}"

    def idea(name: str, epochs: int, probe: bool) -> Idea:
        return Idea(
            f"{name}, {at}",
            lambda train, test, seed: fine_tuned(images, data, load_body(weights), train, test, epochs, probe, seed),
            seeds=(0,),
        )

    return [
        idea("L2 alone", epochs=0, probe=True),
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
    """A row whose setting has the least squared error on inner folds of the training posters.

    `fit` maps features [M, F], labels [M, G], views to predict and settings to probabilities for each setting. With
    several views all of them are trained on, and the prediction is their mean.
    """

    def fitted(train: Rows, test: Rows, asked: Sequence[Setting]) -> list[Tensor]:
        features, labels = torch.cat([view[train] for view in views]), data.labels[train].repeat(len(views), 1)
        return fit(features, labels, [view[test] for view in views], asked)

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


# The recipe, and ideas that change it.


def soft_margin(labels: Tensor) -> Loss:
    """The recipe's loss: the mean over genres of the binary cross-entropy."""
    return functional.multilabel_soft_margin_loss


def capped_weights(labels: Tensor) -> Loss:
    """Positives of a genre weigh as much as its negatives together, but at most 10 times one of them."""
    positives = labels.sum(0)
    weights = ((len(labels) - positives) / positives.clamp(min=1)).clamp(max=10)
    return lambda logits, targets: functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def asymmetric(labels: Tensor) -> Loss:
    """Easy negatives count less: Ridnik et al. 2021 (https://arxiv.org/abs/2009.14119), with focusing 0 and 4 of
    positives and negatives and a margin of 0.05."""

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        shifted = (logits.sigmoid() - 0.05).clamp(min=0)
        negative = shifted**4 * torch.log1p(-shifted.clamp(max=1 - 1e-6))
        return -(targets * functional.logsigmoid(logits) + (1 - targets) * negative).mean()

    return loss


@dataclass(frozen=True)
class Recipe:
    """A linear head trained by gradient steps; the defaults are the recipe.

    `training` and `predicting` are views of the posters, features [N, F] each: a step draws one for each of its
    posters, and a prediction is the mean of all. `loss` makes one from the training labels.
    """

    training: tuple[Tensor, ...]
    predicting: tuple[Tensor, ...]
    loss: Callable[[Tensor], Loss] = soft_margin
    standardised: bool = False
    dropout: float = 0.0
    weight_decay: float = 0.0
    """Decoupled from the loss: Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101)."""
    smoothing: float = 0.0
    """Share of a label that becomes one half: Szegedy et al. 2016 (https://arxiv.org/abs/1512.00567)."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution: Zhang et al. 2018 (https://arxiv.org/abs/1710.09412)."""
    moving_average: float = 0.0
    """Decay a step of an exponential moving average of the weights, which predicts: Polyak and Juditsky 1992."""
    averaged_epochs: int = 0
    """Last epochs whose weights are averaged: Izmailov et al. 2018 (https://arxiv.org/abs/1803.05407)."""


def train_head(recipe: Recipe, data: Data, train: Rows, test: Rows, seed: int) -> NDArray[np.float32]:
    """Probabilities [len(test), G] of a head that is trained on the rows of `train`."""
    torch.manual_seed(seed)
    views, labels = torch.stack([view[train] for view in recipe.training]), data.labels[train]
    predicted = torch.stack([view[test] for view in recipe.predicting])
    if recipe.standardised:
        views, predicted = standardised(views.flatten(0, 1), [views, predicted])
    head, loss = nn.Linear(views.shape[2], labels.shape[1]), recipe.loss(labels)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=recipe.weight_decay)
    average, epochs_seen = copy.deepcopy(head), 0
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(train)).split(BATCH_SIZE):
            features = views[torch.randint(len(views), (len(rows),)), rows]
            targets = labels[rows] * (1 - recipe.smoothing) + recipe.smoothing / 2
            if recipe.mixup:
                features, targets = mixed(features, targets, recipe.mixup)
            value = loss(head(functional.dropout(features, recipe.dropout)), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if recipe.moving_average:
                move(average, head, 1 - recipe.moving_average)
        if epoch >= EPOCHS - recipe.averaged_epochs:
            epochs_seen += 1
            move(average, head, 1 / epochs_seen)
    chosen = average if recipe.moving_average or recipe.averaged_epochs else head
    with torch.no_grad():
        probabilities: NDArray[np.float32] = chosen(predicted).sigmoid().mean(0).numpy()
    return probabilities


def mixed(features: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Each poster of a batch mixed with another one, features and labels by the same share."""
    share = torch.distributions.Beta(alpha, alpha).sample()
    other = torch.randperm(len(features))
    return share * features + (1 - share) * features[other], share * targets + (1 - share) * targets[other]


@torch.no_grad()
def move(average: nn.Module, towards: nn.Module, share: float) -> None:
    """Move all parameters of one by that share of the way to those of the other."""
    for own, other in zip(average.parameters(), towards.parameters(), strict=True):
        own.lerp_(other, share)


# Heads without a learning rate.


def logistic(features: Tensor, labels: Tensor, asked: Sequence[Tensor], settings: Sequence[Setting]) -> list[Tensor]:
    """Probabilities, mean over the views asked for, of the layers of `logistic_layers`."""
    layers = logistic_layers(features, labels, [strength for (strength,) in settings])
    return [torch.stack([(view @ weights + bias).sigmoid() for view in asked]).mean(0) for weights, bias in layers]


def logistic_layers(features: Tensor, labels: Tensor, strengths: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weights [F, G] and bias [G] of a logistic regression a genre, for each strength, from strong to weak.

    Half the strength times the squared weights of standardised features is added to the mean loss. That is convex,
    so nothing but the strength is to be chosen: L-BFGS.
    """
    mean, scale = standardisation(features)
    # The weights lie in the span of the training posters (Hastie and Tibshirani 2004, Biostatistics 5, 329-340).
    span = scale[:, None] * torch.linalg.svd((features - mean) * scale, full_matrices=False).Vh.T
    points = (features - mean) @ span
    weights = torch.zeros(points.shape[1], labels.shape[1], requires_grad=True)
    bias = labels.mean(0).clamp(1e-3, 1 - 1e-3).logit().requires_grad_()
    layers = []
    for strength in strengths:
        optimizer = torch.optim.LBFGS([weights, bias], max_iter=50, line_search_fn="strong_wolfe")

        def loss(optimizer: torch.optim.Optimizer = optimizer, strength: float = strength) -> Tensor:
            optimizer.zero_grad()
            errors = functional.binary_cross_entropy_with_logits(points @ weights + bias, labels, reduction="none")
            value = errors.mean(0).sum() + strength / 2 * (weights**2).sum()
            value.backward()
            return value

        optimizer.step(loss)
        raw = (span @ weights).detach()
        layers.append((raw, bias.detach() - mean @ raw))
    return layers


def kernel_ridge(
    features: Tensor, labels: Tensor, asked: Sequence[Tensor], settings: Sequence[Setting]
) -> list[Tensor]:
    """Least squares in the space of a radial basis function; settings are its width and the ridge.

    Regularised least-squares classification (Rifkin et al. 2003). The width scales the mean squared difference of
    standardised features. One decomposition of the kernel serves all ridges of a width.
    """
    features, *asked = standardised(features, [features, *asked])
    frequencies = labels.mean(0)
    decompositions = {}
    predictions = []
    for width, ridge in settings:
        if width not in decompositions:
            values, vectors = torch.linalg.eigh(similarity(features, features, width))
            kernels = [similarity(each, features, width) @ vectors for each in asked]
            decompositions[width] = values, vectors.T @ (labels - frequencies), torch.stack(kernels).mean(0)
        values, projected, kernel = decompositions[width]
        predictions.append((kernel @ (projected / (values + ridge)[:, None]) + frequencies).clamp(0, 1))
    return predictions


def similarity(one: Tensor, other: Tensor, width: float) -> Tensor:
    """The radial basis function of features [N, F] and [M, F], [N, M]."""
    return torch.exp(-width / one.shape[1] * torch.cdist(one, other) ** 2)


def standardised(training: Tensor, views: Sequence[Tensor]) -> list[Tensor]:
    """The views by mean and deviation of the training features [M, F]."""
    mean, scale = standardisation(training)
    return [(view - mean) * scale for view in views]


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation, [F] each; 0 for features that never change, which say nothing."""
    deviation = features.std(0)
    return features.mean(0), torch.where(deviation > 1e-6, 1 / deviation, 0)


# The body: its features, and ideas that train it.


def load_body(weights: Path) -> nn.Sequential:
    """SqueezeNet's convolutions with ImageNet's weights."""
    network = torchvision.models.squeezenet1_1()
    network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    body: nn.Sequential = network.features
    return body.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def extract(
    body: nn.Sequential,
    files: Sequence[Path],
    size: tuple[int, int],
    *,
    mirrored: bool = False,
    crop_seed: int | None = None,
    taps: Mapping[int, str] = TAPS,
) -> Features:
    """Mean, deviation and maximum over positions, [N, C], of what each tapped layer makes of the posters."""
    kept: dict[str, list[Tensor]] = {}
    for start in range(0, len(files), BATCH_SIZE):
        images = pixels(files[start : start + BATCH_SIZE], size, None if crop_seed is None else (crop_seed, start))
        x = normalised(images.flip(3) if mirrored else images)
        for index, layer in enumerate(body):
            x = layer(x)
            if index in taps:
                statistics = {MEAN: x.mean((2, 3)), DEVIATION: x.std((2, 3)), MAXIMUM: x.amax((2, 3))}
                for name, values in statistics.items():
                    kept.setdefault(f"{taps[index]}.{name}", []).append(values)
    return {name: torch.cat(values) for name, values in kept.items()}


def joined(features: Features, layers: Sequence[str], statistics: Sequence[str]) -> Tensor:
    """Features [N, F] of these layers and statistics side by side."""
    return torch.cat([features[f"{layer}.{statistic}"] for layer in layers for statistic in statistics], 1)


def several(features: Features) -> Tensor:
    """Style statistics: mean and deviation of all tapped layers, after Gatys et al. 2016 and Huang and Belongie 2017
    (https://arxiv.org/abs/1703.06868)."""
    return joined(features, tuple(TAPS.values()), (MEAN, DEVIATION))


def pixels(files: Sequence[Path], size: tuple[int, int], crop_seed: tuple[int, int] | None = None) -> Tensor:
    """Posters at width and height `size`, uint8 [N, 3, H, W]; with a seed, a random 75-100 % of each side of each."""
    generator = np.random.default_rng(crop_seed)
    images = []
    for file in files:
        with Image.open(file) as image:
            shares = generator.uniform(0.75, 1, 2) if crop_seed else np.ones(2)
            kept = shares * image.size
            corner = generator.uniform(0, 1, 2) * (image.size - kept)
            box = tuple(np.concatenate([corner, corner + kept]).tolist())
            images.append(np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR, box)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def normalised(images: Tensor) -> Tensor:
    """Pixels as ImageNet's networks know them, float [N, 3, H, W]."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (images.float() / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def pretrained(films: Data, body: nn.Sequential) -> nn.Sequential:
    """The body after some epochs on the genres of film posters."""
    torch.manual_seed(0)
    head = linear_with_odds(films.labels)
    train_whole(body, head, pixels(films.files, FILM), films.labels, FILM_EPOCHS, rate=4e-4, head_rate=4e-3)
    return body.eval()


def fine_tuned(
    images: Tensor, data: Data, body: nn.Sequential, train: Rows, test: Rows, epochs: int, probe: bool, seed: int
) -> NDArray[np.float32]:
    """Probabilities [len(test), G] of a body and head that are trained together.

    With `probe` the head starts as the L2-regularised one on the body as it was: Kumar et al. 2022
    (https://arxiv.org/abs/2202.10054). Both are trained at a rate of 3e-4.
    """
    torch.manual_seed(seed)
    head = linear_with_odds(data.labels[train])
    if probe:
        start_as_probe(head, pooled(body, images[train]), data.labels[train])
    train_whole(body, head, images[train], data.labels[train], epochs, rate=3e-4, head_rate=3e-4)
    with torch.no_grad():
        probabilities: NDArray[np.float32] = head(pooled(body.eval(), images[test])).sigmoid().numpy()
    return probabilities


def train_whole(
    body: nn.Sequential, head: nn.Linear, images: Tensor, labels: Tensor, epochs: int, rate: float, head_rate: float
) -> None:
    """Train body and head on mirrored and cropped posters, in batches of 32, with one cycle of the learning rate."""
    steps = epochs * (len(images) // 32)
    if not steps:
        return
    body.train()
    optimizer = torch.optim.AdamW([{"params": body.parameters()}, {"params": head.parameters()}], weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [rate, head_rate], total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // 32 * 32].split(32):
            with torch.autocast("cpu", torch.bfloat16):
                features = body(normalised(augmented(images[rows]))).mean((2, 3))
            logits = head(functional.dropout(features.float(), 0.5))
            loss = functional.binary_cross_entropy_with_logits(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def augmented(images: Tensor) -> Tensor:
    """Half of a batch mirrored, and one crop of 80-100 % a side for all of it."""
    height, width = images.shape[2:]
    share = 0.8 + 0.2 * torch.rand(()).item()
    kept = int(height * share), int(width * share)
    top, left = (int(torch.randint(whole + 1 - part, ())) for whole, part in zip((height, width), kept, strict=True))
    mirrored = torch.where((torch.rand(len(images)) < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    cropped = mirrored[:, :, top : top + kept[0], left : left + kept[1]].float()
    return functional.interpolate(cropped, (height, width), mode="bilinear")


@torch.no_grad()
def start_as_probe(head: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Give the head the weights of `logistic_layers` at strength 0.3."""
    with torch.enable_grad():
        ((weights, bias),) = logistic_layers(features, labels, [0.3])
    head.weight.copy_(weights.T)
    head.bias.copy_(bias)


def linear_with_odds(labels: Tensor) -> nn.Linear:
    """A layer on SqueezeNet's features whose bias is the log odds of the genres."""
    head = nn.Linear(512, labels.shape[1])
    with torch.no_grad():
        head.bias.copy_(labels.mean(0).clamp(1e-3, 1 - 1e-3).logit())
    return head


@torch.no_grad()
def pooled(body: nn.Sequential, images: Tensor) -> Tensor:
    """The last features, averaged over positions, [N, 512]."""
    return torch.cat([body(normalised(batch)).mean((2, 3)) for batch in images.split(BATCH_SIZE)])


# Scores.


def print_table(data: Data, ideas: Iterable[Idea]) -> None:
    """A row an idea; the first one is what the others are compared with."""
    every = weighted_f1(np.ones(data.truth.shape, np.bool_), data.truth)
    print(
        f"{len(data.files)} posters of {len(set(data.franchises.tolist()))} franchises, {data.truth.shape[1]} genres, "
        f"{FOLDS} folds; 'every genre' has weighted F1 {every:.3f}, mAP {data.truth.mean():.3f}\n"
    )
    print(
        "| idea | weighted F1 | beside the recipe | mAP | beside the recipe |\n| --- | --- | --- | --- | --- |",
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
            f"| {idea.name} | {figures.weighted_f1:.3f} | {told(f1)} | {figures.mean_average_precision:.3f} | "
            f"{told(mean_ap)} |",
            flush=True,
        )


def told(difference: Interval) -> str:
    """A difference with its interval; bold where the interval does not hold zero."""
    if difference.low == difference.high:
        return ""
    clear = "**" if difference.low > 0 or difference.high < 0 else ""
    return f"{clear}{difference.value:+.3f}{clear} ({difference.low:+.3f} to {difference.high:+.3f})"


def figures_of(idea: Idea, data: Data, bootstrap: Bootstrap) -> Figures:
    """Out-of-fold predictions with each seed, scored, and the means of the scores.

    Each resample draws as many seeds as there are, too; ideas of as many seeds draw the same ones, as they draw the
    same franchises.
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
    """Each poster predicted from the other folds, and decided by thresholds of the other folds."""
    probabilities = np.zeros(data.truth.shape, np.float32)
    for fold in range(FOLDS):
        train, test = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
        probabilities[test] = idea.predict(train, test, seed)
    return Predictions(probabilities, cross_fitted_decisions(probabilities, data.truth, data.folds))


if __name__ == "__main__":
    main()
