"""A trained network as an ONNX graph, from uint8 pixels to probabilities, and such a graph loaded as a model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ml.data.dataset import Dataset
from ml.networks.backbones import GenreNetwork
from ml.networks.explanation import ExplainedNetwork, NotExplainable, explain
from ml.training.outcome import Exported
from serving.bundle.files import sha256_of_file
from serving.bundle.model import FORMAT, INPUT, MANIFEST, MAPS, MODEL, OUTPUT, Model, Served

if TYPE_CHECKING:
    import onnx

_OPSET = 18


def export(network: GenreNetwork, size: int) -> Exported:
    """Export a network as the fp32 graph, with class activation maps if the network allows them.

    Args:
        network: in evaluation mode and on the CPU.
        size: height and width of its input, pixels.
    """
    reason = ""
    try:
        exported: GenreNetwork | ExplainedNetwork = explain(network, size)
    except NotExplainable as error:
        exported, reason = network, str(error)
    # Both sentences are part of the manifest and thereby of the bundle's hash: the wording must not change.
    served = Served(MODEL, "fp32", "There is no other network.")
    return Exported({MODEL: export_onnx(exported, size)}, not reason, served, reason)


class _WithProbabilities(nn.Module):
    """Posters, uint8 [N, 3, S, S], to probabilities, float32 [N, G]."""

    def __init__(self, network: GenreNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.network(images))


def export_onnx(network: GenreNetwork | ExplainedNetwork, size: int) -> bytes:
    """Export a network as an ONNX graph with a free batch size; the same weights give the same bytes.

    The class activation maps of an explained network are the graph's second output. Raises
    torch.onnx.OnnxExporterError if PyTorch cannot export the network, and onnx.checker.ValidationError if the graph is
    invalid.
    """
    import onnx

    # Two examples, because PyTorch's exporter takes a batch size of 1 for a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    explained = isinstance(network, ExplainedNetwork)
    exported = network if isinstance(network, ExplainedNetwork) else _WithProbabilities(network)
    with torch.no_grad():  # the same graph, without tracing gradients
        program = torch.onnx.export(
            exported.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT, MAPS] if explained else [OUTPUT],
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
    """Remove the exporter's notes from a graph. They hold source lines and local paths."""
    graph = model.graph
    del model.metadata_props[:]
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]


def load_graph(folder: Path, graph: bytes, explains: bool, dataset: Dataset) -> Model:
    """Load a graph the way it is served, from a temporary bundle in `folder` whose thresholds are meaningless."""
    folder.mkdir()
    (folder / MODEL).write_bytes(graph)
    manifest = {
        "format": FORMAT,
        "genres": [{**asdict(genre), "threshold": 0.5} for genre in dataset.genres],
        "preprocessing": asdict(dataset.preprocessing),
        "network": {},
        "dataset_key": dataset.key,
        "explains": explains,
        "files": {MODEL: sha256_of_file(folder / MODEL)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return Model.load(folder)
