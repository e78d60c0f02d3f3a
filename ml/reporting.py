"""Where progress, curves, figures and pictures of learning go: one `Reporter`, null by default.

Others (a tracker, an orchestrator) are written above `ml/` to the same protocol and joined by `Reporters`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.errors import needs_package
from ml.poster_sheet import poster_sheet
from ml.scores.metrics import Labels, Probabilities

_LAYOUT = {
    "All runs together": {
        "loss": ["Multiline", ["train/loss", "validation/loss"]],
        "weighted F1": ["Multiline", ["validation/weighted_f1"]],
        "learning rate": ["Multiline", ["learning_rate"]],
    }
}
_PLAIN = (bool, int, float, str, type(None))


class Reporter(Protocol):
    """What learning tells the world."""

    def run(self, name: str, parameters: Mapping[str, object]) -> AbstractContextManager["Reporter"]:
        """A nested run, such as a network or a trial; what is told to the reporter it gives belongs to it."""
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, by name. Runs whose curves have the same names are drawn together."""
        ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        """Posters, uint8 [N, 3, S, S], with a caption each (its lines stay lines) or none at all."""
        ...

    def pr_curves(self, name: str, labels: Labels, probabilities: Probabilities, genres: Sequence[str]) -> None:
        """A precision-recall curve a genre, from labels and probabilities [N, G]."""
        ...

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """What this run was trained with, beside what came of it in the end, by names that no curve of it has."""
        ...

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        """How far the step named `what` is, counted in `unit` ("images"); 0 where it begins, so that the rate is
        right from the first on."""
        ...


class NullReporter:
    """Keeps everything to itself."""

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        yield self

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None: ...

    def pr_curves(self, name: str, labels: Labels, probabilities: Probabilities, genres: Sequence[str]) -> None: ...

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None: ...

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None: ...


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

    def pr_curves(self, name: str, labels: Labels, probabilities: Probabilities, genres: Sequence[str]) -> None:
        for reporter in self._reporters:
            reporter.pr_curves(name, labels, probabilities, genres)

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        for reporter in self._reporters:
            reporter.hparams(parameters, metrics)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        for reporter in self._reporters:
            reporter.progress(done, total, what, unit)


class TensorBoardReporter(NullReporter):
    """Event files for TensorBoard: a nested run is a folder in the folder of the run around it.

    TensorBoard draws curves of one name together, whatever their runs; the tab "Custom Scalars" also has training
    and validation in one chart.
    """

    def __init__(self, folder: Path, outermost: bool = True) -> None:
        with needs_package("TensorBoard's curves"):
            from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder))
        if outermost:
            # TensorBoard would show the charts again for each further run that asks for them.
            self._writer.add_custom_scalars(_LAYOUT)

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        nested = TensorBoardReporter(self._folder / name, outermost=False)
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
        self._writer.add_image(name, poster_sheet(images, captions), dataformats="HWC")

    def pr_curves(self, name: str, labels: Labels, probabilities: Probabilities, genres: Sequence[str]) -> None:
        for column, genre in enumerate(genres):
            self._writer.add_pr_curve(f"{name}/{genre}", labels[:, column], probabilities[:, column])

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        known = {key: value if isinstance(value, _PLAIN) else str(value) for key, value in parameters.items()}
        # `SummaryWriter.add_hparams` would write them to a run of its own. What it writes first, a list of names, is
        # left out: TensorBoard reads that of one run alone, and without it gathers the names of all runs.
        _, start, end = hparams(known, dict(metrics))  # type: ignore[no-untyped-call]
        events: Any = self._writer.file_writer
        for summary in (start, end):
            events.add_summary(summary)
        self.scalars(metrics, 0)

    def close(self) -> None:
        """Write what is not yet written and close the files."""
        self._writer.close()
