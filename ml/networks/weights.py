"""Pretrained weights of a backbone: torchvision's, or those of a safetensors or state-dict file."""

import hashlib
import logging
import pickle
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from ml.errors import SettingError, WeightsError, WeightsUnavailable, needs_package
from ml.files import locked
from serving.bundle.files import atomic_write, sha256_of_file

logger = logging.getLogger(__name__)

IMAGENET, NONE = "imagenet", "none"
"""Settings: the backbone's own pretrained weights, and random ones."""
UNKNOWN = "unknown"
OTHER_WEIGHTS = "set weights to a .safetensors or .pth file, or to 'none' for random weights."
DOWNLOAD_TIMEOUT_SECONDS = 10.0
_SHA256_PREFIX = re.compile(r"-([0-9a-f]{8,64})\.")  # in the names of torchvision's files
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")  # by a proxy; only the error's text has the status
_CHUNK_BYTES = 1 << 20
_CONDITIONS = (
    (r"\bnc\b|non-?commercial", "a model made from them may not be used commercially"),
    (r"gpl|\bsa\b", "a model made from them may only be distributed under the same licence"),
)


@dataclass(frozen=True)
class WeightsFile:
    """Where weights come from: the hash of their file, its address and its licence, as far as they are stated."""

    sha256: str
    source: str = UNKNOWN
    license: str = UNKNOWN

    def condition(self) -> str | None:
        """One sentence about what the licence demands, if it restricts use or is copyleft."""
        conditions = [text for pattern, text in _CONDITIONS if re.search(pattern, self.license, re.IGNORECASE)]
        if not conditions:
            return None
        return f"The backbone's weights have the licence {self.license}: {' and '.join(conditions)}."


@dataclass(frozen=True)
class Weights:
    """A state dict and its file."""

    state: Mapping[str, Tensor]
    file: WeightsFile


def imagenet_weights(backbone: str, cache: Path) -> Weights:
    """Torchvision's best ImageNet weights, downloaded into the folder `cache` if they are not there.

    Raises as `download` does, and SettingError if torchvision has none.
    """
    url = imagenet_url(backbone)
    weights = load_state(download(url, cache))
    return replace(weights, file=replace(weights.file, source=url))


def download_error(what: str, instead: str, retryable: bool, details: str = "") -> WeightsError:
    """The error for weights that cannot be downloaded; `instead` is what a person can do if a retry does not help."""
    if retryable:
        return WeightsUnavailable(f"{what} Try again later, or {instead}", details)
    return WeightsError(f"{what} {instead[0].upper()}{instead[1:]}", details)


def is_refusal(status: int) -> bool:
    """Whether a server that responds with this status will do so in a retry, too."""
    return 400 <= status < 500 and status not in (408, 429)


def is_file(spec: str) -> bool:
    """Whether `spec` is a local path, not a keyword or an address such as gs://bucket/file."""
    return spec not in (IMAGENET, NONE) and "://" not in spec


def imagenet_url(backbone: str) -> str:
    """The address of torchvision's best ImageNet weights for a backbone. Raises SettingError if it has none."""
    try:
        return str(torchvision.models.get_model_weights(backbone).DEFAULT.url)
    except ValueError as error:
        raise SettingError(
            f"torchvision has no ImageNet weights for '{backbone}': set weights to a .safetensors or .pth file, "
            "or to 'none'."
        ) from error


def is_downloaded(url: str, cache: Path) -> bool:
    """Whether the folder `cache` has a valid copy of the file at this address (see `download`)."""
    file = cache / Path(urlparse(url).path).name
    prefix = _SHA256_PREFIX.search(file.name)
    return prefix is not None and file.exists() and sha256_of_file(file).startswith(prefix[1])


def download(url: str, cache: Path) -> Path:
    """Download a weights file into the folder `cache`, unless a valid copy is there.

    torchvision's file names end in the first digits of the file's sha256 ("resnet18-f37072fd.pth"). They are checked,
    also for cached files. `DOWNLOAD_TIMEOUT_SECONDS` limits each wait for the server, not the whole download. Raises
    WeightsUnavailable (retryable) if the server is not reachable or sends another file, and WeightsError if it refuses
    the request, or the cache may not be written.
    """
    name = Path(urlparse(url).path).name
    prefix = _SHA256_PREFIX.search(name)
    if prefix is None:
        raise download_error(f"The file name {name} has no sha256 to check the download.", OTHER_WEIGHTS, False)
    with locked(cache, "downloads weights into"):
        return _download(url, cache / name, prefix[1])


def _download(url: str, file: Path, sha256_prefix: str) -> Path:
    if file.exists():
        if sha256_of_file(file).startswith(sha256_prefix):
            return file
        logger.warning("The cached file %s is damaged and is downloaded again.", file)
    logger.info("Downloading %s", url)
    digest = hashlib.sha256()
    with atomic_write(file) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response,
                temporary.open("wb") as stream,
            ):
                while chunk := response.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    stream.write(chunk)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            tunnel = _REFUSED_TUNNEL.search(str(reason))
            status = error.code if isinstance(error, HTTPError) else int(tunnel[1]) if tunnel else 0
            permanent = is_refusal(status) or isinstance(error, PermissionError)
            what = f"{url} cannot be downloaded ({str(reason).rstrip('.')})."
            raise download_error(what, OTHER_WEIGHTS, not permanent) from error
        if not digest.hexdigest().startswith(sha256_prefix):
            what = f"{url} sent a file whose sha256 does not start with {sha256_prefix}."
            raise download_error(what, OTHER_WEIGHTS, True)
    return file


def load_state(file: Path) -> Weights:
    """Read a safetensors file, or a state dict written by torch.save, without running code from it.

    Floating-point tensors are returned in float32, whatever their precision in the file. Raises WeightsError for
    another file.
    """
    try:
        sha256 = sha256_of_file(file)
        state = _safetensors(file) if file.suffix == ".safetensors" else _state_dict(file)
    except OSError as error:
        raise WeightsError(f"The weights {file} cannot be read: {error.strerror or error}.") from error
    full = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return Weights(full, WeightsFile(sha256))


def safetensors_of(state: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file of these tensors. Tied weights are stored under each of their names."""
    from safetensors.torch import save

    seen: set[int] = set()
    tensors = {}
    for name, value in state.items():
        tensors[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return save({name: value.contiguous() for name, value in tensors.items()})


def _safetensors(file: Path) -> Mapping[str, Tensor]:
    with needs_package("Reading a safetensors file"):
        from safetensors import SafetensorError
        from safetensors.torch import load
    try:
        state: dict[str, Tensor] = load(file.read_bytes())
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError(f"{file} is not a complete safetensors file. Download it again.") from error
    return state


def _state_dict(file: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is not a weights file written by torch.save. Give another file.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file} does not contain a state dict (tensors by name). Give another file.")
    return state
