"""A ResNet18 of 256 x 256 pixels with random weights, as a model bundle and as weights for torchvision."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.export.graph import export
from ml.export.quantisation import quantise
from ml.networks.backbones import IMAGENET_NORMALISATION, GenreNetwork, head, read_backbone
from serving.bundle.model import MANIFEST, MODEL, MODEL_INT8, Preprocessing, Served

GENRES = 20
PREPROCESSING = Preprocessing(256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "squash-bilinear", 1)


def write_resnet18(folder: Path) -> Path:
    """Write a bundle of the network, served in fp32."""
    return write_bundle(folder, random_network())


def random_network() -> GenreNetwork:
    """The network; its weights are the same for every call."""
    torch.manual_seed(0)
    top = head(512, np.full(GENRES, 0.2), hidden=0, dropout=0.0)
    return GenreNetwork(
        read_backbone("resnet18", "none", Path()).body(), top, IMAGENET_NORMALISATION, frozen=True
    ).eval()


def write_bundle(folder: Path, network: GenreNetwork, calibration: NDArray[np.uint8] | None = None) -> Path:
    """Write a bundle of a network, served in int8 if calibration posters, uint8 [N, 3, S, S], are given."""
    folder.mkdir(parents=True, exist_ok=True)
    exported = export(network, PREPROCESSING.size)
    graphs, served = dict(exported.graphs), exported.served
    if calibration is not None:
        with tempfile.TemporaryDirectory() as beside:
            graphs[MODEL_INT8] = quantise(graphs[MODEL], batches(calibration), Path(beside))
        served = Served(MODEL_INT8, "int8", "It was requested.")
    manifest = {
        "format": 1,
        "genres": [{"id": number, "name": f"Genre {number}", "threshold": 0.5} for number in range(GENRES)],
        "preprocessing": {
            "size": PREPROCESSING.size,
            "mean": PREPROCESSING.mean,
            "std": PREPROCESSING.std,
            "resize": PREPROCESSING.resize,
            "version": PREPROCESSING.version,
        },
        "network": {"name": "transfer", "backbone": "resnet18"},
        "dataset_key": "none",
        "served": asdict(served),
        "explains": exported.explains,
        "files": {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()},
    }
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def batches(posters: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Batches of sixteen posters."""
    return (posters[start : start + 16] for start in range(0, len(posters), 16))


def torchvision_weights(network: GenreNetwork) -> bytes:
    """The network as a state dict of torchvision's resnet18. The head's BatchNorm is merged into the last layer."""
    from safetensors.torch import save

    norm, last = network.head[0], network.head[-1]
    deviation = (norm.running_var + norm.eps).sqrt()
    state = {name: value.contiguous() for name, value in network.body.state_dict().items()}
    state["fc.weight"] = (last.weight / deviation).detach().contiguous()
    state["fc.bias"] = (last.bias - last.weight @ (norm.running_mean / deviation)).detach().contiguous()
    return save(state)
