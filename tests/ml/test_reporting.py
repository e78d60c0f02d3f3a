from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ml.reporting import NullReporter, Reporters, TensorBoardReporter


def test_tensorboard_gets_curves_pictures_and_parameters_of_nested_runs(tmp_path: Path) -> None:
    board = TensorBoardReporter(tmp_path)
    board.images("posters", np.zeros((2, 3, 8, 8), np.uint8), ["Cowboy Bebop", "Trigun"])
    with Reporters(board, NullReporter()).run("scratch", {"seed": 3}) as network, network.run("trial-1", {}) as trial:
        trial.scalars({"loss/training": 0.5}, 1)
        trial.scalars({"loss/training": 0.25}, 2)
    board.close()
    top = _events(tmp_path).Tags()
    assert top["images"] == ["posters"]
    assert "posters/text_summary" in top["tensors"]
    points = _events(tmp_path / "scratch" / "trial-1").Scalars("loss/training")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.25)]
    assert "parameters/text_summary" in _events(tmp_path / "scratch").Tags()["tensors"]


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events
