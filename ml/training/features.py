"""Features of a pretrained backbone: each poster passes through it once, and heads are trained on the results.

Features are cached in shards by the poster's sha256. There is one folder per backbone, weights, preprocessing and
precision. A new poster costs one pass; training on known posters costs none.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ml.compute import Compute
from ml.data.feature_table import FeatureTable
from ml.data.shards import Shards
from ml.networks.backbones import Backbone, GenreNetwork, feature_count
from ml.networks.pooling import PooledBody, pooled
from ml.reporting import Reporter
from ml.training.bench import Bench
from serving.bundle.files import sha256_of
from serving.bundle.model import Preprocessing

FEATURES_VERSION = 1
"""Raise this whenever the same backbone would give other features than before."""
FEATURES = "features"
BATCH_SIZE = 64


class Extractor:
    """A frozen body of a backbone, which turns posters into features.

    Attributes:
        backbone: it has pretrained weights.
        preprocessing: how posters become its input, but with the mean and deviation of the backbone.
        compute: the device and precision.
        key: the folder of the features in a workspace: one per backbone, weights, preprocessing and precision.
        width: number of features, F.
        is_pooled: whether the body has pooled features of several stages.
    """

    def __init__(self, body: nn.Module, backbone: Backbone, preprocessing: Preprocessing, compute: Compute) -> None:
        """`body` maps [N, 3, S, S] to [N, F] and is one of the backbone, which must have pretrained weights.

        Raises TrainingError if the body does not accept posters of this size.
        """
        assert backbone.weights is not None
        self.backbone, self.preprocessing, self.compute = backbone, preprocessing, compute
        self.width = feature_count(body, preprocessing.size, backbone.name)
        how = {**asdict(preprocessing), "mean": backbone.normalisation.mean, "std": backbone.normalisation.std}
        key = [FEATURES_VERSION, backbone.key, backbone.weights.file.sha256, how, self.width, compute.precision]
        if backbone.normalisation.bgr:
            key.append("bgr")
        digest = sha256_of(json.dumps(key).encode())[:16]
        self.key = f"{FEATURES}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', backbone.name)}-{digest}"
        self.is_pooled = isinstance(body, PooledBody)
        self._body = body

    def shards(self, workspace: Path) -> Shards:
        """The workspace's cache of the features."""
        return Shards(workspace / self.key, (self.width,), np.float32)

    def network(self) -> GenreNetwork:
        """The network for `extract`, on the device."""
        network = GenreNetwork(self._body, nn.Sequential(), self.backbone.normalisation, frozen=True)
        return network.to(self.compute.device).to(memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def extract(self, network: GenreNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [n, F] of posters uint8 [n, 3, S, S]."""
        pixels = torch.from_numpy(images).to(self.compute.device).contiguous(memory_format=torch.channels_last)
        with self.compute.autocast():
            features = network.features(pixels)
        values: NDArray[np.float32] = features.float().cpu().numpy()
        return values


class FeatureExchange(Protocol):
    """Features that are shared with other machines."""

    def fetch(self, extractor: Extractor, bench: Bench, reporter: Reporter) -> None:
        """Bring features of the bench's posters into the workspace, as far as other machines have or compute them."""

    def publish(self, extractor: Extractor) -> None:
        """Give the workspace's features to other machines."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained backbone and its features of all posters of a dataset.

    Attributes:
        plain: the backbone with its own features.
        body: the backbone with pooled features of several stages, [N, 3, S, S] to [N, F].
        features: the body's features of all posters, [N, F]; the first `plain_count` columns are the backbone's own.
        images_per_second: posters per second through the body, None if all features were cached.
    """

    plain: nn.Module
    body: nn.Module
    plain_count: int
    features: FeatureTable
    images_per_second: float | None

    @classmethod
    def load(cls, bench: Bench, reporter: Reporter, exchange: FeatureExchange | None = None) -> "Pretrained":
        """Compute the features of the bench's backbone, which must have pretrained weights."""
        backbone, size = bench.backbone, bench.dataset.preprocessing.size
        plain = backbone.body()
        plain_count = feature_count(plain, size, backbone.name)
        body = pooled(backbone.body(), size, backbone.name)  # with weights of its own
        features, rate = cached_features(body, bench, reporter, exchange)
        return cls(plain, body, plain_count, features, rate)


def cached_features(
    body: nn.Module, bench: Bench, reporter: Reporter, exchange: FeatureExchange | None = None
) -> tuple[FeatureTable, float | None]:
    """Features of all posters of the dataset, from the workspace's cache if possible, and posters per second.

    `body` is one of the bench's backbone and maps [N, 3, S, S] to [N, F]. All parts are computed together: the body is
    frozen and sees each poster by itself, so nothing leaks from one part into another. The rate is None if all features
    were cached.
    """
    dataset = bench.dataset
    extractor = Extractor(body, bench.backbone, dataset.preprocessing, bench.compute)
    if exchange:
        exchange.fetch(extractor, bench, reporter)
    shards = extractor.shards(dataset.folder.parents[1])
    with shards.adding(dataset.sha256) as missing:
        rate = _add_features(shards, missing, extractor, bench, reporter) if missing else None
    if exchange:
        exchange.publish(extractor)
    return FeatureTable(shards.rows(dataset.sha256), bench.compute.device), rate


def _add_features(
    shards: Shards, missing: Sequence[str], extractor: Extractor, bench: Bench, reporter: Reporter
) -> float:
    """Compute the features of these posters, given by their sha256; returns posters per second."""
    images, network = bench.dataset.images, extractor.network()
    row_of = {sha256: row for row, sha256 in enumerate(bench.dataset.sha256)}

    def features(hashes: Sequence[str]) -> NDArray[np.float32]:
        return extractor.extract(network, images[np.array([row_of[sha256] for sha256 in hashes])])

    def report(done: int) -> None:
        reporter.progress(done, len(missing), "backbone's features", "images")

    start = time.perf_counter()
    report(0)
    shards.fill(missing, features, BATCH_SIZE, report)
    rate = len(missing) / (time.perf_counter() - start)
    network.cpu()  # frees the device's memory for the networks that are trained
    return rate
