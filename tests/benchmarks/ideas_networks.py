"""Bodies for `bench_ideas.py`: features of their layers, and fine-tuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from ideas_heads import BATCH_SIZE, Data, Rows, logistic_layers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

FILM_EPOCHS, FINE_TUNING_EPOCHS = 6, 6
SQUASHED, EQUAL_PIXELS, MORE_PIXELS, SMALL, FILM = (256, 256), (208, 312), (256, 384), (128, 192), (160, 240)
TAPS = {1: "s2", 4: "s4", 7: "s8", 12: "s16"}
"""Layers of SqueezeNet's features whose statistics are kept, by the stride of their output."""
MEAN, DEVIATION, MAXIMUM = "mean", "std", "max"
Features = dict[str, Tensor]


def load_body(weights: Path) -> nn.Sequential:
    """SqueezeNet's convolutions with ImageNet weights."""
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
    """Mean, deviation and maximum over positions, [N, C], of the outputs of the tapped layers."""
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
    """Pixels normalised as for ImageNet networks, float [N, 3, H, W]."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (images.float() / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def pretrained(films: Data, body: nn.Sequential) -> nn.Sequential:
    """The body, trained for some epochs on the genres of film posters."""
    torch.manual_seed(0)
    head = linear_with_odds(films.labels)
    train_whole(body, head, pixels(films.files, FILM), films.labels, FILM_EPOCHS, rate=4e-4, head_rate=4e-3)
    return body.eval()


def fine_tuned(
    images: Tensor, data: Data, body: nn.Sequential, train: Rows, test: Rows, epochs: int, probe: bool, seed: int
) -> NDArray[np.float32]:
    """Probabilities [len(test), G] of a body and head that are trained together.

    With `probe` the head starts as the L2-regularised head of the untrained body: Kumar et al. 2022
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
    """Mirror half of a batch, and crop all of it to one random 80-100 % of each side."""
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
    """A linear layer on SqueezeNet's features, with the log odds of the genres as bias."""
    head = nn.Linear(512, labels.shape[1])
    with torch.no_grad():
        head.bias.copy_(labels.mean(0).clamp(1e-3, 1 - 1e-3).logit())
    return head


@torch.no_grad()
def pooled(body: nn.Sequential, images: Tensor) -> Tensor:
    """The last features, averaged over positions, [N, 512]."""
    return torch.cat([body(normalised(batch)).mean((2, 3)) for batch in images.split(BATCH_SIZE)])
