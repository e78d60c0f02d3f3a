"""Checkpoints let a killed training resume: files of tensors and numbers, replaced atomically.

A checkpoint belongs to one configuration and one dataset. Reading it runs no code from the file. The files are in the
workspace and are removed after the training; those of a training that nobody resumed, after two weeks. `saved` is
called with each file that is saved.
"""

import logging
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ml.errors import SettingError, TrainingError
from serving.bundle.files import atomic_write

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
KEPT_DAYS = 14.0
CHECKPOINTS = "checkpoints"  # folder in a workspace
_ABOUT = "about"
_DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    AttributeError,
    TypeError,
    LookupError,
    RuntimeError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
"""What reading a file that holds no checkpoint may raise."""


class Checkpoint:
    """A slot in a file that holds the last saved state. `saved` is called with the file after each `save`."""

    def __init__(
        self, file: Path, about: Mapping[str, object], every_seconds: float, saved: Callable[[Path], None]
    ) -> None:
        self._file, self._about, self._every_seconds, self._on_saved = file, dict(about), every_seconds, saved
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None if there is none or the file is damaged, which is logged.

        Raises SettingError, naming the differences, if the checkpoint belongs to another configuration.
        """
        if not self._file.exists():
            return None
        try:
            with zipfile.ZipFile(self._file) as archive:  # torch.load does not compare checksums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
            content: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
            about = content.pop(_ABOUT)
        except _DAMAGED:
            logger.warning("The checkpoint %s is damaged and is ignored.", self._file)
            return None
        self._compare(about)
        logger.info("Resuming from the checkpoint '%s'.", self._file.stem)
        return content

    def check(self) -> None:
        """Raise SettingError as `load` does, without reading the tensors."""
        try:
            about = torch.load(self._file, map_location="cpu", weights_only=True, mmap=True)[_ABOUT]
        except _DAMAGED:
            return  # which `load` logs
        self._compare(about)

    def _compare(self, about: Mapping[str, object]) -> None:
        if about != self._about:
            names = sorted(name for name in {*about, *self._about} if about.get(name) != self._about.get(name))
            raise SettingError(
                f"The checkpoints in {self._file.parent} belong to another configuration. Remove this folder, or use "
                "their configuration.",
                "\n".join(
                    f"{name} is {about.get(name)} in the checkpoint and {self._about.get(name)} now" for name in names
                ),
            )

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved >= self._every_seconds

    def save(self, content: Mapping[str, object]) -> None:
        """Save tensors, numbers, strings, and lists and dicts of these."""
        # torch.save hides the reason why a file cannot be written.
        saved = BytesIO()
        torch.save({**content, _ABOUT: self._about}, saved)
        with atomic_write(self._file) as temporary:
            temporary.write_bytes(saved.getvalue())
        self._on_saved(self._file)
        self._saved = time.monotonic()


class Checkpoints:
    """A folder of slots for one configuration.

    `about` has a string or number per setting. `saved` is called with each file after it is written.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, object],
        every_seconds: float = EVERY_SECONDS,
        saved: Callable[[Path], None] = lambda file: None,
    ) -> None:
        self._folder, self._about, self._every_seconds, self._saved = folder, about, every_seconds, saved

    def within(self, name: str) -> "Checkpoints":
        """Checkpoints in a subfolder."""
        return Checkpoints(self._folder / name, self._about, self._every_seconds, self._saved)

    def slot(self, name: str) -> Checkpoint:
        """The slot with this name."""
        return Checkpoint(self._folder / f"{name}.pt", self._about, self._every_seconds, self._saved)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from using these checkpoints during the block.

        Raises TrainingError if another process uses them, and SettingError if one belongs to another configuration.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self._folder / ".lock").acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                f"Another process trains with the checkpoints in {self._folder}. Wait until it ends, or use another "
                "output folder or workspace."
            ) from None
        with lock:
            for file in sorted(self._folder.glob("*.pt")):
                self.slot(file.stem).check()
            yield

    def clear(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_old_checkpoints(folder: Path) -> None:
    """Remove the subfolders of `folder` whose checkpoints are older than `KEPT_DAYS`: of trainings not resumed."""
    oldest = time.time() - KEPT_DAYS * 86_400
    removed, size_bytes = 0, 0
    for training in folder.glob("*/"):
        try:
            status = [each.stat() for each in (training, *training.rglob("*"))]
        except FileNotFoundError:  # another process trains there, or has just ended
            continue
        if max(each.st_mtime for each in status) < oldest:
            shutil.rmtree(training, ignore_errors=True)
            removed, size_bytes = removed + 1, size_bytes + sum(each.st_size for each in status)
    if removed:
        logger.info(
            "Checkpoints of interrupted trainings that are older than %.0f days are removed: %d, %.0f MB.",
            *(KEPT_DAYS, removed, size_bytes / 1e6),
        )
