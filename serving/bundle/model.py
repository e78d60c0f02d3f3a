"""A model bundle becomes predictions: manifest.json, a network, and what they answer about posters.

A bundle is a folder (or a prefix of a bucket) of manifest.json, model.onnx, weights.safetensors, figures.json and
card.md, and where that is served, model-int8.onnx. The manifest says which of the two networks is served and why, and
holds the sha256 of the other files but the card, which is prose: the sha256 of manifest.json names the
whole bundle.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256 as hash_sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError
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
BATCH_SIZE = 8  # images a pass through the network; more are no faster, and take more memory


@dataclass(frozen=True)
class GenrePrediction:
    """What a model says about one genre of one poster."""

    id: int | None
    name: str
    probability: float
    threshold: float
    predicted: bool


@dataclass(frozen=True)
class GenreThreshold:
    """A genre a model knows, and the probability from which on it is predicted."""

    id: int | None
    name: str
    threshold: float

    def decide(self, probability: float) -> GenrePrediction:
        """Apply the threshold."""
        return GenrePrediction(self.id, self.name, probability, self.threshold, predicted=probability >= self.threshold)


@dataclass(frozen=True)
class Preprocessing:
    """How posters become the network's input; mean and std stand in the ONNX graph itself too."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    version: int


@dataclass(frozen=True)
class Served:
    """Which of a bundle's networks is served: its file, "fp32" or "int8", and why, in one sentence."""

    file: str
    precision: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    `explains` is whether the network gives class activation maps beside its probabilities; `files` maps file names to
    their sha256.
    """

    genres: tuple[GenreThreshold, ...]
    preprocessing: Preprocessing
    network: Mapping[str, object]
    dataset_key: str
    served: Served
    explains: bool
    files: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read manifest.json; BundleError names what is missing or wrong."""
        try:
            document = json.loads(data)
        except ValueError as error:
            raise BundleError(f"The bundle's {MANIFEST} is not JSON: {error}.") from error
        version = _get(document, "format", int, MANIFEST)
        if version != FORMAT:
            raise BundleError(f"The bundle has format {version}; this program reads format {FORMAT}.")
        files = _get(document, "files", dict, MANIFEST)
        served = _served(document)
        for name in {MODEL, served.file}:
            if not isinstance(files.get(name), str):
                raise BundleError(f"The bundle's {MANIFEST} gives no sha256 of {name}.")
        return cls(
            genres=_genres(_get(document, "genres", list, MANIFEST)),
            preprocessing=_preprocessing(_get(document, "preprocessing", dict, MANIFEST)),
            network=_get(document, "network", dict, MANIFEST),
            dataset_key=_get(document, "dataset_key", str, MANIFEST),
            served=served,
            explains=document.get("explains") is True,
            files=files,
        )


class Model:
    """A checked bundle, ready to answer. Safe to use from several threads."""

    def __init__(self, manifest: Manifest, sha256: str, session: "InferenceSession") -> None:
        self.manifest = manifest
        self.sha256 = sha256
        self._session = session
        # More passes at a time than there are CPUs are no faster, and each has its own activations in memory.
        self._passes = threading.BoundedSemaphore(available_cpus())

    @classmethod
    def load(cls, folder: Path, sha256: str | None = None) -> Self:
        """Load the bundle in `folder`; see `read`."""
        return cls.read(lambda name: _read(folder, name), sha256)

    @classmethod
    def read(cls, file: Callable[[str], bytes], sha256: str | None = None) -> Self:
        """Load a bundle whose files are read by their name, and whose manifest.json has to have this sha256 where one
        is given.

        Only manifest.json and the network that is served are read. Raises BundleError where one is not what its sha256
        says, or the network's input and output are not those of the manifest; and what `file` raises.
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

        Raises ValueError for an array of another type or shape.
        """
        self._check_images(images)
        return self._run([OUTPUT], images)[0]

    def explained(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probabilities [N, G] and class activation maps, float32 [N, G, h, w].

        A map is 0 where a place does not speak for the genre. Raises ValueError as `probabilities`, and where the
        network gives no maps.
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
        """These outputs for all images, a batch at a time."""
        # At least one batch, so that no image has an answer of the right shape, too.
        batches = [images[start : start + BATCH_SIZE] for start in range(0, max(len(images), 1), BATCH_SIZE)]
        answers = []
        for batch in batches:
            with self._passes:
                answers.append(self._session.run(outputs, {INPUT: batch}))
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def predict(self, posters: Sequence[bytes]) -> list[list[GenrePrediction]]:
        """The genres of each poster (bytes of an image file) in the manifest's order, thresholds applied.

        Raises PosterError for an image that cannot be used.
        """
        size = self.manifest.preprocessing.size
        images = np.empty((len(posters), 3, size, size), np.uint8)
        for row, poster in enumerate(posters):
            images[row] = decode(poster, size)
        return [
            [genre.decide(probability) for genre, probability in zip(self.manifest.genres, row, strict=True)]
            for row in self.probabilities(images).tolist()
        ]


def check_sha256(name: str, data: bytes, expected: str | None) -> str:
    """The sha256 of a bundle's file; BundleError where another one was expected."""
    actual = hash_sha256(data).hexdigest()
    if expected is not None and actual != expected:
        raise BundleError(f"The bundle's {name} has sha256 {actual}, but {expected} was expected.")
    return actual


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"The bundle in {folder} has no readable {name}: {error.strerror}.") from error


def _session(graph: bytes, name: str) -> "InferenceSession":
    # Imported here because manifests are read, too, where there is no ONNX Runtime. The import itself would
    # report to Microsoft and leave a folder in the user's cache.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = available_cpus()
    # Threads that spin while they wait would take the CPUs from those that decode posters.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only; what matters is raised
    try:
        return InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception types are not public
        raise BundleError(f"ONNX Runtime cannot load the bundle's {name}: {error}") from error


def available_cpus() -> int:
    """The CPUs this process may run on, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_shapes(session: "InferenceSession", manifest: Manifest) -> None:
    """An ONNX dimension that is no number is free, and fits everything."""
    size = manifest.preprocessing.size
    expected = {
        INPUT: ("tensor(uint8)", [None, 3, size, size]),
        OUTPUT: ("tensor(float)", [None, len(manifest.genres)]),
    }
    if manifest.explains:
        expected[MAPS] = ("tensor(float)", [None, len(manifest.genres), None, None])
    name_of_file = manifest.served.file
    found = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for name, (kind, shape) in expected.items():
        if name not in found:
            raise BundleError(f"The bundle's {name_of_file} has no input or output named '{name}'.")
        value = found[name]
        fits = len(value.shape) == len(shape) and all(
            wanted is None or not isinstance(given, int) or given == wanted
            for given, wanted in zip(value.shape, shape, strict=True)
        )
        if value.type != kind or not fits:
            raise BundleError(
                f"The '{name}' of the bundle's {name_of_file} is {value.type} {value.shape}; "
                f"the manifest asks for {kind} {['N' if wanted is None else wanted for wanted in shape]}."
            )


def _served(document: dict[str, object]) -> Served:
    """The network that is served; bundles from before there were two say nothing about it."""
    if "served" not in document:
        return Served(MODEL, "fp32", "")
    entry, where = _get(document, "served", dict, MANIFEST), f"{MANIFEST}, served"
    file = _get(entry, "file", str, where)
    if file not in (MODEL, MODEL_INT8):
        raise BundleError(f"In the bundle's {where} the file cannot be {json.dumps(file)[:60]}.")
    precision = _get(entry, "precision", str, where)
    if precision not in ("fp32", "int8"):
        raise BundleError(f"In the bundle's {where} the precision cannot be {json.dumps(precision)[:60]}.")
    return Served(file, precision, _get(entry, "reason", str, where))


def _genres(entries: list[object]) -> tuple[GenreThreshold, ...]:
    genres = []
    for position, entry in enumerate(entries):
        where = f"{MANIFEST}, genre {position + 1}"
        identifier = _get(entry, "id", (int, type(None)), where)
        name = _get(entry, "name", str, where)
        threshold = float(_get(entry, "threshold", (int, float), where))
        if not 0 <= threshold <= 1:
            raise BundleError(f"In the bundle's {where} the threshold {threshold} is not between 0 and 1.")
        genres.append(GenreThreshold(identifier, name, threshold))
    if not genres:
        raise BundleError(f"The bundle's {MANIFEST} lists no genres.")
    return tuple(genres)


def _preprocessing(entry: dict[str, object]) -> Preprocessing:
    where = f"{MANIFEST}, preprocessing"
    size = _get(entry, "size", int, where)
    if size < 1:
        raise BundleError(f"In the bundle's {where} the size {size} is not positive.")
    resize = _get(entry, "resize", str, where)
    if resize != RESIZE:
        raise BundleError(f"The bundle's posters are resized by '{resize}'; this program knows '{RESIZE}'.")
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
        raise BundleError(f"In the bundle's {where} '{name}' is not three numbers.")
    return tuple(float(value) for value in values)


def _get(entry: object, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A member of a JSON object, checked for its type (a bool is not a number here)."""
    if not isinstance(entry, dict) or name not in entry:
        raise BundleError(f"The bundle's {where} has no '{name}'.")
    value = cast(dict[str, object], entry)[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BundleError(f"In the bundle's {where} '{name}' cannot be {json.dumps(value)[:60]}.")
    return value
