"""Features of posters, read a block at a time: a training's memory does not grow with their number."""

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
    """Features float32 [N, F] that stay where they are, on disk or in memory, until a block of them is needed."""

    def __init__(
        self,
        values: Rows | NDArray[np.float32],
        device: torch.device = _CPU,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        """Of these `rows` of `values`, all where none are given, for calculations on a device."""
        self.device = device
        self._values, self._rows = values, np.arange(len(values)) if rows is None else rows
        self.shape = (len(self._rows), int(values.shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def only(self, rows: NDArray[np.int64]) -> Self:
        """These rows alone; nothing is read for it."""
        return type(self)(self._values, self.device, self._rows[rows])

    def blocks(self) -> Iterator[Tensor]:
        """All rows in their order, as tensors [at most BLOCK, F] on the device that the caller may change."""
        for start in range(0, len(self), BLOCK):
            yield torch.from_numpy(self._values[self._rows[start : start + BLOCK]]).to(self.device)

    def columns(self, count: int) -> Tensor:
        """The first columns of all rows, [N, count] on the device."""
        return torch.cat([block[:, :count].clone() for block in self.blocks()])
