import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import TEST, VALIDATION
from ml.evaluation.predictions import collect_predictions
from ml.export import quantisation
from ml.export.bundle_writer import write_bundle
from ml.export.graph import load_graph
from ml.export.model_card import model_card
from ml.export.quantisation import apply_change, choose_precision, quantise
from ml.networks.backbones import HALF, GenreNetwork
from ml.reporting import NullReporter
from ml.scores.thresholds import fit_thresholds
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import MODEL, MODEL_INT8, Served

pytestmark = pytest.mark.train

SIZE = 32


@pytest.fixture(scope="module")
def scratch(outcome: TrainingOutcome) -> TrainingOutcome:
    """The outcome with the network from scratch as the chosen one. It was not trained on the validation part."""
    return replace(outcome, chosen=outcome.networks[0])


@pytest.fixture(scope="module")
def frozen(outcome: TrainingOutcome) -> TrainingOutcome:
    """The outcome with the frozen backbone with a kernel head as the chosen network."""
    return replace(outcome, chosen=outcome.networks[1])


@contextmanager
def always_int8() -> Iterator[pytest.MonkeyPatch]:
    """Serve int8 in any case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantisation, "MAX_LOSS", 1.0)
        patch.setattr(quantisation, "MIN_SPEED_UP", 0.0)
        yield patch


@pytest.fixture(scope="module")
def served(
    scratch: TrainingOutcome, exported: NetworkOutcome, tmp_path_factory: pytest.TempPathFactory
) -> TrainingOutcome:
    """The network from scratch, served in int8. It has class activation maps."""
    folder = tmp_path_factory.mktemp("served")
    with always_int8() as patch:
        patch.setattr(quantisation, "export", lambda *_: exported.exported)  # another export takes seconds
        outcome = choose_precision(scratch, folder, NullReporter())
    assert not list(folder.iterdir())
    return outcome


@pytest.fixture(scope="module")
def served_frozen(frozen: TrainingOutcome, tmp_path_factory: pytest.TempPathFactory) -> TrainingOutcome:
    """The frozen backbone with a kernel head, served in int8."""
    with always_int8():
        return choose_precision(frozen, tmp_path_factory.mktemp("served"), NullReporter())


def graphs(outcome: TrainingOutcome) -> tuple[bytes, bytes]:
    """The fp32 and the int8 graph of the chosen network."""
    assert outcome.chosen.exported is not None
    return outcome.chosen.exported.graphs[MODEL], outcome.chosen.exported.graphs[MODEL_INT8]


def batches(dataset: Dataset) -> Iterator[np.ndarray]:
    return (np.array(dataset.images[at : at + 16]) for at in (0, 16))


def test_quantise_keeps_probabilities_and_maps_nearly_unchanged(
    served: TrainingOutcome, dataset: Dataset, tmp_path: Path
) -> None:
    large, small = graphs(served)
    assert len(small) < len(large) / 2
    fp32, int8 = (load_graph(tmp_path / name, each, True, dataset) for name, each in (("fp32", large), ("int8", small)))
    images = np.array(dataset.images[32:49])
    (expected, maps), (probabilities, int8_maps) = fp32.explained(images), int8.explained(images)
    assert 0 < np.abs(probabilities - expected).max() < 0.02
    assert np.array_equal(probabilities, int8.probabilities(images))
    assert int8_maps.shape == maps.shape
    assert np.abs(int8_maps - maps).max() < 0.1 * maps.max()


def test_quantise_changes_convolutions_and_no_layer_after_the_last_one(
    served_frozen: TrainingOutcome,
) -> None:
    graph = onnx.load_from_string(graphs(served_frozen)[1]).graph
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            assert all(made_by[name].op_type == "DequantizeLinear" for name in node.input)
    after: set[str] = set()
    for node in graph.node:
        if node.op_type == "ReduceMean" or not after.isdisjoint(node.input):
            assert node.op_type != "QuantizeLinear"
            after.update(node.output)
    assert "probabilities" in after


def test_quantise_is_reproducible_and_writes_only_to_its_folder(
    served_frozen: TrainingOutcome, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    fp32, _ = graphs(served_frozen)
    found = []
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        found.append(quantise(fp32, batches(dataset), tmp_path / name))
        for path in (tmp_path, Path(torch.__file__).parent, Path(__file__).parents[3], Path.home()):
            assert str(path).encode() not in found[-1]
    assert found[0] == found[1]
    assert not list(here.iterdir())


def test_apply_change_adds_the_change_of_logits_to_out_of_fold_probabilities() -> None:
    out_of_fold = np.array([[0.2, 0.7], [0.9, 0.01]], np.float32)
    int8 = np.array([[0.25, 0.6], [0.9, 0.02]], np.float32)
    assert apply_change(out_of_fold, out_of_fold, int8) == pytest.approx(
        int8, abs=1e-6
    )  # a network that was not trained on them

    trained_on = np.array([[0.02, 0.99], [0.999, 0.001]], np.float32)
    odds = trained_on / (1 - trained_on)
    doubled = 2 * odds / (1 + 2 * odds)
    expected = 2 * out_of_fold / (1 - out_of_fold) / (1 + 2 * out_of_fold / (1 - out_of_fold))
    assert apply_change(out_of_fold, trained_on, doubled) == pytest.approx(expected, abs=1e-4)
    assert np.isfinite(apply_change(out_of_fold, np.ones_like(out_of_fold), np.zeros_like(out_of_fold))).all()


def test_int8_network_is_served_with_its_thresholds_and_scores(
    scratch: TrainingOutcome,
    exported: NetworkOutcome,
    served: TrainingOutcome,
    dataset: Dataset,
    quick: TrainConfig,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bundle"
    assert served.networks[0] is served.chosen
    assert served.networks[1] is scratch.networks[1]
    card = model_card(served, dataset)
    model = write_bundle(folder, served.chosen, quick, dataset, card)
    assert model.manifest.served.file == MODEL_INT8
    assert model.manifest.served.precision == "int8"
    assert model.manifest.served.reason in card
    assert {MODEL, MODEL_INT8} <= model.manifest.files.keys()

    probabilities = model.probabilities(dataset.images[dataset.rows(VALIDATION)])
    assert served.chosen.validation_probabilities == pytest.approx(probabilities, abs=1e-5)
    assert not np.array_equal(probabilities, scratch.chosen.validation_probabilities)
    expected = fit_thresholds(served.chosen.validation_probabilities, dataset.labels[dataset.rows(VALIDATION)])
    assert [genre.threshold for genre in model.manifest.genres] == pytest.approx(expected.tolist(), abs=1e-6)

    predictions = collect_predictions(served, (), model, dataset)
    tested = model.probabilities(dataset.images[dataset.rows(TEST)])
    assert np.array_equal(predictions.networks[0].probabilities, tested)

    write_bundle(folder, exported, quick, dataset, "")
    assert not (folder / MODEL_INT8).exists()


def test_int8_thresholds_of_a_network_trained_on_validation_use_out_of_fold_probabilities(
    outcome: TrainingOutcome, served_frozen: TrainingOutcome, dataset: Dataset
) -> None:
    frozen, served = outcome.networks[1], served_frozen.chosen
    places = np.searchsorted(frozen.fitted_rows, dataset.rows(VALIDATION))
    assert len(frozen.fitted_rows) > len(places)
    fp32, int8 = frozen.predict(dataset.rows(VALIDATION)), served.predict(dataset.rows(VALIDATION))
    for before, after in (
        (frozen.validation_probabilities, served.validation_probabilities),
        (frozen.fitted_probabilities[places], served.fitted_probabilities[places]),
    ):
        assert after == pytest.approx(apply_change(before, fp32, int8), abs=1e-5)
    # Its probabilities for posters that it was trained on are overconfident.
    labels, learned = dataset.labels[frozen.fitted_rows], served.predict(frozen.fitted_rows)
    assert np.abs(learned - labels).mean() < np.abs(served.fitted_probabilities - labels).mean()
    assert not np.array_equal(served.fitted_probabilities, frozen.fitted_probabilities)
    expected = fit_thresholds(served.fitted_probabilities, labels)
    assert np.array_equal(served.thresholds, expected)


@pytest.mark.parametrize(
    ("constant", "value", "why"),
    [("MAX_LOSS", -1.0, "more than the -1.0 that may be lost"), ("MIN_SPEED_UP", 1e9, "not clearly faster")],
)
def test_fp32_is_served_if_int8_loses_too_much_or_is_not_clearly_faster(
    scratch: TrainingOutcome,
    exported: NetworkOutcome,
    dataset: Dataset,
    quick: TrainConfig,
    tmp_path: Path,
    constant: str,
    value: float,
    why: str,
) -> None:
    with always_int8() as patch:
        patch.setattr(quantisation, constant, value)
        patch.setattr(quantisation, "export", lambda *_: exported.exported)
        served = choose_precision(scratch, tmp_path, NullReporter()).chosen
    assert served.exported is not None
    assert why in served.exported.served.reason
    assert replace(served, exported=None) == scratch.chosen
    write_bundle(tmp_path, served, quick, dataset, "")
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest["served"] == {"file": MODEL, "precision": "fp32", "reason": served.exported.served.reason}
    assert not (tmp_path / MODEL_INT8).exists()
    assert MODEL_INT8 not in manifest["files"]


def test_fp32_is_served_with_a_warning_if_the_network_cannot_be_quantised(
    scratch: TrainingOutcome, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = GenreNetwork(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3), HALF, frozen=True).eval()
    changed = replace(scratch, chosen=replace(scratch.chosen, network=without))
    served = choose_precision(changed, tmp_path, NullReporter())
    assert served.chosen.exported is not None
    assert served.chosen.exported.served == Served(MODEL, "fp32", "This network could not be quantised.")
    assert "it has no convolutions" in caplog.text
