"""The function in the usual way with torch and torchvision, as a comparison for bench_serving.py.

    functions-framework --target predict --source main.py

BUNDLE_URI is gs://BUCKET/FOLDER, where manifest.json names genres, size, mean and standard deviation, and
weights.safetensors is the state dict of torchvision's resnet18 with one output per genre. A poster is the body or
{"name": ...}, an object in the same bucket. The response contains its genres as JSON.
"""

import io
import json
import os
import threading
from dataclasses import dataclass

import flask
import functions_framework
import torch
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load
from torchvision import transforms
from torchvision.models import resnet18

torch.set_num_threads(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Predictor:
    """The network, its preprocessing and its genres."""

    network: torch.nn.Module
    transform: transforms.Compose
    genres: list[dict]

    def predict(self, data: bytes) -> list[dict]:
        """The genres of a poster, most probable first."""
        with Image.open(io.BytesIO(data)) as image:
            pixels = self.transform(image.convert("RGB"))[None].to(memory_format=torch.channels_last)
        with torch.inference_mode():
            probabilities = torch.sigmoid(self.network(pixels))[0].tolist()
        genres = [
            {**genre, "probability": probability, "predicted": probability >= genre["threshold"]}
            for genre, probability in zip(self.genres, probabilities, strict=True)
        ]
        return sorted(genres, key=lambda genre: -genre["probability"])


_lock = threading.Lock()
_predictor: Predictor | None = None


def bucket_and_folder() -> tuple[storage.Bucket, str]:
    """The location of the model."""
    name, _, folder = os.environ["BUNDLE_URI"].removeprefix("gs://").partition("/")
    if "STORAGE_EMULATOR_HOST" in os.environ:
        client = storage.Client(project="local", credentials=AnonymousCredentials())
    else:
        client = storage.Client()
    return client.bucket(name), folder


def predictor() -> Predictor:
    """The model, loaded by the first request: torch's threads would not survive gunicorn's fork."""
    global _predictor
    with _lock:
        if _predictor is None:
            _predictor = read_predictor()
        return _predictor


def read_predictor() -> Predictor:
    bucket, folder = bucket_and_folder()
    manifest = json.loads(bucket.blob(f"{folder}/manifest.json").download_as_bytes())
    weights = load(bucket.blob(f"{folder}/weights.safetensors").download_as_bytes())
    network = resnet18(num_classes=len(manifest["genres"]))
    network.load_state_dict(weights)
    network.eval().to(memory_format=torch.channels_last)
    preprocessing = manifest["preprocessing"]
    transform = transforms.Compose(
        [
            transforms.Resize((preprocessing["size"], preprocessing["size"])),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing["mean"], preprocessing["std"]),
        ]
    )
    return Predictor(network, transform, manifest["genres"])


@functions_framework.http
def predict(request: flask.Request) -> tuple[dict, int]:
    """Respond to one request."""
    if request.method != "POST":
        return {"status": "ok"}, 200
    try:
        if request.is_json:
            bucket, _ = bucket_and_folder()
            data = bucket.blob(request.get_json()["name"]).download_as_bytes()
        else:
            data = request.get_data()
        return {"genres": predictor().predict(data)}, 200
    except NotFound:
        return {"error": "no such poster"}, 404
    except (UnidentifiedImageError, OSError) as error:
        return {"error": str(error)}, 422
