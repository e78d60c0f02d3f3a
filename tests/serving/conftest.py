"""A small model bundle, a bucket that holds it, and the function that serves it."""

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Bucket, Client
from onnx import TensorProto, helper, numpy_helper

import serving
from infra.local.processes import Processes, free_port
from infra.revisions import RUNTIME_ENVIRONMENT
from infra.source_zip import source_zip
from tests.storage import storage_emulator

StartFunction = Callable[..., AbstractContextManager[tuple[str, Path]]]
SIZE = 16
FIGURES = b'{"part": "validation"}'
GENRES = [
    {"id": 1, "name": "Action", "threshold": 0.5},
    {"id": None, "name": "Sea & Sky", "threshold": 0.25},
    {"id": 8, "name": "Drama", "threshold": 0.9},
]


def mean_colour_network(outputs: int = 3, input_name: str = "images", slope: float = 8) -> bytes:
    """A network whose probabilities are sigmoid(slope * (mean of a channel - 0.5)) for red, green and blue."""
    constants = {
        "axes": np.array([2, 3], np.int64),
        "full": np.array(255, np.float32),
        "half": np.array(0.5, np.float32),
        "slope": np.array(slope, np.float32),
    }
    # The class activation map of a genre is its colour channel, scaled to 0..1.
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        helper.make_node("Div", ["float", "full"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean colour",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, ["N", 3, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", outputs]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", 3, SIZE, SIZE]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    data: bytes = onnx.ModelProto.SerializeToString(model)
    return data


def manifest_of(network: bytes) -> dict[str, object]:
    """A valid manifest for a bundle with this network."""
    return {
        "format": 1,
        "genres": GENRES,
        "preprocessing": {
            "size": SIZE,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "resize": "squash-bilinear",
            "version": 1,
        },
        "network": {"name": "scratch", "backbone": None, "weights_sha256": None, "parameters": {}},
        "dataset_key": "d" * 64,
        "served": {"file": "model.onnx", "precision": "fp32", "reason": "It is the only one."},
        "explains": True,
        "files": {
            "model.onnx": hashlib.sha256(network).hexdigest(),
            "weights.safetensors": "0" * 64,
            "figures.json": hashlib.sha256(FIGURES).hexdigest(),
        },
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a bundle, which the test may change."""
    return write_bundle(tmp_path / "bundle")


def write_bundle(folder: Path) -> Path:
    """Write a valid bundle and return its folder."""
    folder.mkdir()
    network = mean_colour_network()
    (folder / "model.onnx").write_bytes(network)
    (folder / "figures.json").write_bytes(FIGURES)
    (folder / "card.md").write_text("# A model of colours\n")
    (folder / "manifest.json").write_text(json.dumps(manifest_of(network), sort_keys=True, indent=2) + "\n")
    return folder


def write_int8_network(bundle: Path, network: bytes) -> None:
    """Add an int8 network to a bundle and serve it."""
    (bundle / "model-int8.onnx").write_bytes(network)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["served"] = {"file": "model-int8.onnx", "precision": "int8", "reason": "It is as good."}
    manifest["files"]["model-int8.onnx"] = hashlib.sha256(network).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a storage emulator with the bucket "posters-bucket"."""
    with storage_emulator(tmp_path_factory.mktemp("storage"), "posters-bucket") as url:
        yield url


@pytest.fixture(scope="session")
def bucket(storage_url: str) -> Bucket:
    """The bucket, through Google's client."""
    client = Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": storage_url})
    return client.bucket("posters-bucket")


@pytest.fixture(scope="session")
def uploaded_bundle(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sha256 of a bundle in the bucket."""
    return upload_bundle(bucket, write_bundle(tmp_path_factory.mktemp("upload") / "bundle"))["BUNDLE_SHA256"]


def upload_bundle(bucket: Bucket, folder: Path) -> dict[str, str]:
    """Upload a bundle and return the environment variables with which a function serves it."""
    sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    for path in folder.iterdir():
        bucket.blob(f"bundles/{sha256}/{path.name}").upload_from_filename(str(path))
    return {"BUNDLE_URI": f"gs://{bucket.name}/bundles/{sha256}", "BUNDLE_SHA256": sha256}


@pytest.fixture(scope="session")
def start_function(tmp_path_factory: pytest.TempPathFactory, storage_url: str) -> StartFunction:
    """Start a function from a zip, by default that of this checkout, and yield its URL and its log file.

    The checkout is on the import path of the process, so that a test notices if it shadows the deployed source.
    """
    checkout = Path(serving.__file__).parents[1]

    @contextmanager
    def start(source: bytes | None = None, **environment: str) -> Iterator[tuple[str, Path]]:
        folder = tmp_path_factory.mktemp("function")
        with zipfile.ZipFile(io.BytesIO(source or source_zip(checkout / "serving"))) as archive:
            archive.extractall(folder / "source")
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "functions_framework", "--target", "predict", "--source", "main.py"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        settings = {"STORAGE_EMULATOR_HOST": storage_url, "PYTHONPATH": str(checkout), **RUNTIME_ENVIRONMENT}
        with Processes(folder) as processes:
            processes.start("function", command, settings | environment, f"{url}/", folder / "source")
            processes.wait_ready()
            yield url, processes.log("function")

    return start


@pytest.fixture(scope="session")
def function(start_function: StartFunction, uploaded_bundle: str) -> Iterator[tuple[str, Path]]:
    """A function with a valid bundle: its URL and its log file."""
    with start_function(
        BUNDLE_URI=f"gs://posters-bucket/bundles/{uploaded_bundle}",
        BUNDLE_SHA256=uploaded_bundle,
        MODEL_VERSION="3",
        DATASET_DATE="2026-11-23",
        COLLECTION="built-in",
    ) as running:
        assert requests.get(f"{running[0]}/model").ok  # it waits until the model is loaded; /health does not
        yield running


@pytest.fixture
def url(function: tuple[str, Path]) -> str:
    """The URL of a function with a valid bundle."""
    return function[0]


@pytest.fixture
def client() -> Iterator[requests.Session]:
    """A client that closes its connections, because gunicorn waits for open ones before it exits."""
    with requests.Session() as session:
        session.headers["Connection"] = "close"
        yield session
