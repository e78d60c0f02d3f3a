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
from ml.data.decoding import Poster, file_sha256
from ml.errors import TrainingError
from ml.export.bundle_writer import TOLERANCE, write_bundle
from ml.export.figures import figures
from ml.export.model_card import model_card
from ml.networks.backbones import HALF, Backbone, GenreNetwork, scratch_body
from ml.reporting import NullReporter
from ml.training.learning import train_networks
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import Model

pytestmark = pytest.mark.train


@pytest.mark.parametrize("name", ["scratch", "frozen", "lp-ft", "recipe"])
def test_bundle_gives_the_probabilities_of_the_network_for_any_batch_size(
    name: str,
    outcome: TrainingOutcome,
    fine_tuned: TrainingOutcome,
    dataset: Dataset,
    quick: TrainConfig,
    tmp_path: Path,
) -> None:
    (network,) = (each for each in (*outcome.networks, fine_tuned.networks[1], *outcome.recipes) if each.name == name)
    model = write_bundle(tmp_path, network, quick, dataset, "")
    for count in (1, 3, 50):
        images = np.array(dataset.images[:count])
        with torch.no_grad():
            expected = network.network(torch.from_numpy(images)).sigmoid().numpy()
        assert np.abs(model.probabilities(images) - expected).max() < TOLERANCE


def test_bundle_has_a_manifest_figures_weights_and_a_card(
    outcome: TrainingOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    model = write_bundle(tmp_path, outcome.chosen, quick, dataset, model_card(outcome, dataset, "2026-11-24"))
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert {"model.onnx", "weights.safetensors", "figures.json"} <= manifest["files"].keys()
    assert {path.name for path in tmp_path.iterdir()} == {*manifest["files"], "manifest.json", "card.md"}
    assert [genre["name"] for genre in manifest["genres"]] == ["Action", "Comedy", "Drama"]
    assert [genre["id"] for genre in manifest["genres"]] == [1, 4, 8]
    how = outcome.chosen.network.normalisation
    assert (manifest["preprocessing"]["mean"], manifest["preprocessing"]["std"]) == ([*how.mean], [*how.std])
    assert manifest["preprocessing"]["channels"] == "RGB"
    assert manifest["dataset_key"] == dataset.key
    assert manifest["files"] == {name: file_sha256(tmp_path / name) for name in manifest["files"]}
    assert model.sha256 == file_sha256(tmp_path / "manifest.json")
    state = load_file(tmp_path / "weights.safetensors")
    assert state.keys() == outcome.chosen.network.state_dict().keys()
    written, chosen = json.loads((tmp_path / "figures.json").read_bytes()), outcome.chosen
    assert written == figures(chosen.validation_probabilities, chosen.thresholds, dataset)
    assert "| Comedy |" in (tmp_path / "card.md").read_text()


@pytest.fixture(scope="module")
def explaining(outcome: TrainingOutcome, dataset: Dataset) -> NetworkOutcome:
    """A network with random weights that ends in pooling and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GenreNetwork(scratch_body(32), nn.Linear(256, 3), HALF, frozen=True)
    return replace(outcome.chosen, network=network.eval())


def test_bundle_has_class_activation_maps_if_the_network_allows_them(
    explaining: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    model = write_bundle(tmp_path / "explaining", explaining, quick, dataset, "")
    assert json.loads((tmp_path / "explaining" / "manifest.json").read_bytes())["explains"] is True
    images = np.array(dataset.images[:5])
    probabilities, maps = model.explained(images)
    assert np.array_equal(probabilities, model.probabilities(images))
    assert maps.shape == (5, 3, 2, 2)
    assert maps.min() == 0 < maps.max()

    flat = GenreNetwork(nn.Flatten(), nn.Linear(3 * 32 * 32, 3), HALF, frozen=True).eval()
    other = write_bundle(tmp_path / "other", replace(explaining, network=flat), quick, dataset, "")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_bytes())
    assert manifest["explains"] is False
    assert manifest["not_explained"] == "its features are not means over the places of a feature map"
    with pytest.raises(ValueError, match="gives no class activation maps"):
        other.explained(images)


def test_bundle_is_not_written_if_its_maps_are_not_finite(
    explaining: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    network = copy.deepcopy(explaining.network)
    network.head.weight.data.fill_(3e38)  # the probabilities stay finite: they are 1
    with pytest.raises(TrainingError, match="class activation maps are not finite"):
        write_bundle(tmp_path, replace(explaining, network=network), quick, dataset, "")
    assert not list(tmp_path.iterdir())


def test_bundle_is_reproducible_and_has_no_local_path(
    posters: list[Poster], small: PreprocessConfig, quick: TrainConfig, squeezenet: Backbone, tmp_path: Path
) -> None:
    hashes = []
    for name in ("one", "another"):
        folder = tmp_path / name
        dataset = build_dataset(posters, folder / "datasets", small, NullReporter())
        outcome = train_networks(dataset, quick, squeezenet, NullReporter())
        hashes.append(
            write_bundle(
                folder / "bundle", outcome.chosen, quick, dataset, model_card(outcome, dataset, "2026-11-24")
            ).sha256
        )
        for file in (folder / "bundle").iterdir():
            data = file.read_bytes()
            for path in (tmp_path, Path(torch.__file__).parent, Path(__file__).parents[3], Path.home()):
                assert str(path).encode() not in data, file.name
    assert hashes[0] == hashes[1]


def test_bundle_is_not_written_if_its_probabilities_differ(
    outcome: TrainingOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.export.bundle_writer.TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match="probabilities differ from the network's"):
        write_bundle(tmp_path, outcome.chosen, quick, dataset, "")
    assert not list(tmp_path.iterdir())


def test_bundle_replaces_another_one_completely(
    outcome: TrainingOutcome, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    first = write_bundle(tmp_path, outcome.networks[0], quick, dataset, "")
    second = write_bundle(tmp_path, outcome.networks[1], quick, dataset, "")
    assert first.sha256 != second.sha256
    assert Model.load(tmp_path).sha256 == second.sha256
    assert replace(second.manifest) == Model.load(tmp_path).manifest
