"""Where networks run, in which precision, and why."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ml.errors import SettingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compute:
    """A device, and whether bfloat16 autocast is used on it."""

    device: torch.device
    bf16: bool
    reason: str

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run a network's matrix products and convolutions in bfloat16 where that is used."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the CPU's operators on one thread.

    For operators so small that handing them to a second thread costs more than they do: ten times more while
    another process wants that thread's core.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_compute(device: str) -> Compute:
    """Choose for 'auto', 'cpu', 'cuda' or 'cuda:N', and say so in the log.

    The choice follows from what the hardware says of itself, never from a stopwatch: with the same data and
    seed the same machine gives the same model. Raises SettingError for a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SettingError(f"There is no kind of device named '{device}': use auto, cpu or cuda.") from error
    if chosen.type == "cuda":
        if not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count():
            raise SettingError(f"The device '{device}' was asked for, but this machine has no such GPU.")
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(chosen)
    elif chosen.type == "cpu":
        bf16 = _cpu_has_bf16()
        name = f"CPU, {torch.get_num_threads()} threads"
    else:
        raise SettingError(f"Networks are trained on 'cpu' or 'cuda', not on '{device}'.")
    has = "has bfloat16 arithmetic" if bf16 else "has no bfloat16 arithmetic"
    compute = Compute(chosen, bf16, f"{name}; it {has}")
    logger.info("Training on %s, so the precision is %s.", compute.reason, compute.precision)
    return compute


def _cpu_has_bf16() -> bool:
    """Whether the CPU computes in bfloat16 itself; emulated, it is slower than float32.

    These are the questions that PyTorch's own compiler asks; a version that lacks them gets float32.
    """
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    answers = [getattr(torch.cpu, question, bool)() for question in questions]
    return any(answers)
