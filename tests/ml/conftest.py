"""Posters that show their genres clearly and are so small that a test trains on them in seconds."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.data.genres import Genre
from ml.data.splits import draw_part
from ml.reporting import NullReporter
from serving.bundle.model import Model
from tests.no_checkpoints import NoCheckpoints

# torch takes seconds to import, so only the fixtures that need it import it.
if TYPE_CHECKING:
    from ml.networks.backbones import Backbone
    from ml.training.outcome import NetworkOutcome, TrainingOutcome

GENRES = (Genre(1, "Action"), Genre(4, "Comedy"), Genre(8, "Drama"))
_COLOURS = ((220, 30, 30), (30, 200, 30), (30, 30, 220))


def draw_poster(genres: Sequence[Genre], seed: int) -> bytes:
    """A JPEG of 48 x 64 pixels: noise, and for each genre a band with its colour and position."""
    pixels = np.random.default_rng(seed).integers(60, 200, (64, 48, 3)).astype(np.uint8)
    for place, (genre, colour) in enumerate(zip(GENRES, _COLOURS, strict=True)):
        if genre in genres:
            pixels[place * 20 : place * 20 + 16] = colour
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def make_posters(folder: Path, count: int) -> list[Poster]:
    """Posters with one or two genres, each in a separate franchise."""
    folder.mkdir(parents=True, exist_ok=True)
    posters = []
    for number in range(count):
        genres = tuple(dict.fromkeys([GENRES[number % 3], GENRES[number // 3 % 3]]))
        data = draw_poster(genres, number)
        file = folder / f"{number}.jpg"
        file.write_bytes(data)
        franchise = f"series {number}"
        sha256 = hashlib.sha256(data).hexdigest()
        posters.append(Poster(str(number), f"Series {number}", genres, franchise, draw_part(franchise), file, sha256))
    return posters


@pytest.fixture(scope="session")
def small() -> PreprocessConfig:
    return PreprocessConfig(image_size=32, min_posters=10, min_posters_per_part=2)


@pytest.fixture(scope="session")
def posters(tmp_path_factory: pytest.TempPathFactory) -> list[Poster]:
    return make_posters(tmp_path_factory.mktemp("posters"), 120)


@pytest.fixture(scope="session")
def dataset(posters: list[Poster], small: PreprocessConfig, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_dataset(posters, tmp_path_factory.mktemp("datasets"), small, NullReporter())


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of SqueezeNet's features, like the weights of a squeezenet network."""
    import torch
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(7)
        state = torchvision.models.squeezenet1_1().state_dict()
    file = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    torch.save({key: value for key, value in state.items() if key.startswith("features.")}, file)
    return file


@pytest.fixture(scope="session")
def quick(weights_file: Path) -> TrainConfig:
    return TrainConfig(
        backbone="squeezenet1_1", weights=str(weights_file), trials=2, epochs=4, batch_size=16, device="cpu"
    )


@pytest.fixture(scope="session")
def squeezenet(quick: TrainConfig) -> "Backbone":
    """SqueezeNet with the weights of `weights_file`."""
    from ml.networks.backbones import read_backbone

    return read_backbone(quick.backbone, quick.weights, Path())


@pytest.fixture(scope="session")
def random_squeezenet(squeezenet: "Backbone") -> "Backbone":
    """SqueezeNet without pretrained weights."""
    return replace(squeezenet, weights=None)


@pytest.fixture(scope="session")
def outcome(dataset: Dataset, quick: TrainConfig, squeezenet: "Backbone") -> "TrainingOutcome":
    """The networks from scratch and with a frozen backbone. The first one counts as chosen, as its graph has maps."""
    from ml.training.learning import train_networks

    trained = train_networks(dataset, quick, squeezenet, NullReporter(), NoCheckpoints())
    return replace(trained, chosen=trained.networks[0])


@pytest.fixture(scope="session")
def fine_tuned(dataset: Dataset, quick: TrainConfig, squeezenet: "Backbone") -> "TrainingOutcome":
    """The frozen network, and the one that is fine-tuned after its head."""
    from ml.training.learning import train_networks

    config = replace(quick, candidates=("frozen", "lp-ft"))
    return train_networks(dataset, config, squeezenet, NullReporter(), NoCheckpoints())


@pytest.fixture(scope="session")
def exported(outcome: "TrainingOutcome", small: PreprocessConfig) -> "NetworkOutcome":
    """The chosen network with its graph, so that tests that write it do not export it again, which takes seconds."""
    from ml.export.graph import export

    return replace(outcome.chosen, exported=export(outcome.chosen.network, small.image_size))


@pytest.fixture(scope="session")
def bundle(
    outcome: "TrainingOutcome",
    exported: "NetworkOutcome",
    dataset: Dataset,
    quick: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of the chosen network's bundle. Tests must not change it."""
    from ml.export.bundle_writer import write_bundle
    from ml.export.model_card import model_card

    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, exported, quick, dataset, model_card(outcome, dataset, "2026-11-24"))
    return folder


@pytest.fixture(scope="session")
def model(bundle: Path) -> Model:
    return Model.load(bundle)


@pytest.fixture
def draw() -> Callable[[Sequence[Genre], int], bytes]:
    return draw_poster


@pytest.fixture
def make() -> Callable[[Path, int], list[Poster]]:
    return make_posters
