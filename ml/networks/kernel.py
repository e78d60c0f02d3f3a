"""A head without gradient steps: kernel ridge regression on the features of a frozen backbone.

Features are standardised and projected on their principal components. A radial basis function compares each poster
with landmarks, which are training posters (the Nystroem method, Williams and Seeger 2001,
https://papers.nips.cc/paper/1866). Regularised least squares on the genres (Rifkin et al. 2003) has a closed solution.
Its estimates become calibrated probabilities through one logistic curve per genre (Platt 1999).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.data.feature_table import BLOCK, FeatureTable
from ml.errors import TrainingError
from ml.scores.metrics import Labels

COMPONENTS = 128
LANDMARKS = 1024
SPACE_ROWS = 200_000
"""Mean, deviation and components are those of at most so many posters, chosen at random: each is read 7 times."""
_MIN_EIGENVALUE_SHARE = 1e-5
"""Smaller eigenvalues of the landmarks' kernel, relative to its largest one, are rounding errors."""
_NEWTON_STEPS = 30
_SUBSPACE_ITERATIONS = 5
_MIN_SLOPE = 1e-2


@dataclass(frozen=True)
class KernelSetting:
    """Hyperparameters of a kernel head.

    `ridge` weights the squared norm against the sum of squared errors. `width` scales the mean squared difference of
    standardised features in the kernel's exponent.
    """

    ridge: float
    width: float


class KernelHead(nn.Module):
    """Maps features [N, F] to logits [N, G]. Values fitted without gradients are buffers; the last layer is linear."""

    mean: Tensor
    projection: Tensor
    landmarks: Tensor

    def __init__(self, mean: Tensor, projection: Tensor, landmarks: Tensor, width: float, last: nn.Linear) -> None:
        """A head from `mean` [F], `projection` [F, P] (includes scaling), `landmarks` [M, P] and `last` (M to G)."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)
        self.register_buffer("landmarks", landmarks)
        self.width = width
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        # In float32 even under autocast: a squared distance is a small difference of large sums.
        with torch.autocast(features.device.type, enabled=False):
            points = (features.float() - self.mean) @ self.projection
            logits: Tensor = self.last(similarity(points, self.landmarks, self.width))
        return logits


def similarity(points: Tensor, landmarks: Tensor, width: float) -> Tensor:
    """The radial basis function exp(-width * |a - b|^2), [N, M] from [N, P] and [M, P]."""
    squares = (points**2).sum(1, keepdim=True) + (landmarks**2).sum(1) - 2 * points @ landmarks.T
    return torch.exp(-width * squares.clamp(min=0))


@dataclass(frozen=True)
class Space:
    """The projected space of training posters.

    Features minus `mean` [F], times `projection` [F, P], are points. Squared distances of points are mean squared
    differences of standardised features. `points` [N, P] are those of the training posters.
    """

    mean: Tensor
    projection: Tensor
    points: Tensor

    def project(self, features: FeatureTable) -> Tensor:
        """The points [N, P] of features [N, F]."""
        return torch.cat([(block - self.mean) @ self.projection for block in features.blocks()])


def fit_space(features: FeatureTable, seed: int) -> Space:
    """Standardise features [N, F] and find their principal components.

    Uses subspace iteration from seeded random numbers (Halko et al. 2011, algorithm 4.4,
    https://arxiv.org/abs/0909.4061), which reads features block by block. Raises TrainingError if features are not
    finite.
    """
    everything = features
    if len(features) > SPACE_ROWS:
        features = features.select(np.sort(np.random.default_rng(seed).permutation(len(features))[:SPACE_ROWS]))
    mean, deviation = _moments(features)
    # Features that are constant here are ignored, however much they vary on other posters.
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 0) / features.shape[1] ** 0.5
    count = min(COMPONENTS, *features.shape)
    directions = torch.randn(features.shape[1], count, generator=torch.Generator().manual_seed(seed)).to(mean.device)
    for _ in range(_SUBSPACE_ITERATIONS):
        directions, _ = torch.linalg.qr(_times_covariance(features, mean, scale, directions))
    # The axes of the subspace, largest variance first.
    _, axes = torch.linalg.eigh(directions.T @ _times_covariance(features, mean, scale, directions))
    directions = directions @ axes.flip(1)
    projection = scale[:, None] * directions
    space = Space(mean, projection, torch.empty(0))
    return replace(space, points=space.project(everything))


def _moments(features: FeatureTable) -> tuple[Tensor, Tensor]:
    """Mean and sample standard deviation [F], in one pass."""
    shift: Tensor | None = None
    sums = torch.zeros(2, features.shape[1], dtype=torch.float64, device=features.device)
    for block in features.blocks():
        # Values are shifted by the first row: sums of squares would lose a deviation that is small against the mean.
        shift = block[0].clone() if shift is None else shift
        moved = block.sub_(shift)
        sums[0] += moved.sum(0, dtype=torch.float64)
        sums[1] += moved.square_().sum(0, dtype=torch.float64)
    if shift is None or not bool(torch.isfinite(sums).all()):
        raise TrainingError("The backbone's features are not finite: its weights are damaged. Use other weights.")
    count = len(features)
    variance = (sums[1] - sums[0].square() / count).clamp(min=0) / max(count - 1, 1)
    return shift + (sums[0] / count).float(), variance.sqrt().float()


def _times_covariance(features: FeatureTable, mean: Tensor, scale: Tensor, directions: Tensor) -> Tensor:
    """The standardised features' covariance [F, F] times directions [F, P], without building the covariance."""
    product = torch.zeros_like(directions)
    for block in features.blocks():
        standard = block.sub_(mean).mul_(scale)
        product += standard.T @ (standard @ directions)
    return product / len(features)


class KernelRidge:
    """Kernel ridge regression for one width; it can be solved for any ridge."""

    def __init__(self, space: Space, labels: Tensor, width: float, seed: int) -> None:
        """Prepare for labels float [N, G] of the space's points; the seed chooses the landmarks."""
        chosen = np.random.default_rng(seed).permutation(len(labels))[:LANDMARKS]
        self.landmarks = space.points[torch.from_numpy(np.sort(chosen)).to(space.points.device)]
        self.width = width
        self.mean_label = labels.double().mean(0)
        values, vectors = torch.linalg.eigh(similarity(self.landmarks, self.landmarks, width).double())
        kept = values > _MIN_EIGENVALUE_SHARE * values.max()
        # Inner products of whitened kernel values approximate the kernel, so the ridge is that of a linear regression.
        self._whitening = vectors[:, kept] / values[kept].sqrt()
        # Summed block by block: the kernel of all posters would be the largest array of a training.
        rank = self._whitening.shape[1]
        self._gram = torch.zeros(rank, rank, dtype=torch.float64, device=space.points.device)
        self._moments = torch.zeros(rank, labels.shape[1], dtype=torch.float64, device=space.points.device)
        total = torch.zeros(rank, dtype=torch.float64, device=space.points.device)
        for points, truth in zip(torch.split(space.points, BLOCK), torch.split(labels, BLOCK), strict=True):
            mapped = similarity(points, self.landmarks, width).double() @ self._whitening
            self._gram += mapped.T @ mapped
            self._moments += mapped.T @ (truth.double() - self.mean_label)
            total += mapped.sum(0)
        self._centre = total / len(labels)
        self._gram -= len(labels) * torch.outer(self._centre, self._centre)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Weights [M, G] and bias [G], float64, that map kernel values to estimates."""
        regularised = self._gram + ridge * torch.eye(len(self._gram), device=self._gram.device, dtype=torch.float64)
        solution = torch.linalg.solve(regularised, self._moments)
        return self._whitening @ solution, self.mean_label - self._centre @ solution

    def estimate(self, points: Tensor, ridge: float) -> NDArray[np.float64]:
        """Estimates float64 [N, G] for points [N, P]; most are between 0 and 1."""
        weights, bias = self.solve(ridge)
        estimates = [
            (similarity(block, self.landmarks, self.width).double() @ weights + bias).cpu()
            for block in torch.split(points, BLOCK)
        ]
        return np.asarray(torch.cat(estimates).numpy(), np.float64)


@dataclass(frozen=True)
class LogisticCurves:
    """One curve per genre: logit = slope * estimate + offset, [G] each."""

    slope: NDArray[np.float64]
    offset: NDArray[np.float64]

    def logits(self, estimates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits [N, G] of estimates [N, G]."""
        return estimates * self.slope + self.offset

    def probabilities(self, estimates: NDArray[np.float64]) -> NDArray[np.float32]:
        """Probabilities [N, G] of estimates [N, G]."""
        return (1 / (1 + np.exp(-self.logits(estimates)))).astype(np.float32)


def fit_curves(estimates: NDArray[np.float64], labels: Labels) -> LogisticCurves:
    """Fit logistic curves to out-of-fold estimates [N, G] by Newton's method.

    Targets are smoothed (Platt 1999) and slopes are kept positive: if estimates do not predict a genre, their order
    stays and probabilities are near the genre's frequency.
    """
    positives = labels.sum(0, dtype=np.float64)
    negatives = len(labels) - positives
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets = np.where(labels == 1, high, low)
    centre, scale = estimates.mean(0), np.maximum(estimates.std(0), 1e-6)
    x = (estimates - centre) / scale
    odds = np.log((positives + 1) / (negatives + 1))
    slope, offset = np.ones_like(odds), odds.copy()
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(x * slope + offset)))
        error, weight = p - targets, np.maximum(p * (1 - p), 1e-6)
        # The 2 x 2 Newton system of each genre. A small ridge on the slope keeps separable genres finite.
        ridge = 1e-2
        g0, g1 = error.sum(0), (error * x).sum(0) + ridge * slope
        h00, h01, h11 = weight.sum(0), (weight * x).sum(0), (weight * x * x).sum(0) + ridge
        determinant = h00 * h11 - h01 * h01
        slope = slope - np.clip((h00 * g1 - h01 * g0) / determinant, -2, 2)
        offset = offset - np.clip((h11 * g0 - h01 * g1) / determinant, -2, 2)
    raised = np.maximum(slope, _MIN_SLOPE)
    for _ in range(_NEWTON_STEPS):
        # After its slope was raised, a genre needs a new offset to keep its frequency.
        p = 1 / (1 + np.exp(-(x * raised + offset)))
        change = (p - targets).sum(0) / np.maximum(p * (1 - p), 1e-6).sum(0)
        offset = np.where(raised > slope, offset - np.clip(change, -2, 2), offset)
    slope = raised
    return LogisticCurves(slope / scale, offset - slope * centre / scale)


def fit_kernel_head(
    space: Space, labels: Tensor, setting: KernelSetting, curves: LogisticCurves, seed: int
) -> KernelHead:
    """Fit a head on all points of the space; `curves` turn its estimates into logits."""
    ridge = KernelRidge(space, labels, setting.width, seed)
    weights, bias = ridge.solve(setting.ridge)
    slope = torch.from_numpy(curves.slope).to(weights)
    offset = torch.from_numpy(curves.offset).to(weights)
    last = nn.Linear(*weights.shape)
    with torch.no_grad():
        last.weight.copy_((weights * slope).T)
        last.bias.copy_(bias * slope + offset)
    return KernelHead(space.mean, space.projection, ridge.landmarks, setting.width, last)
