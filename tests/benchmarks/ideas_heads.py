"""Heads on fixed features for `bench_ideas.py`: losses, mixing, averaging, heads with a closed-form or convex fit."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

EPOCHS, BATCH_SIZE, LEARNING_RATE = 12, 64, 1e-3
Rows = NDArray[np.int64]
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


def soft_margin(labels: Tensor) -> Loss:
    """The recipe's loss: the mean over genres of the binary cross-entropy."""
    return functional.multilabel_soft_margin_loss


def capped_weights(labels: Tensor) -> Loss:
    """Cross-entropy with positives weighted by negatives / positives of their genre, at most 10."""
    positives = labels.sum(0)
    weights = ((len(labels) - positives) / positives.clamp(min=1)).clamp(max=10)
    return lambda logits, targets: functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def asymmetric(labels: Tensor) -> Loss:
    """Asymmetric loss, which weights easy negatives less: Ridnik et al. 2021 (https://arxiv.org/abs/2009.14119).

    Focusing is 0 for positives and 4 for negatives, the margin is 0.05.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        shifted = (logits.sigmoid() - 0.05).clamp(min=0)
        negative = shifted**4 * torch.log1p(-shifted.clamp(max=1 - 1e-6))
        return -(targets * functional.logsigmoid(logits) + (1 - targets) * negative).mean()

    return loss


@dataclass(frozen=True)
class Recipe:
    """A linear head trained by gradient descent. The defaults are the standard recipe.

    `training` and `predicting` are views of the posters, features [N, F] each. A step draws a view per poster, and a
    prediction is the mean over the views. `loss` returns a loss function for the training labels.
    """

    training: tuple[Tensor, ...]
    predicting: tuple[Tensor, ...]
    loss: Callable[[Tensor], Loss] = soft_margin
    standardised: bool = False
    dropout: float = 0.0
    weight_decay: float = 0.0
    """Decoupled from the loss: Loshchilov and Hutter 2019 (https://arxiv.org/abs/1711.05101)."""
    smoothing: float = 0.0
    """Share of each label that is replaced by 0.5: Szegedy et al. 2016 (https://arxiv.org/abs/1512.00567)."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution: Zhang et al. 2018 (https://arxiv.org/abs/1710.09412)."""
    moving_average: float = 0.0
    """Decay per step of the moving average of the weights that is used for predictions: Polyak and Juditsky 1992."""
    averaged_epochs: int = 0
    """Number of last epochs whose weights are averaged: Izmailov et al. 2018 (https://arxiv.org/abs/1803.05407)."""


def train_head(recipe: Recipe, data: Data, train: Rows, test: Rows, seed: int) -> NDArray[np.float32]:
    """Train a head on the rows `train`; return probabilities [len(test), G]."""
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
    """Mix each poster of a batch with another one, features and labels by the same share."""
    share = torch.distributions.Beta(alpha, alpha).sample()
    other = torch.randperm(len(features))
    return share * features + (1 - share) * features[other], share * targets + (1 - share) * targets[other]


@torch.no_grad()
def move(average: nn.Module, towards: nn.Module, share: float) -> None:
    """Move all parameters by this share towards those of another module."""
    for parameter, target in zip(average.parameters(), towards.parameters(), strict=True):
        parameter.lerp_(target, share)


def logistic(features: Tensor, labels: Tensor, views: Sequence[Tensor], settings: Sequence[Setting]) -> list[Tensor]:
    """Probabilities of the layers of `logistic_layers`, as the mean over the views."""
    layers = logistic_layers(features, labels, [strength for (strength,) in settings])
    return [torch.stack([(view @ weights + bias).sigmoid() for view in views]).mean(0) for weights, bias in layers]


def logistic_layers(features: Tensor, labels: Tensor, strengths: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weights [F, G] and bias [G] of one logistic regression per genre, for each strength, from strong to weak.

    The penalty is half the strength times the squared weights of standardised features. The problem is convex, so
    L-BFGS needs no further settings.
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
    features: Tensor, labels: Tensor, views: Sequence[Tensor], settings: Sequence[Setting]
) -> list[Tensor]:
    """Kernel ridge regression with a radial basis function. A setting is its width and the ridge.

    Regularised least-squares classification (Rifkin et al. 2003). The width scales the mean squared difference of
    standardised features. One decomposition of the kernel is used for all ridges of a width.
    """
    features, *views = standardised(features, [features, *views])
    frequencies = labels.mean(0)
    decompositions = {}
    predictions = []
    for width, ridge in settings:
        if width not in decompositions:
            values, vectors = torch.linalg.eigh(similarity(features, features, width))
            kernels = [similarity(view, features, width) @ vectors for view in views]
            decompositions[width] = values, vectors.T @ (labels - frequencies), torch.stack(kernels).mean(0)
        values, projected, kernel = decompositions[width]
        predictions.append((kernel @ (projected / (values + ridge)[:, None]) + frequencies).clamp(0, 1))
    return predictions


def similarity(one: Tensor, other: Tensor, width: float) -> Tensor:
    """The radial basis function of features [N, F] and [M, F], [N, M]."""
    return torch.exp(-width / one.shape[1] * torch.cdist(one, other) ** 2)


def standardised(training: Tensor, views: Sequence[Tensor]) -> list[Tensor]:
    """The views, standardised by mean and deviation of the training features [M, F]."""
    mean, scale = standardisation(training)
    return [(view - mean) * scale for view in views]


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation, [F] each. The latter is 0 for constant features."""
    deviation = features.std(0)
    return features.mean(0), torch.where(deviation > 1e-6, 1 / deviation, 0)
