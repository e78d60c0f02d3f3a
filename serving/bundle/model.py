"""Loads a model bundle and predicts genres with it.

A bundle is a folder, or a prefix in a bucket, with manifest.json, model.onnx, weights.safetensors, figures.json,
card.md and, if it is served, model-int8.onnx. The manifest says which of the two networks is served and why. It holds
the sha256 of every other file except the card, which is prose. So the sha256 of manifest.json identifies the bundle.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
from .files import sha256_of
from .image import decode

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_INT8 = "model-int8.onnx"
FIGURES = "figures.json"
CARD = "card.md"
FORMAT = 1
RESIZE = "squash-bilinear"  # what image.decode does
INPUT = "images"
OUTPUT = "probabilities"
MAPS = "maps"
_MEND = "Copy or train it again."
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time per period of microseconds
BATCH_SIZE = 8  # images per pass through the network; larger batches are no faster and take more memory

Probability = Annotated[float, {"minimum": 0, "maximum": 1}]
"""A number from 0 to 1, with its bounds as JSON Schema writes them."""


@dataclass(frozen=True)
class GenrePrediction:
    """The prediction of one genre for one poster."""

    id: int | None
    name: str
    probability: Probability
    threshold: Probability
    predicted: bool


@dataclass(frozen=True)
class GenreThreshold:
    """A genre of the model, and the lowest probability at which it is predicted."""

    id: int | None
    name: str
    threshold: float

    def decide(self, probability: float) -> GenrePrediction:
        """Apply the threshold to a probability."""
        return GenrePrediction(self.id, self.name, probability, self.threshold, predicted=probability >= self.threshold)


@dataclass(frozen=True)
class Preprocessing:
    """How posters become the network's input. The ONNX graph applies `mean` and `std` itself."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    version: int


@dataclass(frozen=True)
class Served:
    """The network of a bundle that is served: its file, its precision ("fp32" or "int8"), and the reason."""

    file: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    `explains` says whether the network also returns class activation maps, and `not_explained` why it does not, as the
    end of a sentence; it is empty in earlier bundles. `files` maps file names to their sha256.
    """

    genres: tuple[GenreThreshold, ...]
    preprocessing: Preprocessing
    network: Mapping[str, object]
    dataset_key: str
    served: Served
    explains: bool
    files: Mapping[str, str]
    not_explained: str = ""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse manifest.json. Raises BundleError, which names the missing or invalid value."""
        try:
            document = json.loads(data)
        except ValueError as error:
            raise BundleError(f"The bundle's {MANIFEST} is not JSON: {error}. {_MEND}") from error
        version = _get(document, "format", int, MANIFEST)
        if version != FORMAT:
            raise BundleError(f"The bundle has format {version}; this program reads format {FORMAT}. Train it again.")
        files = _get(document, "files", dict, MANIFEST)
        served = _served(document)
        for name in {MODEL, served.file}:
            if not isinstance(files.get(name), str):
                raise BundleError(f"The bundle's {MANIFEST} has no sha256 for {name}.")
        return cls(
            genres=_genres(_get(document, "genres", list, MANIFEST)),
            preprocessing=_preprocessing(_get(document, "preprocessing", dict, MANIFEST)),
            network=_get(document, "network", dict, MANIFEST),
            dataset_key=_get(document, "dataset_key", str, MANIFEST),
            served=served,
            explains=document.get("explains") is True,
            files=files,
            not_explained=_get(document, "not_explained", str, MANIFEST) if "not_explained" in document else "",
        )


class Model:
    """A checked bundle that predicts genres. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, sha256: str, session: "InferenceSession") -> None:
        self.manifest = manifest
        self.sha256 = sha256
        self._session = session
        # More concurrent passes than CPUs are no faster, and each holds its activations in memory.
        self._passes = threading.BoundedSemaphore(available_cpus())

    @classmethod
    def load(cls, folder: Path, sha256: str | None = None) -> Self:
        """Load the bundle in `folder`; see `read`."""
        return cls.read(lambda name: _read(folder, name), sha256)

    @classmethod
    def read(cls, file: Callable[[str], bytes], sha256: str | None = None) -> Self:
        """Load a bundle. `file` reads one of its files by name.

        Only manifest.json and the served network are read.

        Raises:
            BundleError: manifest.json does not have the given `sha256`, the network does not have the sha256 of the
                manifest, or its inputs and outputs do not match the manifest. Errors of `file` are passed on.
        """
        data = file(MANIFEST)
        actual = check_sha256(MANIFEST, data, sha256)
        manifest = Manifest.parse(data)
        name = manifest.served.file
        graph = file(name)
        check_sha256(name, graph, manifest.files[name])
        session = _session(graph, name)
        _check_shapes(session, manifest)
        return cls(manifest, actual, session)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probability of each genre, float32 [N, G] in the manifest's order, for uint8 [N, 3, size, size].

        Raises ValueError if the array has another type or shape.
        """
        self._check_images(images)
        return self._run([OUTPUT], images)[0]

    def explained(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities [N, G] and class activation maps, float32 [N, G, h, w].

        A map is 0 in areas that do not support the genre.

        Raises ValueError like `probabilities`, and if the network returns no maps.
        """
        self._check_images(images)
        if not self.manifest.explains:
            raise ValueError("This network gives no class activation maps.")
        probabilities, maps = self._run([OUTPUT, MAPS], images)
        return probabilities, maps

    def _check_images(self, images: NDArray[np.uint8]) -> None:
        size = self.manifest.preprocessing.size
        if images.dtype != np.uint8 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"The images must be uint8 [N, 3, {size}, {size}], not {images.dtype} {list(images.shape)}."
            )

    def _run(self, outputs: list[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The named outputs for all images, computed in batches."""
        # At least one batch, so that zero images also give arrays of the right shape.
        batches = [images[start : start + BATCH_SIZE] for start in range(0, max(len(images), 1), BATCH_SIZE)]
        results = []
        for batch in batches:
            with self._passes:
                results.append(self._session.run(outputs, {INPUT: batch}))
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def predict(self, posters: Sequence[bytes]) -> list[list[GenrePrediction]]:
        """Predict the genres of each poster (bytes of an image file), in the manifest's order.

        Raises PosterError if an image is unusable.
        """
        size = self.manifest.preprocessing.size
        images = np.empty((len(posters), 3, size, size), np.uint8)
        for row, poster in enumerate(posters):
            images[row] = decode(poster, size)
        return self.predict_pixels(images)

    def predict_pixels(self, images: NDArray[np.uint8]) -> list[list[GenrePrediction]]:
        """Predict the genres of decoded posters, uint8 [N, 3, size, size], in the manifest's order."""
        return [
            [genre.decide(probability) for genre, probability in zip(self.manifest.genres, row, strict=True)]
            for row in self.probabilities(images).tolist()
        ]


def check_sha256(name: str, data: bytes, expected: str | None) -> str:
    """The sha256 of a bundle's file. Raises BundleError if it is not the expected one."""
    actual = sha256_of(data)
    if expected is not None and actual != expected:
        raise BundleError(f"The bundle's {name} has sha256 {actual}, but {expected} was expected. {_MEND}")
    return actual


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"The bundle in {folder} has no readable {name}: {error.strerror}. {_MEND}") from error


def _session(graph: bytes, name: str) -> "InferenceSession":
    # Imported here because manifests are also read where ONNX Runtime is not installed. Without this variable the
    # import itself sends telemetry to Microsoft and creates a folder in the user's cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = available_cpus()
    # Spinning threads would take CPU time from the threads that decode posters.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only; the rest is raised as exceptions
    try:
        return InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception types are not public
        raise BundleError(f"ONNX Runtime cannot load the bundle's {name}. {_MEND}", str(error)) from error


def available_cpus() -> int:
    """The number of CPUs this process may use, which can be fewer than the machine has."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or no limit ("max 100000")
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cpus = min(cpus, max(1, math.ceil(quota / period)))
    return cpus


def _check_shapes(session: "InferenceSession", manifest: Manifest) -> None:
    """Compare the graph's inputs and outputs with the manifest. A symbolic ONNX dimension matches any size."""
    size = manifest.preprocessing.size
    expected = {
        INPUT: ("tensor(uint8)", [None, 3, size, size]),
        OUTPUT: ("tensor(float)", [None, len(manifest.genres)]),
    }
    if manifest.explains:
        expected[MAPS] = ("tensor(float)", [None, len(manifest.genres), None, None])
    file = manifest.served.file
    found = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for name, (kind, shape) in expected.items():
        if name not in found:
            raise BundleError(f"The bundle's {file} has no input or output named '{name}'.")
        value = found[name]
        fits = len(value.shape) == len(shape) and all(
            wanted is None or not isinstance(given, int) or given == wanted
            for given, wanted in zip(value.shape, shape, strict=True)
        )
        if value.type != kind or not fits:
            raise BundleError(
                f"The '{name}' of the bundle's {file} is {value.type} {value.shape}; "
                f"the manifest requires {kind} {['N' if wanted is None else wanted for wanted in shape]}."
            )


def _served(document: dict[str, object]) -> Served:
    """The served network. Old bundles, which have only one network, have no such entry."""
    if "served" not in document:
        return Served(MODEL, "fp32", "")
    entry, where = _get(document, "served", dict, MANIFEST), f"{MANIFEST}, served"
    file = _get(entry, "file", str, where)
    if file not in (MODEL, MODEL_INT8):
        raise _invalid(where, "file", file)
    precision = _get(entry, "precision", str, where)
    if precision not in ("fp32", "int8"):
        raise _invalid(where, "precision", precision)
    return Served(file, precision, _get(entry, "reason", str, where))


def _genres(entries: list[object]) -> tuple[GenreThreshold, ...]:
    genres = []
    for position, entry in enumerate(entries):
        where = f"{MANIFEST}, genre {position + 1}"
        identifier = _get(entry, "id", (int, type(None)), where)
        name = _get(entry, "name", str, where)
        threshold = float(_get(entry, "threshold", (int, float), where))
        if not 0 <= threshold <= 1:
            raise BundleError(f"The bundle's {where} has a threshold of {threshold}; it must be between 0 and 1.")
        genres.append(GenreThreshold(identifier, name, threshold))
    if not genres:
        raise BundleError(f"The bundle's {MANIFEST} lists no genres.")
    return tuple(genres)


def _preprocessing(entry: dict[str, object]) -> Preprocessing:
    where = f"{MANIFEST}, preprocessing"
    size = _get(entry, "size", int, where)
    if size < 1:
        raise BundleError(f"The bundle's {where} has a size of {size}; it must be positive.")
    resize = _get(entry, "resize", str, where)
    if resize != RESIZE:
        raise BundleError(f"The bundle resizes posters with '{resize}'; this program supports only '{RESIZE}'.")
    return Preprocessing(
        size=size,
        mean=_channels(entry, "mean", where),
        std=_channels(entry, "std", where),
        resize=resize,
        version=_get(entry, "version", int, where),
    )


def _channels(entry: dict[str, object], name: str, where: str) -> tuple[float, ...]:
    values = _get(entry, name, list, where)
    if len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise BundleError(f"The bundle's {where} has a '{name}' that is not three numbers.")
    return tuple(float(value) for value in values)


def _get(entry: object, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A member of a JSON object, with its type checked. A bool does not count as a number."""
    if not isinstance(entry, dict) or name not in entry:
        raise BundleError(f"The bundle's {where} has no '{name}'.")
    value = cast(dict[str, object], entry)[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _invalid(where, name, value)
    return value


def _invalid(where: str, name: str, value: object) -> BundleError:
    return BundleError(f"The bundle's {where} has an invalid '{name}': {json.dumps(value)[:60]}.")
