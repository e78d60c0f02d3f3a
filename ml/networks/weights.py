"""A backbone's pretrained weights: torchvision's own, checked, or a state-dict file."""

import hashlib
import logging
import pickle
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from ml.data.decoding import file_sha256
from ml.errors import SettingError, WeightsError, WeightsUnavailable

logger = logging.getLogger(__name__)

IMAGENET, NONE = "imagenet", "none"
DOWNLOAD_TIMEOUT_SECONDS = 10.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """A state dict, and the sha256 of the file that it was read from."""

    state: Mapping[str, Tensor]
    sha256: str


def read_weights(spec: str, backbone: str, cache: Path) -> Weights | None:
    """The weights that `spec` asks for: 'imagenet', the path of a state-dict file, or 'none'.

    None with 'none', and, after a loud warning, where ImageNet's weights cannot be had: the network is then
    trained whole. Raises WeightsError for a file that is no state dict, and SettingError where torchvision has no
    ImageNet weights for the backbone.
    """
    if spec == NONE:
        return None
    if spec != IMAGENET:
        return load_state(Path(spec))
    try:
        return load_state(download(imagenet_url(backbone), cache))
    except WeightsUnavailable as error:
        logger.warning(
            "PRETRAINED WEIGHTS CANNOT BE HAD: %s THE NETWORK IS TRAINED WHOLE FROM RANDOM WEIGHTS, which is "
            "slower and scores lower; give a state-dict file as weights to avoid that.",
            error,
        )
        return None


def is_file(spec: str) -> bool:
    """Whether `spec` is a path of this machine: no keyword, and no address such as gs://bucket/file."""
    return spec not in (IMAGENET, NONE) and "://" not in spec


def imagenet_url(backbone: str) -> str:
    """Where torchvision keeps a backbone's best ImageNet weights; SettingError where it has none."""
    try:
        return str(torchvision.models.get_model_weights(backbone).DEFAULT.url)
    except ValueError as error:
        raise SettingError(
            f"torchvision has no ImageNet weights for '{backbone}': give a state-dict file, or 'none', as weights."
        ) from error


def download(url: str, cache: Path, timeout_seconds: float = DOWNLOAD_TIMEOUT_SECONDS) -> Path:
    """Download a file of weights into the folder `cache`, unless it is there whole.

    torchvision's file names end in the first digits of the file's sha256 ("resnet18-f37072fd.pth"): these are
    checked, for a file in the cache too. `timeout_seconds` bounds each wait for the server, not the whole.
    Raises WeightsUnavailable where the server cannot be reached or sends something else.
    """
    name = Path(urlparse(url).path).name
    prefix = re.search(r"-([0-9a-f]{8,64})\.", name)
    if prefix is None:
        raise WeightsUnavailable(f"The name {name} holds no sha256 to check a download by.")
    file = cache / name
    if file.exists():
        if file_sha256(file).startswith(prefix[1]):
            return file
        logger.warning("%s in the cache is damaged; it is downloaded again.", name)
    cache.mkdir(parents=True, exist_ok=True)
    beside = cache / f"{name}.part"
    logger.info("Downloading %s", url)
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer, beside.open("wb") as stream:
            while chunk := answer.read(_CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsUnavailable(f"{url} cannot be downloaded ({reason}).") from error
    if not digest.hexdigest().startswith(prefix[1]):
        raise WeightsUnavailable(f"{url} sent a file whose sha256 is not {prefix[1]}....")
    beside.replace(file)
    return file


def load_state(file: Path) -> Weights:
    """Read a state dict that torch.save wrote; WeightsError where the file is none. No code in it is run."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"The weights {file} cannot be read: {error.strerror or error}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is no file of weights that torch.save wrote.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file} holds no state dict, a tensor a name.")
    return Weights(state, file_sha256(file))
