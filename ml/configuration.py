"""The settings of learning, from which the options of the command line and the forms in Prefect are generated."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from ml.errors import SettingError

LOCAL_FOLDER = "local-dir:"
"""The beginning of a backbone's name that is a folder on this machine."""


def setting(default: Any, title: str, description: str, **metadata: Any) -> Any:
    """A field of a `Checked` dataclass.

    Args:
        default: the value if none is given.
        title: two or three words, the label in forms.
        description: one sentence, the help of the command's option.
        metadata: limits under the names that pydantic knows (`ge`, `le`, `pattern`, `min_length`), and `given`, the
            value of an option that is given without one.
    """
    return field(default=default, metadata={"title": title, "description": description, **metadata})


class Checked:
    """Base of configurations: checks each value against the limits of its field.

    Raises:
        SettingError: a value is outside the limits; names the field.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}  # unknown names are refused in forms, too

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value, limits = getattr(self, entry.name), entry.metadata
            if value is None:
                continue
            if "ge" in limits and not value >= limits["ge"]:  # nan, too
                raise SettingError(f"{entry.name} must be at least {limits['ge']}, not {value}.")
            if "le" in limits and not value <= limits["le"]:
                raise SettingError(f"{entry.name} must be at most {limits['le']}, not {value}.")
            if "min_length" in limits and len(value) < limits["min_length"]:
                raise SettingError(f"{entry.name} must not be empty.")
            if "pattern" in limits and not re.search(limits["pattern"], value):
                sentence = limits["description"].partition(". ")[0].rstrip(".")
                raise SettingError(f"Invalid value {value!r:.80} for {entry.name}. {sentence}.")


@dataclass(frozen=True)
class PreprocessConfig(Checked):
    """How posters become a dataset."""

    image_size: int = setting(
        256, "Image size", "Width and height in pixels to which each poster is resized, without its proportions.", ge=32
    )
    min_posters: int = setting(
        30, "Posters per genre", "Number of posters that a genre needs; rarer genres are omitted.", ge=1
    )
    min_posters_per_part: int = setting(
        5,
        "Posters per genre and part",
        "Number of posters that a genre needs in each of the parts train, validation and test.",
        ge=0,
    )


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How networks are trained and compared."""

    candidates: tuple[str, ...] = setting(
        ("scratch", "frozen"), "Candidate networks", "Networks to train; the validation part chooses one.", min_length=1
    )
    backbone: str = setting(
        "resnet18",
        "Backbone",
        "Network to start from: a name of torchvision such as 'resnet18', 'timm/NAME', 'hf-hub:OWNER/NAME', or "
        "'local-dir:DIR' for a folder with the files config.json and model.safetensors of a hub repository.",
        pattern=r"^([a-z][a-z0-9_]*|timm/[\w.-]+|hf-hub:[^/\s]+/[^/\s]+|local-dir:.+)$",
    )
    weights: str = setting(
        "imagenet",
        "Pretrained weights",
        "Weights of the backbone: 'imagenet' (its own pretrained ones), a .safetensors or .pth file (in the flow also "
        "its gs:// address), or 'none' to train from random weights.",
        min_length=1,
    )
    epochs: int = setting(12, "Epochs", "Number of passes over the training part in each trial.", ge=1)
    trials: int = setting(5, "Trials", "Number of hyperparameter settings to try for each network.", ge=1)
    batch_size: int = setting(64, "Batch size", "Number of posters in one training step.", ge=3)
    seed: int = setting(0, "Seed", "Seed of all random numbers.", ge=0)
    device: str = setting(
        "auto",
        "Device",
        "Device to train on: 'auto', 'cpu', 'cuda' or a numbered GPU such as 'cuda:1'.",
        pattern="^(auto|cpu|cuda(:[0-9]+)?)$",
    )
    compile: bool = setting(
        False, "Compile", "Compile networks that are trained as a whole, which saves time in long trainings on a GPU."
    )


@dataclass(frozen=True)
class GateConfig(Checked):
    """When a new model replaces the champion."""

    false_promotions: float = setting(
        0.1,
        "False promotions",
        "Expected number per year of models that go live without being better than the champion: 0.1 is one in ten "
        "years. With 26, any higher score passes in the first comparison of a year, and later ones need little more.",
        ge=0.001,
        le=26,
    )
    max_genre_loss: float = setting(
        0.05,
        "Genre loss",
        "F1 that no genre may lose; a genre has lost it if the whole 95 percent interval of its difference is below.",
        ge=0,
        le=1,
    )
    min_genre_posters: int = setting(
        30, "Test posters per genre", "Number of test posters from which on the loss of a genre is checked.", ge=1
    )
    max_probability_difference: float = setting(
        0.01,
        "Probability difference",
        "Largest mean difference between served probabilities and those of the training.",
        ge=0,
        le=1,
    )
    max_bundle_megabytes: float = setting(
        1000, "Bundle size (MB)", "Largest size of all files of a model's bundle, in MB.", ge=1
    )
    max_response_milliseconds: float = setting(
        2000,
        "Response time (ms)",
        "Longest median time in which a new revision of the function responds to one poster, measured over 20 requests "
        "before it gets traffic, in milliseconds.",
        ge=1,
    )


def stored_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings as training keys, checkpoints and runs store them: the candidates as one string."""
    return {**asdict(config), "candidates": ",".join(config.candidates)}
