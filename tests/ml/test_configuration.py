from dataclasses import fields

import pytest

from ml.configuration import PreprocessConfig, TrainConfig
from ml.errors import SettingError


@pytest.mark.parametrize("config", [PreprocessConfig, TrainConfig])
def test_every_setting_has_a_sentence(config: type[PreprocessConfig | TrainConfig]) -> None:
    for entry in fields(config):
        assert entry.metadata["description"].endswith(".")


def test_a_value_below_the_least_is_named() -> None:
    with pytest.raises(SettingError, match=r"image_size must be at least 32, not 8\."):
        PreprocessConfig(image_size=8)
    with pytest.raises(SettingError, match="trials"):
        TrainConfig(trials=0)
