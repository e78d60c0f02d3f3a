import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ml.compute import Compute, choose_compute
from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.networks.backbones import scratch_body
from ml.reporting import NullReporter
from ml.training.features import Features, cached_features


class Counting(nn.Module):
    """A body that counts the posters it sees, without those of probes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        if bool(images.any()):
            self.seen.append(len(images))
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], 1)


@pytest.fixture
def data(posters: list[Poster], small: PreprocessConfig, tmp_path: Path) -> Dataset:
    """A dataset of all posters but one, in a workspace without features."""
    return build_dataset(posters[:-1], tmp_path, small, NullReporter())


def features_of(
    data: Dataset, body: nn.Module | None = None, weights: str = "sha256", compute: Compute | None = None
) -> tuple[Features, list[int]]:
    body = body or Counting()
    made = cached_features(body, 3, "counting", weights, data, compute or choose_compute("cpu"), NullReporter())
    return made, getattr(body, "seen", [])


def everything(features: Features) -> Tensor:
    return features.values.columns(features.values.shape[1])


def folders(data: Dataset) -> set[Path]:
    return set((data.folder.parents[1] / "features").iterdir())


def test_features_are_those_of_each_poster_in_the_order_of_the_dataset(data: Dataset) -> None:
    torch.manual_seed(0)
    body = scratch_body(32).eval()
    made = cached_features(body, 256, "scratch", "sha256", data, choose_compute("cpu"), NullReporter())
    values = everything(made)
    assert (values.shape, values.dtype, made.own) == ((119, 256), torch.float32, 256)
    assert made.images_per_second is not None and made.images_per_second > 0
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (data.preprocessing.mean, data.preprocessing.std))
    for row in (0, 57, 118):
        with torch.no_grad():
            alone = body((torch.from_numpy(data.images[row : row + 1]) / 255 - mean) / std)
        assert torch.allclose(values[row], alone[0], atol=2e-2)


def test_the_body_sees_each_poster_once_and_none_when_it_is_asked_again(data: Dataset) -> None:
    first, seen = features_of(data)
    assert sum(seen) == 119
    second, seen = features_of(data)
    assert seen == []
    assert second.images_per_second is None
    assert torch.equal(everything(first), everything(second))


def test_a_new_poster_costs_one_pass(
    data: Dataset, posters: list[Poster], small: PreprocessConfig, tmp_path: Path
) -> None:
    first, _ = features_of(data)
    more = build_dataset(posters, tmp_path, small, NullReporter())
    second, seen = features_of(more)
    assert seen == [1]
    row_of = {sha256: row for row, sha256 in enumerate(more.sha256)}
    known = [row_of[sha256] for sha256 in data.sha256]
    assert torch.equal(everything(second)[known], everything(first))
    assert features_of(data)[1] == [], "the shards of both are read together"


def test_other_weights_precision_or_width_have_a_folder_of_their_own(data: Dataset) -> None:
    compute = choose_compute("cpu")
    features_of(data)
    (first,) = folders(data)
    assert sum(features_of(data, weights="another")[1]) == 119
    assert sum(features_of(data, compute=replace(compute, bf16=not compute.bf16))[1]) == 119
    assert len(folders(data)) == 3

    class Wider(Counting):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).repeat(1, 2)

    assert sum(features_of(data, Wider())[1]) == 119
    assert len(folders(data)) == 4
    assert features_of(data)[1] == []
    assert first in folders(data)


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_a_damaged_cache_is_said_and_made_anew(data: Dataset, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    first = everything(features_of(data)[0])
    (folder,) = folders(data)
    (file,) = folder.glob(f"*{ending}")
    file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    second, seen = features_of(data)
    assert sum(seen) == 119
    assert torch.equal(first, everything(second))
    assert "is dropped, and its rows are made anew" in caplog.text


def test_a_cache_that_is_gone_is_made_anew(data: Dataset) -> None:
    first, _ = features_of(data)
    shutil.rmtree(data.folder.parents[1] / "features")
    second, seen = features_of(data)
    assert sum(seen) == 119
    assert torch.equal(everything(first), everything(second))


def test_a_pass_that_ends_with_an_error_leaves_nothing_half_true(data: Dataset) -> None:
    class Failing(Counting):
        def forward(self, images: Tensor) -> Tensor:
            if len(self.seen) == 1:
                raise MemoryError
            return super().forward(images)

    with pytest.raises(MemoryError):
        features_of(data, Failing())
    _, seen = features_of(data)
    assert sum(seen) == 119
