"""A frozen backbone runs once per poster; heads are searched and trained on what it saw.

Features are kept in shards by the poster's sha256, in a folder for each backbone, weights, preprocessing and
precision: a new poster costs one pass, and a training on known posters none.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compute import Compute
from ml.data.dataset import Dataset
from ml.data.feature_table import FeatureTable
from ml.data.shards import ROWS_PER_SHARD, Shards
from ml.networks.backbones import GenreNetwork, feature_count
from ml.reporting import Reporter

FEATURES_VERSION = 1
"""To be raised whenever the same backbone would give other features than before."""
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Features:
    """Of all posters of a dataset, [N, F]; the first `own` are the network's own last ones.

    `images_per_second` is that of the posters that had to go through the backbone, None where there were none.
    """

    values: FeatureTable
    own: int
    images_per_second: float | None


def cached_features(
    body: nn.Module, own: int, name: str, weights_sha256: str, dataset: Dataset, compute: Compute, reporter: Reporter
) -> Features:
    """Features of all posters of the dataset, from its workspace's cache where they are there.

    `body` is what gives them, [N, 3, S, S] to [N, F]. All parts at once: it is frozen and sees each poster by itself,
    so nothing leaks from one part to another.
    """
    width = feature_count(body, dataset.preprocessing.size, name)
    about = [FEATURES_VERSION, name, weights_sha256, asdict(dataset.preprocessing), width, compute.precision]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    shards = Shards(_folder(dataset) / f"{name}-{digest}", (width,), np.float32)
    missing = shards.missing(dataset.sha256)
    rate = None
    if missing:
        network = GenreNetwork(body, nn.Sequential(), dataset.preprocessing, frozen=True).to(compute.device)
        network = network.to(memory_format=torch.channels_last).eval()
        row_of = {sha256: row for row, sha256 in enumerate(dataset.sha256)}
        start = time.perf_counter()
        reporter.progress(0, len(missing), "backbone's features", "images")
        for first in range(0, len(missing), ROWS_PER_SHARD):
            hashes = missing[first : first + ROWS_PER_SHARD]
            with shards.write(hashes) as shard:
                for begin in range(0, len(hashes), _BATCH_SIZE):
                    rows = np.array([row_of[sha256] for sha256 in hashes[begin : begin + _BATCH_SIZE]])
                    shard.put(begin, extract(network, torch.from_numpy(dataset.images[rows]), compute))
                    reporter.progress(first + begin + len(rows), len(missing), "backbone's features", "images")
        rate = len(missing) / (time.perf_counter() - start)
        network.cpu()  # others make copies of the body, and the device's memory is for them
    return Features(FeatureTable(shards.rows(dataset.sha256), compute.device), own, rate)


@torch.no_grad()
def extract(network: GenreNetwork, images: Tensor, compute: Compute) -> NDArray[np.float32]:
    """Features float32 [n, F] on the CPU, from uint8 [n, 3, S, S]."""
    with compute.autocast():
        features = network.features(images.to(compute.device).contiguous(memory_format=torch.channels_last))
    values: NDArray[np.float32] = features.float().cpu().numpy()
    return values


def _folder(dataset: Dataset) -> Path:
    return dataset.folder.parents[1] / "features"
