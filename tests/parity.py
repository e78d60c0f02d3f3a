"""Compare a network with random weights in PyTorch with the function that serves it as a bundle."""

import json
from pathlib import Path

import numpy as np
import requests
import torch

from ml.export.graph import export_onnx
from ml.networks.backbones import IMAGENET_NORMALISATION, GenreNetwork, head, read_backbone
from serving.bundle.files import sha256_of_file
from serving.bundle.image import decode
from serving.bundle.model import Preprocessing
from tests.pictures import pictures_of_all_kinds

TOLERANCE = 1e-4
SIZE = 128
_GENRES = 12


def random_bundle(folder: Path) -> tuple[GenreNetwork, list[str]]:
    """Write a bundle and return its network and the names of its genres."""
    names = [f"Genre {number}" for number in range(_GENRES)]
    preprocessing = Preprocessing(SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "squash-bilinear", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        top = head(512, np.full(_GENRES, 0.3), hidden=0, dropout=0.0)
        network = GenreNetwork(
            read_backbone("squeezenet1_1", "none", Path()).body(), top, IMAGENET_NORMALISATION, frozen=True
        ).eval()
    with torch.no_grad():  # otherwise all probabilities would be near the genres' frequencies
        top[-1].weight.mul_(20)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(export_onnx(network, SIZE))
    manifest = {
        "format": 1,
        "genres": [{"id": number, "name": name, "threshold": 0.5} for number, name in enumerate(names)],
        "preprocessing": vars(preprocessing),
        "network": {},
        "dataset_key": "none",
        "files": {"model.onnx": sha256_of_file(folder / "model.onnx")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return network, names


def largest_differences(
    url: str, session: requests.Session, network: GenreNetwork, genres: list[str]
) -> dict[str, float]:
    """The largest difference between two probabilities of a genre, per kind of picture."""
    differences, probabilities = {}, []
    for kind, data in pictures_of_all_kinds():
        response = session.post(url, data=data, headers={"Content-Type": "application/octet-stream"}, timeout=60)
        response.raise_for_status()
        received = {genre["name"]: genre["probability"] for genre in response.json()["genres"]}
        with torch.no_grad():
            expected = network(torch.from_numpy(decode(data, SIZE)[None])).sigmoid()[0].numpy()
        differences[kind] = float(np.abs(np.array([received[name] for name in genres]) - expected).max())
        probabilities.append(expected)
    assert np.ptp(probabilities, axis=0).max() > 0.1, "the network does not distinguish the pictures"
    return differences
