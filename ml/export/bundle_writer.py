"""Writes a trained network as a bundle: model.onnx, weights.safetensors, figures.json, manifest.json, card.md, and
model-int8.onnx if the int8 network is served.

The graph does everything from uint8 pixels to probabilities, so that the server only decodes and resizes. The
manifest is written last. The sha256 of its bytes names the bundle. The same network gives the same bytes in any folder.
"""

import importlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import VALIDATION
from ml.errors import TrainingError, needs_package
from ml.export.figures import figures
from ml.export.graph import export, load_graph
from ml.networks.backbones import GenreNetwork
from ml.networks.weights import safetensors_of
from ml.training.outcome import NetworkOutcome, weights_record
from serving.bundle.files import sha256_of_file, sync
from serving.bundle.model import CARD, FIGURES, FORMAT, MANIFEST, MODEL, MODEL_INT8, Model

WEIGHTS = "weights.safetensors"
NAMES = frozenset({MODEL, MODEL_INT8, WEIGHTS, FIGURES, CARD, MANIFEST})
"""The names of a bundle's files."""
UNFINISHED = ".new-"
"""How the name of the folder begins in which a bundle is written, inside its own folder."""
_CHECKED_POSTERS = 8
_OTHER_NETWORK = "Train another network."
TOLERANCE = 1e-4
"""The largest allowed difference between ONNX Runtime's probabilities and PyTorch's."""


def check_packages() -> None:
    """Check that the packages that training, exporting and reporting import only when they need them are installed.

    Raises:
        MissingPackageError: names the first package that is missing.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
    for package in (
        *("imagehash", "optuna", "onnx", "onnxscript", "onnxruntime.quantization", "safetensors"),
        *("jinja2", "tensorboard"),
    ):
        with needs_package("Training a model"):
            importlib.import_module(package)


def write_bundle(folder: Path, outcome: NetworkOutcome, config: TrainConfig, dataset: Dataset, card: str) -> Model:
    """Write a trained network as a bundle into `folder`, and return the bundle loaded as for serving.

    Before the files are moved into place, the fp32 graph is compared with the network on a few validation posters.
    What a killed process has left in `folder` is removed. `card` is the text of the model card.

    Raises:
        TrainingError: the probabilities differ, or the class activation maps are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(killed, ignore_errors=True)
    network = outcome.network.cpu().eval()
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
        new = Path(temporary)
        exported = outcome.exported or export(network, dataset.preprocessing.size)
        fp32 = load_graph(new / "fp32", exported.graphs[MODEL], exported.explains, dataset)
        _compare(fp32, network, dataset.images[dataset.rows(VALIDATION)[:_CHECKED_POSTERS]])
        for name, graph in exported.graphs.items():
            (new / name).write_bytes(graph)
        (new / WEIGHTS).write_bytes(safetensors_of(network.state_dict()))
        _write_json(new / FIGURES, figures(outcome.validation_probabilities, outcome.thresholds, dataset))
        (new / CARD).write_text(card, encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "genres": [
                {**asdict(genre), "threshold": round(float(threshold), 6)}
                for genre, threshold in zip(dataset.genres, outcome.thresholds, strict=True)
            ],
            "preprocessing": {
                **asdict(dataset.preprocessing),
                "mean": network.normalisation.mean,
                "std": network.normalisation.std,
                "channels": "BGR" if network.normalisation.bgr else "RGB",
            },
            "network": _network_record(outcome, config),
            "dataset_key": dataset.key,
            "served": asdict(exported.served),
            "explains": exported.explains,
            "not_explained": exported.not_explained,
            "files": {name: sha256_of_file(new / name) for name in (*exported.graphs, WEIGHTS, FIGURES)},
        }
        _write_json(new / MANIFEST, manifest)
        names = (*exported.graphs, WEIGHTS, FIGURES, CARD, MANIFEST)
        for name in names:
            sync(new / name)
        Model.load(new)  # raises before a file is moved if the bundle is invalid
        # Files of a previous bundle. Without a manifest, an interrupted move leaves no bundle, not a mixed one.
        for name in (MANIFEST, MODEL_INT8):
            (folder / name).unlink(missing_ok=True)
        for name in names:
            (new / name).replace(folder / name)
        sync(folder)
    return Model.load(folder)


def _write_json(file: Path, document: dict[str, object]) -> None:
    file.write_text(json.dumps(document, sort_keys=True, indent=2) + "\n", encoding="utf-8")


def _network_record(outcome: NetworkOutcome, config: TrainConfig) -> dict[str, object]:
    """How the network was trained, without anything that differs between two runs on the same data."""
    return {
        "name": outcome.name,
        "backbone": outcome.backbone,
        **weights_record(outcome.weights),
        "parameters": {
            **outcome.best.parameters,
            "trained": outcome.trained,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "seed": config.seed,
        },
    }


def _compare(model: Model, network: GenreNetwork, posters: NDArray[np.uint8]) -> None:
    """Raise TrainingError if the graph's probabilities differ from the network's, or if its maps are not finite."""
    with torch.no_grad():
        expected = network(torch.from_numpy(np.array(posters))).sigmoid().numpy()
    probabilities = model.probabilities(posters)
    difference = float(np.abs(probabilities - expected).max(initial=0))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"The exported graph's probabilities differ from the network's by {difference:.2g}, more than "
            f"{TOLERANCE}. {_OTHER_NETWORK}"
        )
    if model.manifest.explains:
        with_maps, maps = model.explained(posters)
        if not np.array_equal(with_maps, probabilities):
            raise TrainingError(f"The exported graph's probabilities change with activation maps. {_OTHER_NETWORK}")
        if not np.isfinite(maps).all():
            raise TrainingError(f"The exported graph's class activation maps are not finite. {_OTHER_NETWORK}")
