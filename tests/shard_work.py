"""Work on posters for tests of the cluster; the workers import it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.store import Store
from serving.bundle.errors import AnimeGenreError
from tasks.poster_rows import RowsOf


@dataclass(frozen=True)
class MeanColours:
    """The mean colour of each poster. Each call leaves a file in `calls`, and waits while the file `closed` exists."""

    calls: str
    key: str = "features/colours-1"
    width: int = 3
    image_size: int = 32
    batch_size: int = 4
    doing: str = "colours"

    @property
    def closed(self) -> Path:
        return Path(self.calls) / "closed"

    def load(self, store: Store, workspace: Path) -> RowsOf:
        def rows(images: NDArray[np.uint8], is_decoded: NDArray[np.bool_]) -> NDArray[np.float32]:
            (Path(self.calls) / f"{time.monotonic_ns()}").touch()
            while self.closed.exists():
                time.sleep(0.05)
            means: NDArray[np.float32] = images.mean((2, 3), dtype=np.float32)
            means[~is_decoded] = np.nan
            return means

        return rows


@dataclass(frozen=True)
class FailingJob:
    """A job that leaves a file in `calls` each time, and then raises its error."""

    calls: str
    error: AnimeGenreError


def fail(job: FailingJob) -> None:
    (Path(job.calls) / f"{time.monotonic_ns()}").touch()
    raise job.error
