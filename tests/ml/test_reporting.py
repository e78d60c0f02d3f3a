import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.pr_curve import metadata as pr_curve

from ml.reporting import NullReporter, Reporter, Reporters, TensorBoardReporter

pytestmark = pytest.mark.train

GENRES = ("Action", "Sci-Fi")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The folder of a training with two networks of two trials each. Final figures are added to ended runs."""
    generator = np.random.default_rng(0)
    labels = (generator.random((40, 2)) < 0.4).astype(np.uint8)
    probabilities = generator.random((40, 2)).astype(np.float32)
    tensorboard = TensorBoardReporter(tmp_path)
    reporter = Reporters(tensorboard, NullReporter())
    reporter.images("posters", np.zeros((2, 3, 8, 8), np.uint8), ["Cowboy Bebop", "Trigun\nAction 0.9"])
    for network in ("scratch", "frozen"):
        with reporter.run(network, {"seed": 3}) as network_reporter:
            for trial in ("trial-1", "trial-2"):
                with network_reporter.run(trial, {"learning_rate": 0.1}) as trial_reporter:
                    _train(trial_reporter)
    for network in ("scratch", "frozen"):
        with reporter.run(network, {}) as network_reporter:
            network_reporter.pr_curves("validation", labels, probabilities, GENRES)
            network_reporter.scalars({"validation/f1/Action": 0.4, "validation/f1/Sci-Fi": 0.2}, 3)
    tensorboard.close()
    return tmp_path


def _train(trial: Reporter) -> None:
    for epoch in (1, 2, 3):
        trial.scalars({"train/loss": 1 / epoch, "validation/loss": 2 / epoch, "learning_rate": 0.1}, epoch)
    trial.hparams(
        {"learning_rate": 0.1, "hidden": 0, "weights": None, "folds": (1, 2)}, {"selection/best_weighted_f1": 0.5}
    )


def test_tensorboard_reporter_writes_curves_and_parameters_of_nested_runs(board: Path) -> None:
    points = _events(board / "scratch" / "trial-1").Scalars("train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert "parameters/text_summary" in _events(board / "scratch").Tags()["tensors"]


def test_tensorboard_reporter_continues_a_run_without_another_folder(board: Path) -> None:
    runs = {network + trial for network in ("scratch", "frozen") for trial in ("", "/trial-1", "/trial-2")}
    assert set(_runs(board)) == {".", *runs}
    assert _runs(board)["frozen"]["scalars"] == ["validation/f1/Action", "validation/f1/Sci-Fi"]
    assert _events(board / "frozen").Scalars("validation/f1/Sci-Fi")[0].value == pytest.approx(0.2)
    for genre in GENRES:
        content = _events(board / "scratch").SummaryMetadata(f"validation/{genre}").plugin_data
        assert content.plugin_name == pr_curve.PLUGIN_NAME


def test_tensorboard_reporter_defines_the_charts_once(board: Path) -> None:
    layouts = [run for run, tags in _runs(board).items() if "custom_scalars__config__" in tags["tensors"]]
    assert layouts == ["."]
    event = _events(board).Tensors("custom_scalars__config__")[0]
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["loss"] == ["train/loss", "selection/loss", "validation/loss"]


def test_tensorboard_reporter_shows_posters_with_captions_as_one_picture(board: Path) -> None:
    events = _events(board)
    assert events.Tags()["images"] == ["posters"]
    with Image.open(io.BytesIO(events.Images("posters")[0].encoded_image_string)) as sheet:
        assert sheet.width > 2 * 160
        assert sheet.height > 240 + 2 * 13


def test_tensorboard_reporter_records_hyperparameters_in_the_run_of_the_trial(board: Path) -> None:
    events = _events(board / "scratch" / "trial-2")
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["learning_rate"].number_value == 0.1
    assert start.hparams["folds"].string_value == "(1, 2)"
    assert events.Scalars("selection/best_weighted_f1")[0].value == 0.5


def _runs(folder: Path) -> dict[str, dict[str, list[str]]]:
    return dict(EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload().Runs())


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events
