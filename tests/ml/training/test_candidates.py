from pathlib import Path

import pytest

from ml.configuration import TrainConfig
from ml.errors import SettingError, TrainingError, WeightsError
from ml.networks.backbones import Backbone
from ml.training.candidates import CANDIDATES, Candidate, Range, check_settings, chosen_candidates
from tests.messages import project_messages

pytestmark = pytest.mark.train


def test_check_settings_accepts_valid_settings(weights_file: Path) -> None:
    check_settings(TrainConfig(backbone="squeezenet1_1", weights=str(weights_file)), 64)
    check_settings(TrainConfig(weights="gs://bucket/weights.pth"), 64)


def test_check_settings_names_the_invalid_setting(tmp_path: Path, weights_file: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        check_settings(TrainConfig(backbone="resnet18", weights=str(weights_file)), 64)
    with pytest.raises(WeightsError, match="cannot be read"):
        check_settings(TrainConfig(weights=str(tmp_path / "absent.pth")), 64)
    with pytest.raises(SettingError, match="no backbone named"):
        check_settings(TrainConfig(backbone="resnet"), 64)
    with pytest.raises(SettingError, match="abacus"):
        check_settings(TrainConfig(device="abacus"), 64)
    with pytest.raises(TrainingError, match=r"vit_b_16 does not accept .* Set image_size to 224 \(--image-size 224\)"):
        check_settings(TrainConfig(backbone="vit_b_16"), 256)
    with pytest.raises(SettingError, match="Unknown candidate network 'transfer'; choose from scratch, frozen, lp-ft"):
        check_settings(TrainConfig(candidates=("scratch", "transfer")), 64)


def test_chosen_candidates_have_no_duplicates(squeezenet: Backbone) -> None:
    assert chosen_candidates(TrainConfig(), squeezenet.weights) == ("scratch", "frozen")
    assert chosen_candidates(TrainConfig(candidates=("lp-ft", "whole", "lp-ft")), squeezenet.weights) == (
        "lp-ft",
        "whole",
    )
    with pytest.raises(SettingError, match="candidates must not be empty"):
        TrainConfig(candidates=())


def test_chosen_candidates_without_weights_are_trained_whole_which_is_said(caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(candidates=("frozen", "scratch", "lp-ft", "whole"), weights="none")
    assert chosen_candidates(config, None) == ("whole", "scratch")
    rest = (
        "needs pretrained weights, and the setting weights is 'none': 'whole' is trained from random weights instead."
    )
    assert project_messages(caplog) == [f"The network '{name}' {rest}" for name in ("frozen", "lp-ft")]


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=CANDIDATES)
def test_first_setting_lies_in_the_search_space(candidate: Candidate) -> None:
    for name, where in candidate.space.items():
        value = candidate.first[name]
        assert where.low <= value <= where.high if isinstance(where, Range) else value in where
