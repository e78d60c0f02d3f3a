"""Networks: a small one that is trained from scratch, and backbones of torchvision and timm with a new head.

All are a `GenreNetwork`: pixels -> body -> features [N, F] -> head -> logits [N, G]. A `Backbone` says how its input is
normalised. Names of backbones:

    resnet18                 a network of torchvision
    timm/NAME                a network of timm, also with the tag of its weights: timm/resnet18.a1_in1k
    local-dir:DIR            a folder with the two files of a hub repository (see `ml.networks.hub`)
    hf-hub:OWNER/NAME        a repository of the Hugging Face hub
"""

import difflib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.configuration import LOCAL_FOLDER
from ml.errors import SettingError, TrainingError, WeightsError, needs_package
from ml.networks.hub import (
    CONFIG,
    WEIGHTS,
    Repository,
    check_packages,
    download_file,
    download_repository,
    read_repository,
)
from ml.networks.weights import (
    IMAGENET,
    NONE,
    OTHER_WEIGHTS,
    UNKNOWN,
    Weights,
    WeightsFile,
    imagenet_weights,
    is_file,
    load_state,
)

logger = logging.getLogger(__name__)

_AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Heads of GoogLeNet and Inception that are used only while these are trained; Inception's needs large posters."""
_MAX_BYTES = 1_900_000_000
"""Of weights. An ONNX graph in one file has at most 2 GiB, the limit of protobuf."""
_TIMM, _FOLDER, _HUB = "timm/", LOCAL_FOLDER, "hf-hub:"
_BGR = re.compile(r"wd-[\w-]*tagger", re.IGNORECASE)
"""Names of repositories whose networks take blue first. Their config.json does not say so; others may, with the entry
`"channel_order": "bgr"` in `pretrained_cfg`."""


@dataclass(frozen=True)
class Normalisation:
    """How pixels become a network's input: (pixel / 255 - mean) / std per channel, red first; then `bgr` turns them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_TORCHVISION = {"googlenet": HALF, "inception_v3": HALF, "efficientnet_v2_l": HALF}
"""Torchvision's networks whose weights were trained with another normalisation than ImageNet's mean and deviation."""


class GenreNetwork(nn.Module):
    """Maps posters, uint8 [N, 3, S, S], to one logit per genre, float [N, G].

    Normalisation is part of the network: training, scoring and the exported graph share it. A frozen body has no
    gradients and stays in evaluation mode, so training the head changes neither its weights nor its BatchNorm
    statistics.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, body: nn.Module, head: nn.Module, normalisation: Normalisation, frozen: bool) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.normalisation = normalisation
        self.frozen = frozen
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalisation.mean, normalisation.std))
        # (pixel / 255 - mean) / std with two operations instead of three over all pixels.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)
        if frozen:
            body.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "GenreNetwork":
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def normalised(self, images: Tensor) -> Tensor:
        """The body's input, float [N, 3, S, S]."""
        values = images.float() * self.scale - self.shift
        return values.flip(1) if self.normalisation.bgr else values

    def features(self, images: Tensor) -> Tensor:
        """The body's features of posters, float [N, F]."""
        return cast(Tensor, self.body(self.normalised(images)))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))


def scratch_body(size: int) -> nn.Module:
    """The body of the network that is trained from scratch: [N, 3, size, size] to [N, 256], size >= 32.

    The first convolution reduces larger posters to 64 pixels per side, and pooling comes before normalisation and
    ReLU. Otherwise the first layers would take nearly all of the time.
    """
    widths = (32, 64, 128, 256)
    stride = max(2, size // 64)
    stem = nn.Conv2d(3, widths[0], 2 * stride + 1, stride=stride, padding=stride, bias=False)
    layers: list[nn.Module] = [stem]
    for width, wider in pairwise(widths):
        layers += [nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.Conv2d(width, wider, 3, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer, [N, 3, S, S] to [N, F].

    Attributes:
        name: for people; without local paths.
        key: identifies the network in the keys of trainings, together with the hash of its weights.
        size: width and height in pixels of the images that it was pretrained with, None if unknown.
        normalisation: what its weights were trained with.
        make: returns the network with random weights.
        convert: brings weights of earlier formats into the network's own.
        classifiers: the names of its last layers, whose weights are not used.
        weights: its pretrained weights, None for random ones.
        config_file: the file that describes a network of a hub repository, None for networks known by name.
    """

    name: str
    key: str
    size: int | None
    normalisation: Normalisation
    make: Callable[[], nn.Module]
    convert: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]]
    classifiers: tuple[str, ...]
    weights: Weights | None = None
    config_file: Path | None = None

    @property
    def weights_file(self) -> WeightsFile | None:
        """Where the weights come from, None for random ones."""
        return self.weights.file if self.weights else None

    def body(self) -> nn.Module:
        """The network, with its pretrained weights if it has any. Each call makes another one.

        Raises WeightsError, naming keys, if keys are missing or unexpected or tensors have another shape.
        """
        body = self.make()
        if self.weights is not None:
            self._load(body, self.weights.state)
        return body

    def _load(self, body: nn.Module, state: Mapping[str, Tensor]) -> None:
        expected = body.state_dict()
        ignored = tuple(f"{_without_keys(name, expected)}." for name in self.classifiers)
        given = {key: value for key, value in self.convert(state, body).items() if not key.startswith(ignored)}
        # Files from before PyTorch 0.4.1 lack the number of batches, which is not used here.
        optional = {key for key in expected if key.endswith("num_batches_tracked")}
        other_shapes = {key for key in expected.keys() & given if expected[key].shape != given[key].shape}
        for what, keys in (
            ("lack", expected.keys() - given.keys() - optional),
            ("hold unexpected", given.keys() - expected.keys()),
            ("have another shape in", other_shapes),
        ):
            if keys:
                named = ", ".join(sorted(keys)[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
                raise WeightsError(f"The weights do not fit {self.name}: they {what} {named}. Choose their backbone.")
        body.load_state_dict(given, strict=False)

    def check_size(self, size: int) -> None:
        """Check a backbone before its training.

        Raises TrainingError, naming the setting, if the network does not accept posters of size x size pixels, or if it
        is too large to be exported.
        """
        body = self.make()
        size_bytes = 4 * sum(parameter.numel() for parameter in body.parameters())
        if size_bytes > _MAX_BYTES:
            raise TrainingError(
                f"{self.name} has {size_bytes / 1e9:.1f} GB of weights, and a network may have {_MAX_BYTES / 1e9:.1f} "
                "GB. Choose a smaller backbone."
            )
        try:
            feature_count(body, size, self.name)
        except TrainingError as error:
            if self.size is None or self.size == size:
                raise
            raise TrainingError(
                f"{self.name} does not accept posters of {size} x {size} pixels. Set image_size to {self.size} "
                f"(--image-size {self.size}).",
                error.details,
            ) from error


def _without_keys(name: str, keys: Iterable[str]) -> str:
    """The outermost module around a classifier of which nothing is left without it, such as a head of two layers."""
    parent = name.rpartition(".")[0]
    if not parent or any(key.startswith(f"{parent}.") for key in keys):
        return name
    return _without_keys(parent, keys)


def read_backbone(name: str, weights: str, cache: Path) -> Backbone:
    """The backbone of a name (see the module's documentation).

    Args:
        name: the setting `backbone`.
        weights: 'imagenet' for the backbone's own pretrained weights, the path of a weights file, or 'none'.
        cache: folder for downloaded files.

    Raises SettingError for an unknown name or a backbone without pretrained weights, WeightsError for weights that are
    invalid or do not fit, WeightsUnavailable (retryable) for a download that fails, and MissingPackageError.
    """
    backbone, pretrained_weights = _found(name, cache)
    if weights != NONE:
        given = pretrained_weights() if weights == IMAGENET else load_state(Path(weights))
        backbone = replace(backbone, weights=given)
        backbone.body()
        if condition := given.file.condition():
            logger.warning("%s", condition)
    return backbone


def check_backbone(name: str, weights: str, size: int) -> None:
    """Check a backbone for posters of size x size pixels as far as that needs no download.

    Raises as `read_backbone` and `Backbone.check_size` do.
    """
    if name.startswith(_HUB):
        check_packages()
        return
    known = weights if is_file(weights) or name.startswith(_FOLDER) else NONE
    read_backbone(name, known, Path()).check_size(size)


def _found(name: str, cache: Path) -> tuple[Backbone, Callable[[], Weights]]:
    """The backbone without weights, and a function that reads its own pretrained weights."""
    if name.startswith(_FOLDER):
        folder = Path(name.removeprefix(_FOLDER))
        return _of_repository(read_repository(folder), f"{_FOLDER}{folder.resolve().name}", UNKNOWN)
    if name.startswith(_HUB):
        folder = download_repository(name.removeprefix(_HUB), cache)
        return _of_repository(read_repository(folder), name, f"{name} ({folder.name})")
    if name.startswith(_TIMM):
        return _of_timm(name, cache)
    return _of_torchvision(name), lambda: imagenet_weights(name, cache)


def _of_torchvision(name: str) -> Backbone:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known) or ["resnet18", "mobilenet_v3_small"])
        raise SettingError(f"torchvision has no backbone named '{name}'; it has {near} and others.")
    network = _torchvision_network(name)
    layers = [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    classifier = layers[-1]

    def make() -> nn.Module:
        """The output is the input of the last fully connected layer (in SqueezeNet a 1x1 convolution)."""
        body = _torchvision_network(name)
        parent, _, attribute = classifier.rpartition(".")
        setattr(body.get_submodule(parent), attribute, nn.Identity())
        for attribute, value in (*((name, None) for name in _AUXILIARY), ("aux_logits", False)):
            if hasattr(body, attribute):
                setattr(body, attribute, value)
        return body

    return Backbone(
        name=name,
        key=name,
        size=_torchvision_size(name),
        normalisation=_TORCHVISION.get(name, IMAGENET_NORMALISATION),
        make=make,
        convert=lambda state, body: state,
        classifiers=(classifier, *_AUXILIARY),
    )


def _torchvision_network(name: str) -> nn.Module:
    with warnings.catch_warnings():
        # Two old networks warn about a change of their random initial weights.
        warnings.simplefilter("ignore", FutureWarning)
        return cast(nn.Module, torchvision.models.get_model(name, weights=None))


def _torchvision_size(name: str) -> int | None:
    try:
        size = torchvision.models.get_model_weights(name).DEFAULT.transforms.keywords["crop_size"]
    except (ValueError, KeyError, AttributeError):
        return None
    return int(size)


def _of_timm(name: str, cache: Path) -> tuple[Backbone, Callable[[], Weights]]:
    with needs_package("A backbone of timm"):
        import timm
    full_name = name.removeprefix(_TIMM)
    architecture, _, tag = full_name.partition(".")
    if not timm.is_model(architecture):
        near = ", ".join(
            difflib.get_close_matches(architecture.lower(), timm.list_models()) or ["resnet18", "convnext_atto"]
        )
        raise SettingError(f"timm has no backbone named '{architecture}'; it has {near} and others.")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and full_name not in tagged:
        known = ", ".join(each.partition(".")[2] for each in tagged[:5]) or "none"
        raise SettingError(f"timm's {architecture} has no weights with the tag '{tag}'. Choose another one: {known}.")
    pretrained = timm.get_pretrained_cfg(full_name)
    assert pretrained is not None
    config = asdict(pretrained)
    repository = config.get("hf_hub_id")

    def pretrained_weights() -> Weights:
        if not repository:
            raise SettingError(f"timm has no pretrained weights of '{name}'. Set weights to a file or to 'none'.")
        weights = load_state(download_file(repository, WEIGHTS, cache, instead=OTHER_WEIGHTS))
        stated = WeightsFile(weights.file.sha256, f"{_HUB}{repository}", config.get("license") or UNKNOWN)
        return replace(weights, file=stated)

    return _timm_backbone(name, name, architecture, {}, config), pretrained_weights


def _of_repository(repository: Repository, name: str, source: str) -> tuple[Backbone, Callable[[], Weights]]:
    def pretrained_weights() -> Weights:
        weights = load_state(repository.weights)
        place = source if source != UNKNOWN else str(repository.config.get("origin_url") or UNKNOWN)
        stated = WeightsFile(weights.file.sha256, place, repository.license or UNKNOWN)
        return replace(weights, file=stated)

    key = f"{name} {repository.sha256}"
    backbone = _timm_backbone(name, key, repository.architecture, repository.arguments, repository.config)
    return replace(backbone, config_file=repository.weights.with_name(CONFIG)), pretrained_weights


def _timm_backbone(
    name: str, key: str, architecture: str, arguments: Mapping[str, Any], config: Mapping[str, Any]
) -> Backbone:
    """A network of timm. `arguments` are those of its constructor, `config` is timm's pretrained configuration."""
    with needs_package("A backbone of timm"):
        import timm

    if not timm.is_model(architecture):
        raise SettingError(
            f"{name} needs the network '{architecture}', which timm {timm.__version__} lacks. Update timm."
        )

    def make() -> nn.Module:
        try:
            return timm.create_model(architecture, pretrained=False, **{**arguments, "num_classes": 0})
        except Exception as error:  # of any type, for arguments that do not fit
            raise WeightsError(
                f"timm cannot make {name} from its config.json. Check the entry model_args.",
                str(error).partition("\n")[0],
            ) from error

    def convert(state: Mapping[str, Tensor], body: nn.Module) -> Mapping[str, Tensor]:
        module = sys.modules[timm.models.model_entrypoint(architecture).__module__]
        conversion = getattr(module, "checkpoint_filter_fn", None)
        try:
            return cast(Mapping[str, Tensor], conversion(dict(state), body)) if conversion else state
        except Exception:  # it expects a checkpoint of this network; the keys of another one are named later
            return state

    try:
        mean, std = (tuple(float(value) for value in config[each]) for each in ("mean", "std"))
        size = int(config["input_size"][-1])
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            raise ValueError
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"The config.json of {name} has no valid mean, std and input_size. Correct it.") from error
    default = timm.get_pretrained_cfg(architecture)
    classifiers = config.get("classifier") or (default and default.classifier) or ()
    return Backbone(
        name=name,
        key=key,
        size=size,
        normalisation=Normalisation(mean, std, _BGR.search(name) is not None or config.get("channel_order") == "bgr"),
        make=make,
        convert=convert,
        classifiers=(classifiers,) if isinstance(classifiers, str) else tuple(classifiers),
    )


def feature_count(body: nn.Module, size: int, name: str) -> int:
    """F of a body for posters of size x size pixels. Raises TrainingError if the body does not accept them."""
    try:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, size, size))
        if features.dim() != 2:
            raise ValueError(f"its output is {list(features.shape)}, not one row of features per poster")
        return int(features.shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise TrainingError(
            f"{name} does not accept posters of {size} x {size} pixels. Choose another size or backbone.",
            str(error).partition("\n")[0],
        ) from error


def head(features: int, frequencies: NDArray[np.float64], hidden: int, dropout: float) -> nn.Sequential:
    """Fully connected layers from features [N, F] to logits [N, G]; a single layer if `hidden` is 0.

    Features are standardised first, so that one range of learning rates suits every backbone. The last bias starts at
    the log odds of the genres' `frequencies` [G], as in section 3.3 of Lin et al. 2017
    (https://arxiv.org/abs/1708.02002), so that the first steps need not learn them.
    """
    layers: list[nn.Module] = [nn.BatchNorm1d(features, affine=False)]
    width = features
    if hidden:
        layers += [nn.Linear(features, hidden), nn.ReLU()]
        width = hidden
    last = nn.Linear(width, len(frequencies))
    odds = np.clip(frequencies, 1e-3, 1 - 1e-3)
    with torch.no_grad():
        last.bias.copy_(torch.from_numpy(np.log(odds / (1 - odds))))
    return nn.Sequential(*layers, nn.Dropout(dropout), last)
