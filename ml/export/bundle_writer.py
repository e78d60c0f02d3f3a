"""A model on disk, as it is served: model.onnx, weights.safetensors, figures.json, manifest.json, card.md, and where
it is the one that is served, model-int8.onnx.

The graph holds everything from uint8 pixels to probabilities, so that decoding and resizing are all that is
left to those who serve it, and where the network allows them class activation maps, too. The manifest is written
last; the hash of its bytes names the bundle, and the same network gives the same bytes in any folder.
"""

import importlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.decoding import file_sha256
from ml.data.splits import VALIDATION
from ml.errors import TrainingError, needs_package
from ml.export.figures import figures
from ml.networks.backbones import GenreNetwork
from ml.networks.explanation import ExplainedNetwork, explain
from ml.training.outcome import Exported, NetworkOutcome
from serving.bundle.model import (
    CARD,
    FIGURES,
    FORMAT,
    INPUT,
    MANIFEST,
    MAPS,
    MODEL,
    MODEL_INT8,
    OUTPUT,
    Model,
    Served,
)

if TYPE_CHECKING:
    import onnx

WEIGHTS = "weights.safetensors"
_OPSET = 18
_PROBES = 8
TOLERANCE = 1e-4
"""How far ONNX Runtime's probabilities may lie from PyTorch's."""


def check_packages() -> None:
    """Whether all that training and writing a bundle import late is there; MissingPackageError names what is not."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
    for package in ("imagehash", "optuna", "onnx", "onnxscript", "onnxruntime.quantization", "safetensors"):
        with needs_package("Training a model"):
            importlib.import_module(package)


def write_bundle(folder: Path, outcome: NetworkOutcome, config: TrainConfig, dataset: Dataset, card: str) -> Model:
    """Write a trained network as a bundle into `folder`, and give it as it is going to be served.

    Before the files are moved in, the fp32 graph's probabilities of a few validation posters are checked against
    the network's: TrainingError where they differ, or where its class activation maps are no numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = outcome.network.cpu().eval()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as beside:
        new = Path(beside)
        exported = outcome.exported or export(network, dataset.preprocessing.size)
        plain = load_graph(new / "fp32", exported.graphs[MODEL], exported.explains, dataset)
        _check(plain, network, dataset.images[dataset.rows(VALIDATION)[:_PROBES]])
        for name, graph in exported.graphs.items():
            (new / name).write_bytes(graph)
        (new / WEIGHTS).write_bytes(_safetensors(network))
        _write_json(new / FIGURES, figures(outcome.validation_probabilities, outcome.thresholds, dataset))
        (new / CARD).write_text(card, encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "genres": [
                {**asdict(genre), "threshold": round(float(threshold), 6)}
                for genre, threshold in zip(dataset.genres, outcome.thresholds, strict=True)
            ],
            "preprocessing": asdict(dataset.preprocessing),
            "network": _record(outcome, config),
            "dataset_key": dataset.key,
            "served": asdict(exported.served),
            "explains": exported.explains,
            "files": {name: file_sha256(new / name) for name in (*exported.graphs, WEIGHTS, FIGURES)},
        }
        _write_json(new / MANIFEST, manifest)
        Model.load(new)
        for name in (MANIFEST, MODEL_INT8):  # which another bundle may have left there
            (folder / name).unlink(missing_ok=True)
        for name in (*exported.graphs, WEIGHTS, FIGURES, CARD, MANIFEST):
            (new / name).replace(folder / name)
    return Model.load(folder)


def _write_json(file: Path, document: dict[str, object]) -> None:
    file.write_text(json.dumps(document, sort_keys=True, indent=2) + "\n", encoding="utf-8")


def export(network: GenreNetwork, size: int) -> Exported:
    """A network, in evaluation mode and on the CPU, as the fp32 graph that is served where there is no better one."""
    explained = explain(network, size)
    graph = export_onnx(explained or network, size)
    return Exported({MODEL: graph}, explained is not None, Served(MODEL, "fp32", "There is no other network."))


def load_graph(folder: Path, graph: bytes, explains: bool, dataset: Dataset) -> Model:
    """A graph as it is served, from a bundle of its own in `folder`, whose thresholds say nothing."""
    folder.mkdir()
    (folder / MODEL).write_bytes(graph)
    manifest = {
        "format": FORMAT,
        "genres": [{**asdict(genre), "threshold": 0.5} for genre in dataset.genres],
        "preprocessing": asdict(dataset.preprocessing),
        "network": {},
        "dataset_key": dataset.key,
        "explains": explains,
        "files": {MODEL: file_sha256(folder / MODEL)},
    }
    _write_json(folder / MANIFEST, manifest)
    return Model.load(folder)


def _record(outcome: NetworkOutcome, config: TrainConfig) -> dict[str, object]:
    """How the network was made; nothing that differs between two runs on the same data has a place here."""
    return {
        "name": outcome.name,
        "backbone": outcome.backbone,
        "weights_sha256": outcome.weights_sha256,
        "parameters": {
            **outcome.best.parameters,
            "trained": outcome.trained,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "seed": config.seed,
        },
    }


class _Served(nn.Module):
    """What the graph computes: posters, uint8 [N, 3, S, S], to probabilities, float32 [N, G]."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.network(images))


def export_onnx(network: GenreNetwork | ExplainedNetwork, size: int) -> bytes:
    """The network as an ONNX graph with a free batch size; the same bytes for the same weights.

    An explained network has its maps for a second output.
    """
    with needs_package("Exporting a model"):
        import onnx
    # Two examples: PyTorch's exporter takes a batch of one for a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    served = network if isinstance(network, ExplainedNetwork) else _Served(network)
    program = torch.onnx.export(
        served.eval(),
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT, MAPS] if served is network else [OUTPUT],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    strip(model)
    onnx.checker.check_model(model)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def strip(model: "onnx.ModelProto") -> None:
    """Take out what the exporter notes beside the graph, among it source lines with paths of this machine."""
    graph = model.graph
    del model.metadata_props[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]


def _safetensors(network: GenreNetwork) -> bytes:
    with needs_package("Writing weights"):
        from safetensors.torch import save
    return save({name: value.contiguous() for name, value in network.state_dict().items()})


def _check(model: Model, network: GenreNetwork, probe: NDArray[np.uint8]) -> None:
    with torch.no_grad():
        expected = network(torch.from_numpy(np.array(probe))).sigmoid().numpy()
    answers = model.probabilities(probe)
    difference = float(np.abs(answers - expected).max(initial=0))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"The exported graph's probabilities differ from the network's by {difference:.2g}, more than {TOLERANCE}."
        )
    if model.manifest.explains:
        same, maps = model.explained(probe)
        if not np.array_equal(same, answers) or not np.isfinite(maps).all():
            raise TrainingError(
                "The exported graph's class activation maps are no numbers, or asking for them changes its answers."
            )
