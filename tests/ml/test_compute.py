import pytest
import torch

from ml.compute import choose_compute, one_thread
from ml.errors import SettingError

pytestmark = pytest.mark.train


def test_choose_compute_logs_precision_and_hardware(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        compute = choose_compute("cpu")
    assert f"so the precision is {compute.precision}" in caplog.text
    assert ("has bfloat16 arithmetic" in compute.reason) == compute.bf16


def test_autocast_runs_layers_in_the_chosen_precision() -> None:
    compute = choose_compute("cpu")
    with compute.autocast():
        output = torch.nn.Linear(4, 4)(torch.zeros(1, 4))
    assert output.dtype == (torch.bfloat16 if compute.bf16 else torch.float32)


@pytest.mark.parametrize(("device", "sentence"), [("cuda:77", "no such GPU"), ("abacus", "Unknown device 'abacus'")])
def test_choose_compute_names_a_device_that_does_not_exist(device: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        choose_compute(device)


def test_choose_compute_asks_the_chosen_device_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    class Device:
        def __init__(self, device: torch.device) -> None:
            self._index = device.index

        def __enter__(self) -> None:
            current.append(self._index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert choose_compute("cuda:1").bf16
    assert not choose_compute("cuda:0").bf16
    assert current == [0]


def test_one_thread_restores_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == threads
