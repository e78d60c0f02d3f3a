from pathlib import Path

import pytest
import torch

from ml.configuration import TrainConfig
from ml.errors import SettingError, WeightsError
from ml.networks.weights import Weights
from ml.training.candidates import (
    FINE_TUNED_FIRST,
    FINE_TUNED_SPACE,
    KERNEL_FIRST,
    KERNEL_SPACE,
    SCRATCH_FIRST,
    SCRATCH_SPACE,
    WHOLE_FIRST,
    WHOLE_SPACE,
    Range,
    Space,
    check_settings,
    chosen_candidates,
    hyperparameters,
    pretrained,
)


def test_settings_are_checked_before_anything_starts(tmp_path: Path, weights_file: Path) -> None:
    check_settings(TrainConfig(backbone="squeezenet1_1", weights=str(weights_file)))
    check_settings(TrainConfig(weights="gs://bucket/weights.pth"))
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        check_settings(TrainConfig(backbone="resnet18", weights=str(weights_file)))
    with pytest.raises(WeightsError, match="cannot be read"):
        check_settings(TrainConfig(weights=str(tmp_path / "absent.pth")))
    with pytest.raises(SettingError, match="no backbone named"):
        check_settings(TrainConfig(backbone="resnet"))
    with pytest.raises(SettingError, match="no kind of device"):
        check_settings(TrainConfig(device="abacus"))
    with pytest.raises(SettingError, match="There is no candidate 'transfer': name some of scratch, frozen, lp-ft"):
        check_settings(TrainConfig(candidates="scratch,transfer"))


def test_candidates_are_those_that_are_named_each_once(weights: Weights) -> None:
    assert chosen_candidates(TrainConfig(), weights) == ("scratch", "frozen")
    assert chosen_candidates(TrainConfig(candidates=" lp-ft, whole,lp-ft,"), weights) == ("lp-ft", "whole")
    for empty in ("", " , "):
        with pytest.raises(SettingError, match="No candidate is named"):
            chosen_candidates(TrainConfig(candidates=empty), weights)


def test_without_weights_what_would_transfer_is_trained_whole_once() -> None:
    assert chosen_candidates(TrainConfig(candidates="frozen,scratch,lp-ft,whole"), None) == ("whole", "scratch")


@pytest.mark.parametrize(
    ("space", "first"),
    [
        (SCRATCH_SPACE, SCRATCH_FIRST),
        (WHOLE_SPACE, WHOLE_FIRST),
        (FINE_TUNED_SPACE, FINE_TUNED_FIRST),
        (KERNEL_SPACE, KERNEL_FIRST),
    ],
)
def test_a_first_setting_lies_in_its_space(space: Space, first: object) -> None:
    for name, where in space.items():
        value = getattr(first, name)
        assert where.low <= value <= where.high if isinstance(where, Range) else value in where


def test_what_a_trial_does_not_choose_is_as_in_the_first_setting() -> None:
    chosen = hyperparameters({"learning_rate": 0.5}, SCRATCH_FIRST)
    assert chosen.learning_rate == 0.5
    assert (chosen.hidden, chosen.dropout) == (SCRATCH_FIRST.hidden, SCRATCH_FIRST.dropout)


def test_a_pretrained_backbone_has_the_weights(weights: Weights) -> None:
    state = pretrained("squeezenet1_1", weights).body.state_dict()
    assert all(torch.equal(state[name], weights.state[name]) for name in state)
