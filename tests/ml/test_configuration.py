import math
from dataclasses import dataclass

import pytest

from ml.configuration import Checked, PreprocessConfig, TrainConfig, setting, stored_settings
from ml.errors import SettingError


@dataclass(frozen=True)
class Limits(Checked):
    share: float = setting(0.5, "Share", "A share.", ge=0, le=1)


@pytest.mark.parametrize(
    ("config", "changes", "sentence"),
    [
        (PreprocessConfig, {"image_size": 8}, r"image_size must be at least 32, not 8\."),
        (Limits, {"share": 2}, r"share must be at most 1, not 2\."),
        (Limits, {"share": math.nan}, r"share must be at least 0, not nan\."),
        (TrainConfig, {"candidates": ()}, r"candidates must not be empty\."),
        (TrainConfig, {"device": "gpu"}, r"Invalid value 'gpu' for device\. Device to train on: 'auto'"),
        (TrainConfig, {"backbone": "ResNet 18"}, r"Invalid value 'ResNet 18' for backbone\."),
    ],
)
def test_configuration_names_a_value_outside_its_limits(
    config: type[Checked], changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        config(**changes)


def test_stored_settings_spell_candidates_as_one_string() -> None:
    assert stored_settings(TrainConfig(candidates=("scratch", "frozen")))["candidates"] == "scratch,frozen"
