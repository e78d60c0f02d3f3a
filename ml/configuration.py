"""What a person may set about learning; the command line's help and the forms are made from it.

Every field has a `description`, one sentence, and where it makes sense a `minimum`, in its metadata. So have those of
other packages' configurations that are made with `setting` and `Checked`.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from ml.errors import SettingError


def setting(default: Any, description: str, minimum: float | None = None, given: Any = None) -> Any:
    """A field of a configuration: its default, one sentence about it, the least value it may have, and the value of
    an option that is given without one."""
    return field(default=default, metadata={"description": description, "minimum": minimum, "given": given})


class Checked:
    """Checks each field against its minimum."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            minimum, value = entry.metadata["minimum"], getattr(self, entry.name)
            if None not in (minimum, value) and value < minimum:
                raise SettingError(f"{entry.name} must be at least {minimum}, not {value}.")


@dataclass(frozen=True)
class PreprocessConfig(Checked):
    """How a dataset is made of posters."""

    image_size: int = setting(256, "Width and height, in pixels, to which posters are squashed.", 32)
    min_posters: int = setting(30, "Posters that a genre needs, else it is left out.", 1)
    min_posters_per_part: int = setting(
        5, "Posters that a genre needs in each of the train, validation and test parts.", 0
    )


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How networks are trained and compared."""

    backbone: str = setting("resnet18", "Any torchvision network by name: the one that transfers.")
    weights: str = setting(
        "imagenet",
        "The backbone's weights: 'imagenet' (torchvision's), a state-dict file (in the flow also a gs:// address), "
        "or 'none'.",
    )
    candidates: str = setting(
        "scratch,frozen",
        "Networks to compare, by commas: 'scratch' (a small one), and of the backbone 'frozen' (a new head), 'lp-ft' "
        "(that head, then all of it), 'whole'.",
    )
    trials: int = setting(5, "Hyperparameter settings that are tried for each network.", 1)
    epochs: int = setting(12, "Times that a network sees the training part in a trial.", 1)
    batch_size: int = setting(64, "Posters in a training step.", 3)
    seed: int = setting(0, "Seed of everything that is drawn by chance.", 0)
    compile: bool = setting(False, "Compile networks that are trained whole: pays in long trainings on a GPU.")
    device: str = setting("auto", "Where networks are trained: 'auto', 'cpu', 'cuda' or 'cuda:1'.")
