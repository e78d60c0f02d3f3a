from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ml.compute import Compute, choose_compute
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.networks.backbones import HALF, IMAGENET_NORMALISATION, Normalisation, read_backbone, scratch_body
from ml.networks.weights import Weights, WeightsFile
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.features import cached_features
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


class Counting(nn.Module):
    """A body that records the batch sizes it sees, except those of probes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if bool(images.any()):
            self.seen.append(len(images))
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], 1)


@pytest.fixture
def data(posters: list[Poster], small: PreprocessConfig, tmp_path: Path) -> Dataset:
    """A dataset of all posters but one, in a workspace without cached features."""
    return build_dataset(posters[:-1], tmp_path, small, NullReporter())


def features_of(
    data: Dataset,
    body: nn.Module | None = None,
    weights: str = "sha256",
    compute: Compute | None = None,
    normalisation: Normalisation = IMAGENET_NORMALISATION,
) -> tuple[Tensor, list[int], float | None]:
    """Features, the batch sizes that the body saw, and posters per second."""
    body = body or Counting()
    backbone = replace(read_backbone("resnet18", "none", Path()), weights=Weights({}, WeightsFile(weights)))
    backbone = replace(backbone, normalisation=normalisation)
    bench = Bench(data, TrainConfig(), backbone, compute or choose_compute("cpu"), NoCheckpoints())
    features, rate = cached_features(body, bench, NullReporter())
    return features.columns(features.shape[1]), getattr(body, "seen", []), rate


def folders(data: Dataset) -> set[Path]:
    return set((data.folder.parents[1] / "features").iterdir())


def test_cached_features_are_in_the_order_of_the_dataset(data: Dataset) -> None:
    torch.manual_seed(0)
    body = scratch_body(32).eval()
    values, _, rate = features_of(data, body)
    assert (values.shape, values.dtype) == ((119, 256), torch.float32)
    assert rate is not None and rate > 0
    how = IMAGENET_NORMALISATION
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (how.mean, how.std))
    for row in (0, 57, 118):
        with torch.no_grad():
            expected = body((torch.from_numpy(data.images[row : row + 1]) / 255 - mean) / std)
        assert torch.allclose(values[row], expected[0], atol=2e-2)


def test_cached_features_are_reused_and_a_new_poster_costs_one_pass(
    data: Dataset, posters: list[Poster], small: PreprocessConfig, tmp_path: Path
) -> None:
    first, seen, _ = features_of(data)
    assert sum(seen) == 119
    again, seen, rate = features_of(data)
    assert (seen, rate) == ([], None)
    assert torch.equal(first, again)
    more = build_dataset(posters, tmp_path, small, NullReporter())
    second, seen, _ = features_of(more)
    assert seen == [1]
    row_of = {sha256: row for row, sha256 in enumerate(more.sha256)}
    known = [row_of[sha256] for sha256 in data.sha256]
    assert torch.equal(second[known], first)


def test_cached_features_have_one_folder_per_weights_normalisation_precision_and_width(data: Dataset) -> None:
    compute = choose_compute("cpu")
    features_of(data)
    (first,) = folders(data)
    assert sum(features_of(data, weights="another")[1]) == 119
    assert sum(features_of(data, compute=replace(compute, bf16=not compute.bf16))[1]) == 119
    for how in (HALF, replace(HALF, bgr=True)):
        assert sum(features_of(data, normalisation=how)[1]) == 119
    assert len(folders(data)) == 5

    class Wider(Counting):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).repeat(1, 2)

    assert sum(features_of(data, Wider())[1]) == 119
    assert len(folders(data)) == 6
    assert features_of(data)[1] == []
    assert first in folders(data)


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_cached_features_that_are_damaged_are_rebuilt(
    data: Dataset, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, _, _ = features_of(data)
    (folder,) = folders(data)
    (file,) = folder.glob(f"*{ending}")
    file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    second, seen, _ = features_of(data)
    assert sum(seen) == 119
    assert torch.equal(first, second)
    assert str(file.with_suffix(".npy")) in caplog.text


def test_cached_features_are_not_written_by_a_pass_that_fails(data: Dataset) -> None:
    class Failing(Counting):
        def forward(self, images: Tensor) -> Tensor:
            if len(self.seen) == 1:
                raise MemoryError
            return super().forward(images)

    with pytest.raises(MemoryError):
        features_of(data, Failing())
    _, seen, _ = features_of(data)
    assert sum(seen) == 119
