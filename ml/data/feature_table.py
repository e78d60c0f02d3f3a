"""Features of posters, read block by block, so that memory use does not grow with the number of posters."""

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.data.shards import Rows

BLOCK = 1024
_CPU = torch.device("cpu")


class FeatureTable:
    """Features, float32 [N, F], on disk or in memory. Blocks are copied to the device when they are needed."""

    def __init__(
        self,
        values: Rows | NDArray[np.float32],
        device: torch.device = _CPU,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Select `rows` of `values`, or all of them, for calculations on `device`."""
        self.device = device
        self._values, self._rows = values, np.arange(len(values)) if rows is None else rows
        self.shape = (len(self._rows), int(values.shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def select(self, rows: NDArray[np.int64]) -> Self:
        """Select these rows without reading them."""
        return type(self)(self._values, self.device, self._rows[rows])

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, as tensors [at most BLOCK, F] on the device. The caller may modify them."""
        for start in range(0, len(self), BLOCK):
            yield torch.from_numpy(self._values[self._rows[start : start + BLOCK]]).to(self.device)

    def columns(self, count: int) -> Tensor:
        """The first `count` columns of all rows, [N, count], on the device."""
        return torch.cat([block[:, :count].clone() for block in self.blocks()])
