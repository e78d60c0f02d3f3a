"""A frozen backbone runs once per poster; heads are searched and trained on what it saw."""

import time

import torch
from torch import Tensor

from ml.compute import Compute
from ml.networks import GenreNetwork
from ml.reporting import Reporter

_BATCH_SIZE = 64


@torch.no_grad()
def extract_features(
    network: GenreNetwork, images: Tensor, compute: Compute, reporter: Reporter
) -> tuple[Tensor, float]:
    """Features of all posters, float32 [N, F] on the device, from uint8 [N, 3, S, S]; and posters a second.

    The network is on the device already. All parts at once: the body is frozen and sees each poster by
    itself, so nothing leaks from one part to another.
    """
    network.eval()
    batches: list[Tensor] = []
    start = time.perf_counter()
    for first in range(0, len(images), _BATCH_SIZE):
        batch = images[first : first + _BATCH_SIZE].to(compute.device)
        with compute.autocast():
            features = network.features(batch.contiguous(memory_format=torch.channels_last))
        batches.append(features.float())
        reporter.progress(first + len(batch), len(images), "backbone's features")
    all_features = torch.cat(batches)
    if compute.device.type == "cuda":
        torch.cuda.synchronize(compute.device)
    return all_features, len(images) / (time.perf_counter() - start)
