"""What a training that was killed needs to go on: files of tensors and numbers, moved into place whole.

A checkpoint belongs to one configuration on one dataset; what it holds is read without running any code in it. The
files stay in the workspace, and go when the training they belong to is done.
"""

import logging
import pickle
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from ml.errors import SettingError

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
_ABOUT = "about"
_NO_STATE = (EOFError, ValueError, AttributeError, TypeError)
"""What reading raises where the file holds something else than a state."""


class Checkpoint(Protocol):
    """One slot: the last state that was saved in it."""

    def load(self) -> dict[str, Any] | None:
        """What was saved last; None where nothing was."""
        ...

    def due(self) -> bool:
        """Whether it is time to save again."""
        ...

    def save(self, content: Mapping[str, object]) -> None:
        """Keep tensors, numbers, texts, and lists and dicts of these."""
        ...


class NoCheckpoint:
    """Keeps nothing: for what takes seconds."""

    def load(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, content: Mapping[str, object]) -> None: ...


class FileCheckpoint:
    """A slot in a file."""

    def __init__(self, file: Path, about: Mapping[str, object], every_seconds: float) -> None:
        self._file, self._about, self._every_seconds = file, dict(about), every_seconds
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """As `Checkpoint.load`; a damaged file is said and passed over.

        Raises SettingError, which names the settings that differ, for the checkpoint of another configuration.
        """
        if not self._file.exists():
            return None
        try:
            with zipfile.ZipFile(self._file) as archive:  # torch.load does not compare the checksums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
            content: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
            about = content.pop(_ABOUT)
        except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, LookupError, *_NO_STATE):
            logger.warning("The checkpoint %s is damaged: what it held is trained anew.", self._file)
            return None
        if about != self._about:
            names = sorted(name for name in {*about, *self._about} if about.get(name) != self._about.get(name))
            differ = ", ".join(f"{name} {about.get(name)} there and {self._about.get(name)} here" for name in names)
            raise SettingError(
                f"The checkpoint {self._file} is of another configuration ({differ}): remove it, or train as it was."
            )
        return content

    def due(self) -> bool:
        return time.monotonic() - self._saved >= self._every_seconds

    def save(self, content: Mapping[str, object]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        beside = self._file.with_suffix(".part")
        torch.save({**content, _ABOUT: self._about}, beside)
        beside.replace(self._file)
        self._saved = time.monotonic()


class Checkpoints:
    """A folder of slots, all of one configuration (`about`, a text or number a name)."""

    def __init__(self, folder: Path, about: Mapping[str, object], every_seconds: float = EVERY_SECONDS) -> None:
        self._folder, self._about, self._every_seconds = folder, about, every_seconds

    def slot(self, name: str) -> Checkpoint:
        return FileCheckpoint(self._folder / f"{name}.pt", self._about, self._every_seconds)

    def clear(self) -> None:
        """Remove all: the training is done."""
        shutil.rmtree(self._folder, ignore_errors=True)


class NoCheckpoints:
    """Slots that keep nothing."""

    def slot(self, name: str) -> Checkpoint:
        return NoCheckpoint()

    def clear(self) -> None: ...
