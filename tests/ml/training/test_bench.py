import numpy as np
import pytest
import torch

from ml.training.bench import HostPosters, posters_for

pytestmark = pytest.mark.train


@pytest.mark.parametrize(("reserved", "is_on_device"), [(900, True), (500, False)])
def test_posters_may_use_memory_that_pytorch_keeps_but_does_not_use(
    reserved: int, is_on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, device: real(shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    images = np.ones((8, 3, 4, 4), np.uint8)  # 384 bytes
    posters = posters_for(torch.device("cuda", 0), images)
    assert isinstance(posters, HostPosters) != is_on_device
