import pytest
import torch

from ml.compute import choose_compute, one_thread
from ml.errors import SettingError


def test_the_choice_is_said_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        compute = choose_compute("cpu")
    assert f"so the precision is {compute.precision}" in caplog.text
    assert ("has bfloat16 arithmetic" in compute.reason) == compute.bf16


def test_the_precision_is_that_in_which_layers_run() -> None:
    compute = choose_compute("cpu")
    with compute.autocast():
        answer = torch.nn.Linear(4, 4)(torch.zeros(1, 4))
    assert answer.dtype == (torch.bfloat16 if compute.bf16 else torch.float32)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [("cuda:77", "no such GPU"), ("abacus", "no kind of device named 'abacus'"), ("meta", "not on 'meta'")],
)
def test_a_device_that_is_not_there_is_named(device: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        choose_compute(device)


def test_one_thread_gives_the_threads_back() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == threads
