import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.errors import TrainingError
from ml.export.bundle_writer import TOLERANCE, write_bundle
from ml.export.figures import figures
from ml.export.model_card import model_card
from ml.networks.backbones import HALF, Backbone, GenreNetwork
from ml.networks.explanation import explain
from ml.reporting import NullReporter
from ml.training.learning import train_networks
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.files import sha256_of_file
from serving.bundle.model import Model
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def frozen_bundle(
    outcome: TrainingOutcome, dataset: Dataset, quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the bundle of the frozen backbone with a kernel head."""
    folder = tmp_path_factory.mktemp("frozen")
    write_bundle(folder, outcome.networks[1], quick, dataset, "")
    return folder


@pytest.fixture(scope="module")
def tiny(outcome: TrainingOutcome) -> NetworkOutcome:
    """A network with random weights that ends in pooling and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network = GenreNetwork(body, nn.Linear(8, 3), HALF, frozen=True)
    return replace(outcome.chosen, network=network.eval())


def test_bundle_gives_the_probabilities_and_maps_of_the_network_for_any_batch_size(
    bundle: Path, frozen_bundle: Path, outcome: TrainingOutcome, dataset: Dataset
) -> None:
    for folder, network in ((bundle, outcome.chosen.network), (frozen_bundle, outcome.networks[1].network)):
        model = Model.load(folder)
        for count in (1, 3, 50):
            images = np.array(dataset.images[:count])
            with torch.no_grad():
                expected = network(torch.from_numpy(images)).sigmoid().numpy()
            probabilities = model.probabilities(images)
            assert np.abs(probabilities - expected).max() < TOLERANCE
            if not model.manifest.explains:
                continue
            with torch.no_grad():
                expected_maps = explain(network, 32)(torch.from_numpy(images))[1].numpy()
            again, maps = model.explained(images)
            assert np.array_equal(again, probabilities)
            assert maps.shape == (count, 3, 2, 2)
            assert maps.min() == 0 < maps.max()
            assert np.abs(maps - expected_maps).max() < TOLERANCE * expected_maps.max()
    assert (Model.load(bundle).manifest.explains, model.manifest.explains) == (True, False)
    assert model.manifest.not_explained == "its features are not means over the places of a feature map"
    with pytest.raises(ValueError, match="gives no class activation maps"):
        model.explained(images)


def test_bundle_has_a_manifest_figures_weights_and_a_card(
    bundle: Path, model: Model, outcome: TrainingOutcome, dataset: Dataset
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    assert {"model.onnx", "weights.safetensors", "figures.json"} <= manifest["files"].keys()
    assert {path.name for path in bundle.iterdir()} == {*manifest["files"], "manifest.json", "card.md"}
    assert [genre["name"] for genre in manifest["genres"]] == ["Action", "Comedy", "Drama"]
    assert [genre["id"] for genre in manifest["genres"]] == [1, 4, 8]
    how = outcome.chosen.network.normalisation
    assert (manifest["preprocessing"]["mean"], manifest["preprocessing"]["std"]) == ([*how.mean], [*how.std])
    assert manifest["preprocessing"]["channels"] == "RGB"
    assert manifest["dataset_key"] == dataset.key
    assert manifest["files"] == {name: sha256_of_file(bundle / name) for name in manifest["files"]}
    assert model.sha256 == sha256_of_file(bundle / "manifest.json")
    state = load_file(bundle / "weights.safetensors")
    assert state.keys() == outcome.chosen.network.state_dict().keys()
    written, chosen = json.loads((bundle / "figures.json").read_bytes()), outcome.chosen
    assert written == figures(chosen.validation_probabilities, chosen.thresholds, dataset)
    assert "| Comedy |" in (bundle / "card.md").read_text()


def test_bundle_is_not_written_if_its_maps_are_not_finite(
    tiny: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    network = copy.deepcopy(tiny.network)
    network.head.weight.data.fill_(3e38)  # the probabilities stay finite: they are 1
    with pytest.raises(TrainingError, match="class activation maps are not finite"):
        write_bundle(tmp_path, replace(tiny, network=network), quick, dataset, "")
    assert not list(tmp_path.iterdir())


def test_bundle_is_reproducible_and_has_no_local_path(
    posters: list[Poster], small: PreprocessConfig, quick: TrainConfig, squeezenet: Backbone, tmp_path: Path
) -> None:
    one, another = tmp_path / "one", tmp_path / "another"
    for folder in (one, another):
        dataset = build_dataset(posters, folder / "datasets", small, NullReporter())
        trained = train_networks(dataset, quick, squeezenet, NullReporter(), NoCheckpoints())
        outcome = replace(trained, chosen=trained.networks[0])
        card = model_card(outcome, dataset, "2026-11-24")
        write_bundle(folder / "bundle", outcome.chosen, quick, dataset, card)
        write_bundle(folder / "frozen", outcome.networks[1], quick, dataset, "")
    for file in (*one.glob("bundle/*"), *one.glob("frozen/*")):
        data = file.read_bytes()
        assert data == (another / file.relative_to(one)).read_bytes(), file.name
        for path in (tmp_path, Path(torch.__file__).parent, Path(__file__).parents[3], Path.home()):
            assert str(path).encode() not in data, file.name


def test_bundle_is_not_written_if_its_probabilities_differ(
    exported: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.export.bundle_writer.TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match="probabilities differ from the network's"):
        write_bundle(tmp_path, exported, quick, dataset, "")
    assert not list(tmp_path.iterdir())


def test_bundle_replaces_another_one_completely(
    exported: NetworkOutcome, tiny: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    first = write_bundle(tmp_path, exported, quick, dataset, "")
    (tmp_path / ".new-killed").mkdir()
    (tmp_path / ".new-killed" / "model.onnx").touch()
    second = write_bundle(tmp_path, tiny, quick, dataset, "")
    assert first.sha256 != second.sha256
    assert Model.load(tmp_path).sha256 == second.sha256
    assert not list(tmp_path.glob(".new-*"))
    assert replace(second.manifest) == Model.load(tmp_path).manifest
