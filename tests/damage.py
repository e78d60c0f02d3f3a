"""Ways in which a disk damages a file."""

from collections.abc import Callable
from pathlib import Path


def empty(file: Path) -> None:
    """The file's content is gone."""
    file.write_bytes(b"")


def cut(file: Path) -> None:
    """The second half of the file is gone."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def flip_bit(file: Path) -> None:
    """One bit in the middle of the file is wrong."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: tuple[Callable[[Path], None], ...] = (empty, cut, flip_bit)
