"""Copies of a training's checkpoints in the bucket, from which another machine resumes it.

Only a training on another machine makes them, because its disk may be gone with it. On one machine, the files in the
workspace are enough, and copies cost time: a checkpoint of ResNet18 with its optimiser has 140 MB, and saving it took
1.5 s without a copy and 3.9 s with one (two CPU cores, storage emulator). Whoever trains takes the copies that exist.
"""

import logging
import time
from pathlib import Path

from infra.errors import InfraError, OutdatedError
from infra.store import Store
from ml.training.checkpoints import CHECKPOINTS

logger = logging.getLogger("tasks")

_SHARE = 0.1  # of the time that uploads may take


class CheckpointCopies:
    """The objects below `checkpoints/{key}/`, and the folder in the workspace with the same files.

    A copy that cannot be made or deleted is only logged: it saves time in a later training, and this one needs none.
    """

    def __init__(self, store: Store, folder: Path, key: str) -> None:
        self._store, self._folder, self._prefix = store, folder / CHECKPOINTS / key, f"{CHECKPOINTS}/{key}/"
        self._waiting: set[Path] = set()
        self._next = time.monotonic()

    def fetch(self) -> None:
        """Download the copies that are newer than the files in the workspace.

        Raises:
            ServiceUnavailable: the bucket is not reachable.
        """
        newer = {}
        for key, copy in self._store.listing(self._prefix).items():
            file = self._folder / key.removeprefix(self._prefix)
            if not file.exists() or file.stat().st_mtime < copy.written.timestamp():
                newer[key] = file
        self._store.download(newer)

    def save(self, file: Path) -> None:
        """Upload a file, later if the last uploads took long: they may take a tenth of the time."""
        self._waiting.add(file)
        began = time.monotonic()
        if began < self._next:
            return
        try:
            self._store.upload({f"{self._prefix}{each.relative_to(self._folder)}": each for each in self._waiting})
            self._waiting.clear()
        except OutdatedError as error:  # a worker that seemed lost trains the same
            self._waiting.clear()
            logger.warning("%s", error.message)
        except InfraError as error:
            logger.warning("A checkpoint is not copied into the bucket; the next one is. %s", error.message)
        ended = time.monotonic()
        self._next = ended + (ended - began) * (1 / _SHARE - 1)

    def clear(self) -> None:
        """Delete the copies, after the training is stored."""
        try:
            for key in self._store.keys(self._prefix):
                self._store.delete(key)
        except InfraError as error:
            logger.warning("Copies of checkpoints are left in the bucket; `prune` deletes them. %s", error.message)
