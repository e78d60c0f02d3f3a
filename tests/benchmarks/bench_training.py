"""Training images per second end to end, as a share of the same network's rate on random tensors on the device.

    python tests/benchmarks/bench_training.py [--network scratch|resnet18|...] [--size 128] [--posters 512] [--runs 3]

End to end is `ml.training.fit` from uint8 posters: batches, flips, normalisation, optimiser, schedule. The other
side runs the same network, loss and optimiser in the same precision over one batch of random floats that never
changes. Medians over the runs, which take turns; each warms up first.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn

from ml.compute import Compute, choose_compute
from ml.configuration import PreprocessConfig
from ml.dataset import preprocessing
from ml.networks import GenreNetwork, backbone, feature_count, head, scratch_body
from ml.reporting import NullReporter
from ml.training import Hyperparameters, Schedule, TrainingData, fit

GENRES = 16
SETTING = Hyperparameters(learning_rate=1e-3, weight_decay=0.05, dropout=0.2, hidden=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="scratch")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--posters", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    compute = choose_compute(arguments.device)
    network = new_network(arguments.network, arguments.size).to(compute.device).to(memory_format=torch.channels_last)
    end_to_end, random = [], []
    for _ in range(arguments.runs):
        end_to_end.append(end_to_end_rate(network, arguments.size, arguments.posters, arguments.batch_size, compute))
        random.append(random_tensor_rate(network, arguments.size, arguments.posters, arguments.batch_size, compute))
    rate, limit = statistics.median(end_to_end), statistics.median(random)
    print(
        f"training {arguments.network} at {arguments.size} x {arguments.size} on {compute.device} in "
        f"{compute.precision}: {rate:.0f} images a second end to end, {rate / limit:.2f} of the {limit:.0f} on random "
        f"tensors"
    )
    if compute.device.type == "cuda":
        print(f"peak memory of the GPU: {torch.cuda.max_memory_allocated(compute.device) / 2**30:.2f} GiB")


def new_network(name: str, size: int) -> GenreNetwork:
    body = scratch_body(size) if name == "scratch" else backbone(name).body
    last = head(feature_count(body, size, name), np.full(GENRES, 0.2), SETTING.hidden, SETTING.dropout)
    return GenreNetwork(body, last, preprocessing(PreprocessConfig(image_size=size)), frozen=False)


def end_to_end_rate(network: GenreNetwork, size: int, posters: int, batch_size: int, compute: Compute) -> float:
    """Images a second of `fit` over two epochs, of which the first warms up; evaluation is not timed there."""
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (posters + 8, 3, size, size), np.uint8))
    labels = torch.from_numpy((generator.random((posters + 8, GENRES)) < 0.2).astype(np.float32))
    rows = np.arange(posters + 8)
    data = TrainingData(
        images.to(compute.device), labels.to(compute.device), rows[:posters], rows[posters:], np.arange(8) % 4
    )
    schedule = Schedule(epochs=2, batch_size=batch_size, seed=0, flip=True)
    return fit(network, data, SETTING, schedule, compute, NullReporter(), lambda epoch: None).images_per_second


def random_tensor_rate(network: GenreNetwork, size: int, posters: int, batch_size: int, compute: Compute) -> float:
    """Images a second over one batch of normalised random floats that is on the device already."""
    model = nn.Sequential(network.body, network.head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_function = nn.MultiLabelSoftMarginLoss()
    images = torch.randn(batch_size, 3, size, size, device=compute.device).to(memory_format=torch.channels_last)
    labels = (torch.rand(batch_size, GENRES, device=compute.device) < 0.2).float()
    steps = max(posters // batch_size, 1)
    seconds = 0.0
    for _ in range(2):  # the first round warms up
        start = time.perf_counter()
        for _ in range(steps):
            with compute.autocast():
                logits = model(images)
            loss = loss_function(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device
        seconds = time.perf_counter() - start
    return steps * batch_size / seconds


if __name__ == "__main__":
    main()
