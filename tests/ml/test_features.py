import numpy as np
import torch
from torch import nn

from ml.compute import choose_compute
from ml.configuration import PreprocessConfig
from ml.dataset import Dataset, preprocessing
from ml.features import extract_features
from ml.networks import GenreNetwork, head, scratch_body
from ml.reporting import NullReporter


def test_features_are_those_of_each_poster_whatever_batch_it_is_in(dataset: Dataset) -> None:
    torch.manual_seed(0)
    how = preprocessing(PreprocessConfig(image_size=32))
    network = GenreNetwork(scratch_body(32), head(256, np.array([0.5, 0.5]), 0, 0.0), how, frozen=True)
    compute = choose_compute("cpu")
    images = torch.from_numpy(dataset.images)
    features, per_second = extract_features(network, images, compute, NullReporter())
    assert features.shape == (120, 256)
    assert features.dtype == torch.float32
    assert per_second > 0
    alone, _ = extract_features(network, images[100:101], compute, NullReporter())
    assert torch.allclose(features[100], alone[0], atol=2e-2)


def test_the_body_sees_each_poster_once(dataset: Dataset) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.mean((2, 3))

    how = preprocessing(PreprocessConfig(image_size=32))
    network = GenreNetwork(Counting(), head(3, np.array([0.5, 0.5]), 0, 0.0), how, frozen=True)
    extract_features(network, torch.from_numpy(dataset.images), choose_compute("cpu"), NullReporter())
    assert sum(seen) == 120
