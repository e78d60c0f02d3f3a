"""The device and precision of training, and why they were chosen."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ml.errors import SettingError
from serving.bundle.wording import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """A device, whether it uses bfloat16 autocast, and a description of the hardware as the reason."""

    device: torch.device
    bf16: bool
    reason: str

    @property
    def precision(self) -> str:
        """The precision of matrix products and convolutions: 'bf16' or 'fp32'."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> torch.autocast:
        """Run matrix products and convolutions in a block in bfloat16 if `bf16` is true."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's CPU operators in this block on one thread.

    For very small operators, a second thread costs more time than it saves: ten times more while another process uses
    its core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_compute(device: str) -> Compute:
    """Choose the device for 'auto', 'cpu', 'cuda' or 'cuda:N', and log it.

    The precision depends on the hardware's reported features and never on timings, so the same machine gives the same
    model for the same data and seed. Raises SettingError if the device does not exist.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f"Unknown device '{device}': use auto, cpu or cuda.") from error
    if chosen.type == "cuda":
        if not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count():
            raise SettingError(
                f"The device '{device}' is not available: this machine has no such GPU. Use auto or cpu."
            )
        with torch.cuda.device(chosen):  # it asks the current device
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(chosen)
    else:
        bf16 = _cpu_has_bf16()
        name = f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    has = "has bfloat16 arithmetic" if bf16 else "has no bfloat16 arithmetic"
    compute = Compute(chosen, bf16, f"{name}; it {has}")
    logger.info("Training on %s, so the precision is %s.", compute.reason, compute.precision)
    return compute


def _cpu_has_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions. Without them, bfloat16 is emulated and slower than float32.

    PyTorch's compiler uses the same private functions. If a version of PyTorch lacks them, the result is False.
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
