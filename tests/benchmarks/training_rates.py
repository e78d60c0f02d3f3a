"""Training images per second, and those of features, compared with random tensors."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from synthetic import MemoryWatch, synthetic_dataset
from torch import nn

from ml.compute import Compute, choose_compute
from ml.configuration import TrainConfig
from ml.networks.backbones import HALF, Backbone, GenreNetwork, feature_count, head, read_backbone, scratch_body
from ml.networks.weights import Weights, WeightsFile
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.features import Pretrained
from ml.training.fit import FitTask, Hyperparameters, Schedule, TrainingData, fit
from tests.no_checkpoints import NoCheckpoint, NoCheckpoints

SETTING = Hyperparameters(learning_rate=1e-3, weight_decay=0.05, dropout=0.2, hidden=0)
FEATURES_BACKBONE = "squeezenet1_1"
FEATURES_BATCH = 64
_RANDOM_STEPS = 100  # per round at most: more steps do not change the rate


@dataclass(frozen=True)
class RateSetting:
    """What is trained: the network, image size, batch size, device, epochs and number of runs."""

    network: str
    size: int
    batch_size: int
    device: str
    epochs: int
    runs: int


@dataclass(frozen=True)
class Rate:
    """Images per second end to end and on random tensors, compiled or not; peak GPU memory in GiB."""

    compiled: bool
    end_to_end: list[float]
    random: list[float]
    gpu_gib: float

    def __str__(self) -> str:
        shares = [one / other for one, other in zip(self.end_to_end, self.random, strict=True)]
        text = (
            f"{'compiled' if self.compiled else 'not compiled'}: {statistics.median(self.end_to_end):.0f} images "
            f"per second end to end, {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) of the "
            f"{statistics.median(self.random):.0f} on random tensors"
        )
        return text + (f", GPU memory at most {self.gpu_gib:.2f} GiB" if self.gpu_gib else "")


@contextmanager
def new_process() -> Iterator[ProcessPoolExecutor]:
    """A new process, whose memory use starts from zero."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def training_rates(setting: RateSetting, counts: list[int], compiled: list[bool]) -> None:
    """Measure the training of a whole network in images per second, and its share of the rate on random tensors."""
    compute = choose_compute(setting.device)
    print(
        f"training {setting.network} at {setting.size} x {setting.size} on {compute.reason.partition(';')[0]} in "
        f"{compute.precision}, batches of {setting.batch_size}"
    )
    for count in counts:
        with new_process() as process, tempfile.TemporaryDirectory() as workspace:
            loading, watched, rates = process.submit(rates_of, setting, count, compiled, Path(workspace)).result()
        print(
            f"  {count:6} posters, {count * 3 * setting.size**2 / 2**30:.2f} GiB: ready in {loading:.2f} s, {watched}"
        )
        for rate in rates:
            print(f"         {rate}", flush=True)


def rates_of(setting: RateSetting, count: int, compiled: list[bool], workspace: Path) -> tuple[float, str, list[Rate]]:
    """Seconds until the posters are ready, the memory use as text, and the rates."""
    compute = choose_compute(setting.device)
    dataset = synthetic_dataset(workspace, count, setting.size)
    bench = Bench(dataset, TrainConfig(), random_backbone(FEATURES_BACKBONE), compute, NoCheckpoints())
    networks = {flag: new_network(setting, bench) for flag in compiled}
    for flag, network in networks.items():
        if flag:
            network.compile()
    with MemoryWatch() as watch:
        start = time.perf_counter()
        assert len(bench.posters[torch.zeros(1, dtype=torch.long, device=compute.device)]) == 1
        loading = time.perf_counter() - start
        rates = []
        for flag, network in networks.items():
            if compute.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(compute.device)
            model = nn.Sequential(network.body, network.head)
            if flag:
                model.compile()
            end_to_end, random, peak = [], [], 0
            for _ in range(setting.runs):
                end_to_end.append(end_to_end_rate(network, bench, setting, compute))
                if compute.device.type == "cuda":
                    peak = max(peak, torch.cuda.max_memory_allocated(compute.device))
                random.append(random_tensor_rate(model, len(bench.training), bench.labels.shape[1], setting, compute))
            rates.append(Rate(flag, end_to_end, random, peak / 2**30))
    return loading, f"anonymous memory {watch.before:.0f} MB before, at most {watch.peak:.0f} MB", rates


def new_network(setting: RateSetting, bench: Bench) -> GenreNetwork:
    scratch = setting.network == "scratch"
    body = scratch_body(setting.size) if scratch else random_backbone(setting.network).body()
    features = feature_count(body, setting.size, setting.network)
    last = head(features, bench.frequencies, SETTING.hidden, SETTING.dropout)
    network = GenreNetwork(body, last, HALF, frozen=False)
    return network.to(bench.compute.device).to(memory_format=torch.channels_last)


def end_to_end_rate(network: GenreNetwork, bench: Bench, setting: RateSetting, compute: Compute) -> float:
    """Images per second of `fit` on uint8 posters: batches, flips, normalisation, optimiser, schedule.

    The median of all epochs except the first, which warms up. Evaluation is not included.
    """
    data = TrainingData(bench.posters, bench.labels, bench.training, bench.validation, bench.folds)
    schedule = Schedule(setting.epochs, setting.batch_size, seed=0, flip=True)
    return fit(network, SETTING, FitTask(data, schedule, compute), NullReporter(), NoCheckpoint()).images_per_second


def random_tensor_rate(model: nn.Module, posters: int, genres: int, setting: RateSetting, compute: Compute) -> float:
    """Images per second on one batch of normalised random floats that is already on the device."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_function = nn.MultiLabelSoftMarginLoss()
    images = torch.randn(setting.batch_size, 3, setting.size, setting.size, device=compute.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(setting.batch_size, genres, device=compute.device) < 0.2).float()
    steps = min(max(posters // setting.batch_size, 1), _RANDOM_STEPS)
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
    return steps * setting.batch_size / seconds


def feature_rates(backbone: str, count: int, size: int, runs: int, device: str) -> None:
    """Measure the features of a backbone in images per second, and their share of its rate on random tensors."""
    compute = choose_compute(device)
    print(f"features of {backbone} at {size} x {size} on {compute.reason.partition(';')[0]} in {compute.precision}")
    with new_process() as process, tempfile.TemporaryDirectory() as workspace:
        rate = process.submit(feature_rate, backbone, count, size, runs, compute, Path(workspace)).result()
    print(f"  {count:6} posters, {rate}", flush=True)


def feature_rate(backbone: str, count: int, size: int, runs: int, compute: Compute, workspace: Path) -> Rate:
    """Rates of `Pretrained.load` with an empty cache, and of its body on one ready batch, in turns."""
    dataset = synthetic_dataset(workspace, count, size)
    bench = Bench(dataset, TrainConfig(), with_random_weights(backbone), compute, NoCheckpoints())
    Pretrained.load(bench, NullReporter())  # warms up
    end_to_end, random = [], []
    for _ in range(runs):
        shutil.rmtree(dataset.folder.parents[1] / "features")
        pretrained = Pretrained.load(bench, NullReporter())
        end_to_end.append(pretrained.images_per_second or 0.0)
        random.append(body_rate(pretrained.body, count, size, compute))
    return Rate(False, end_to_end, random, 0)


@torch.no_grad()
def body_rate(body: nn.Module, count: int, size: int, compute: Compute) -> float:
    """Images per second of a body on one batch of normalised random floats that is already on the device."""
    body = body.to(compute.device, memory_format=torch.channels_last).eval()
    images = torch.randn(FEATURES_BATCH, 3, size, size, device=compute.device)
    images = images.contiguous(memory_format=torch.channels_last)
    start = time.perf_counter()
    for _ in range(count // FEATURES_BATCH):
        with compute.autocast():
            features = body(images)
        features.float().cpu()  # waits for the device
    rate = count // FEATURES_BATCH * FEATURES_BATCH / (time.perf_counter() - start)
    body.cpu()
    return rate


def random_backbone(name: str) -> Backbone:
    return read_backbone(name, "none", Path())


def with_random_weights(name: str) -> Backbone:
    """A backbone whose weights are random, but count as pretrained."""
    torch.manual_seed(0)
    backbone = random_backbone(name)
    return replace(backbone, weights=Weights(backbone.body().state_dict(), WeightsFile("random")))
