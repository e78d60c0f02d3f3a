"""Where progress, curves, figures and pictures of learning go: one `Reporter`, null by default.

Others (a tracker, an orchestrator) are written above `ml/` to the same protocol and joined by `Reporters`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ml.errors import needs_package


class Reporter(Protocol):
    """What learning tells the world."""

    def run(self, name: str, parameters: Mapping[str, object]) -> AbstractContextManager["Reporter"]:
        """A nested run, such as a network or a trial; what is told to the reporter it gives belongs to it."""
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, by name."""
        ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        """Pictures, uint8 [N, 3, H, W], with a caption each or none at all."""
        ...

    def progress(self, done: int, total: int, what: str) -> None:
        """How far the step named `what` is."""
        ...


class NullReporter:
    """Keeps everything to itself."""

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        yield self

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None: ...

    def progress(self, done: int, total: int, what: str) -> None: ...


class Reporters:
    """Tells everything to several reporters."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        with ExitStack() as stack:
            yield Reporters(*(stack.enter_context(each.run(name, parameters)) for each in self._reporters))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for reporter in self._reporters:
            reporter.scalars(values, step)

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        for reporter in self._reporters:
            reporter.images(name, images, captions)

    def progress(self, done: int, total: int, what: str) -> None:
        for reporter in self._reporters:
            reporter.progress(done, total, what)


class TensorBoardReporter(NullReporter):
    """Event files for TensorBoard: a nested run is a folder in the folder of the run around it."""

    def __init__(self, folder: Path) -> None:
        with needs_package("TensorBoard's curves"):
            from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder))

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        nested = TensorBoardReporter(self._folder / name)
        try:
            table = "\n".join(f"| {key} | {value} |" for key, value in parameters.items())
            nested._writer.add_text("parameters", f"| parameter | value |\n| --- | --- |\n{table}")
            yield nested
        finally:
            nested.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        self._writer.add_images(name, images)
        if captions:
            self._writer.add_text(name, "\n".join(f"1. {caption}" for caption in captions))

    def close(self) -> None:
        """Write what is not yet written and close the files."""
        self._writer.close()
