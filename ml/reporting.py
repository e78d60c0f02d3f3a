"""Reports progress, curves, figures and pictures of training through one protocol, `Reporter`.

Reporters for a tracker or an orchestrator are written above `ml/` and combined with `Reporters`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ml.poster_sheet import poster_sheet

if TYPE_CHECKING:  # scikit-learn takes a second to import
    from ml.scores.metrics import Labels, Probabilities

_LAYOUT = {
    "All runs together": {
        "loss": ["Multiline", ["train/loss", "selection/loss", "validation/loss"]],
        "weighted F1": ["Multiline", ["selection/weighted_f1", "validation/weighted_f1"]],
        "learning rate": ["Multiline", ["learning_rate"]],
    }
}
_PLAIN = (bool, int, float, str, type(None))


class Reporter(Protocol):
    """Receives what a training reports."""

    def run(self, name: str, parameters: Mapping[str, object]) -> AbstractContextManager["Reporter"]:
        """Start a nested run, such as a network or a trial, and return its reporter.

        A second call with the same name and without parameters continues the run.
        """
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each named curve. Curves with the same name in several runs are drawn together."""
        ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        """Show posters, uint8 [N, 3, S, S], with one caption each (line breaks are kept) or without captions."""
        ...

    def pr_curves(self, name: str, labels: "Labels", probabilities: "Probabilities", genres: Sequence[str]) -> None:
        """Show one precision-recall curve per genre, from labels and probabilities [N, G]."""
        ...

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """Record this run's hyperparameters with its final metrics. No curve may have a metric's name."""
        ...

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        """Report the progress of the step `what`, counted in `unit` ("images").

        A step should report 0 when it starts, so that its rate is right from the beginning.
        """
        ...


class NullReporter:
    """Ignores everything."""

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        yield self

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None: ...

    def pr_curves(self, name: str, labels: "Labels", probabilities: "Probabilities", genres: Sequence[str]) -> None: ...

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None: ...

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None: ...


class Reporters:
    """Passes everything on to several reporters."""

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

    def pr_curves(self, name: str, labels: "Labels", probabilities: "Probabilities", genres: Sequence[str]) -> None:
        for reporter in self._reporters:
            reporter.pr_curves(name, labels, probabilities, genres)

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        for reporter in self._reporters:
            reporter.hparams(parameters, metrics)

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        for reporter in self._reporters:
            reporter.progress(done, total, what, unit)


class TensorBoardReporter(NullReporter):
    """Writes event files for TensorBoard. The folder of a nested run is inside the folder of its parent.

    TensorBoard draws curves with the same name together, for all runs. Its tab "Custom Scalars" also shows the curves
    of the training and validation parts in one chart.
    """

    def __init__(self, folder: Path, outermost: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._writer = SummaryWriter(str(folder))
        if outermost:
            # TensorBoard would repeat the charts for every other run that defines them.
            self._writer.add_custom_scalars(_LAYOUT)

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object]) -> Iterator[Reporter]:
        with closing(TensorBoardReporter(self._folder / name, outermost=False)) as nested:
            if parameters:
                table = "\n".join(f"| {key} | {value} |" for key, value in parameters.items())
                nested._writer.add_text("parameters", f"| parameter | value |\n| --- | --- |\n{table}")
            yield nested

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, name: str, images: NDArray[np.uint8], captions: Sequence[str] = ()) -> None:
        self._writer.add_image(name, poster_sheet(images, captions), dataformats="HWC")

    def pr_curves(self, name: str, labels: "Labels", probabilities: "Probabilities", genres: Sequence[str]) -> None:
        for column, genre in enumerate(genres):
            self._writer.add_pr_curve(f"{name}/{genre}", labels[:, column], probabilities[:, column])

    def hparams(self, parameters: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        known = {key: value if isinstance(value, _PLAIN) else str(value) for key, value in parameters.items()}
        # `SummaryWriter.add_hparams` would write them to a separate run. Its first summary, a list of names, is
        # omitted: TensorBoard reads this list from one run only, and collects the names of all runs without it.
        _, start, end = hparams(known, dict(metrics))  # type: ignore[no-untyped-call]
        events: Any = self._writer.file_writer
        for summary in (start, end):
            events.add_summary(summary)
        self.scalars(metrics, 0)

    def close(self) -> None:
        """Flush and close the event files."""
        self._writer.close()
