"""Features of a pretrained backbone: each poster passes through it once, and heads are trained on the results.

Features are cached in shards by the poster's sha256. There is one folder per backbone, weights, preprocessing and
precision. A new poster costs one pass; training on known posters costs none.
"""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import Compute
from ml.data.feature_table import FeatureTable
from ml.data.shards import ROWS_PER_SHARD, Shards
from ml.networks.backbones import GenreNetwork, feature_count
from ml.networks.pooling import pooled
from ml.reporting import Reporter
from ml.training.bench import Bench

FEATURES_VERSION = 1
"""Raise this whenever the same backbone would give other features than before."""
_BATCH_SIZE = 64


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
    def load(cls, bench: Bench, reporter: Reporter) -> "Pretrained":
        """Compute the features of the bench's backbone, which must have pretrained weights."""
        backbone, size = bench.backbone, bench.dataset.preprocessing.size
        plain = backbone.body()
        plain_count = feature_count(plain, size, backbone.name)
        body = pooled(backbone.body(), size, backbone.name)  # with weights of its own
        features, rate = cached_features(body, bench, reporter)
        return cls(plain, body, plain_count, features, rate)


def cached_features(body: nn.Module, bench: Bench, reporter: Reporter) -> tuple[FeatureTable, float | None]:
    """Features of all posters of the dataset, from the workspace's cache if possible, and posters per second.

    `body` is one of the bench's backbone and maps [N, 3, S, S] to [N, F]. All parts are computed together: the body is
    frozen and sees each poster by itself, so nothing leaks from one part into another. The rate is None if all features
    were cached.
    """
    dataset, backbone, compute = bench.dataset, bench.backbone, bench.compute
    assert backbone.weights is not None
    width = feature_count(body, dataset.preprocessing.size, backbone.name)
    how = {**asdict(dataset.preprocessing), "mean": backbone.normalisation.mean, "std": backbone.normalisation.std}
    key = [FEATURES_VERSION, backbone.key, backbone.weights.file.sha256, how, width, compute.precision]
    if backbone.normalisation.bgr:
        key.append("bgr")
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    folder = dataset.folder.parents[1] / "features" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', backbone.name)}-{digest}"
    shards = Shards(folder, (width,), np.float32)
    with shards.adding(dataset.sha256) as missing:
        rate = _add_features(shards, missing, body, bench, reporter) if missing else None
    return FeatureTable(shards.rows(dataset.sha256), compute.device), rate


def _add_features(shards: Shards, missing: Sequence[str], body: nn.Module, bench: Bench, reporter: Reporter) -> float:
    """Compute the features of these posters, given by their sha256; returns posters per second."""
    dataset, compute = bench.dataset, bench.compute
    network = GenreNetwork(body, nn.Sequential(), bench.backbone.normalisation, frozen=True).to(compute.device)
    network = network.to(memory_format=torch.channels_last).eval()
    row_of = {sha256: row for row, sha256 in enumerate(dataset.sha256)}
    start = time.perf_counter()
    reporter.progress(0, len(missing), "backbone's features", "images")
    for first in range(0, len(missing), ROWS_PER_SHARD):
        hashes = missing[first : first + ROWS_PER_SHARD]
        with shards.write(hashes) as shard:
            for begin in range(0, len(hashes), _BATCH_SIZE):
                rows = np.array([row_of[sha256] for sha256 in hashes[begin : begin + _BATCH_SIZE]])
                shard.put(begin, _extract(network, torch.from_numpy(dataset.images[rows]), compute))
                reporter.progress(first + begin + len(rows), len(missing), "backbone's features", "images")
    rate = len(missing) / (time.perf_counter() - start)
    network.cpu()  # frees the device's memory for the networks that are trained
    return rate


@torch.no_grad()
def _extract(network: GenreNetwork, images: Tensor, compute: Compute) -> NDArray[np.float32]:
    """Features float32 [n, F] on the CPU, from posters uint8 [n, 3, S, S]."""
    with compute.autocast():
        features = network.features(images.to(compute.device).contiguous(memory_format=torch.channels_last))
    values: NDArray[np.float32] = features.float().cpu().numpy()
    return values
