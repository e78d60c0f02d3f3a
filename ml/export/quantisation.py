"""Quantises the chosen network to int8, and serves the int8 network if it is as good and clearly faster.

Static quantisation after training (Jacob et al. 2018, https://arxiv.org/abs/1712.05877) with ONNX Runtime's tools
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Inputs and outputs of convolutions
become integers, whose ranges are calibrated on training posters. The layers after the last convolution stay in fp32:
statistics of feature maps, class activation maps, and heads whose distances are small differences of large sums.
"""

import logging
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml.data.dataset import Dataset
from ml.data.splits import TRAIN, VALIDATION
from ml.export.graph import export, load_graph, strip
from ml.reporting import Reporter
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Probabilities, Scores, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import Bench
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import BATCH_SIZE, INPUT, MODEL, MODEL_INT8, Model, Served

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

MAX_LOSS = 0.005
"""The largest loss of weighted F1, and of mAP, with which the int8 network is still served."""
MIN_SPEED_UP = 1.2
"""The smallest speed-up over fp32 with which the int8 network is served. Smaller speed-ups vary with the load of the
machine, and the load must not decide which network is served."""
_CALIBRATION_POSTERS = 128
"""Measured on real posters: twice as many do not change the ranges noticeably."""
_CALIBRATION_BATCH = 16
_OPERATORS = ("Conv", "Relu", "Clip", "MaxPool", "AveragePool", "Add", "Concat")
_JOINING = ("AveragePool", "Add", "Concat")
"""The operators among them that heads and statistics of feature maps use, too."""
_ROUNDS = {1: 21, 16: 5}
"""The minimum number of timed rounds, by the number of posters per batch."""
_MIN_TIMED_SECONDS = 0.2
"""The minimum duration of timing. The first rounds of a small network mostly measure the rising clock rate."""
_MIN_PROBABILITY = 1e-7


def choose_precision(outcome: TrainingOutcome, folder: Path, reporter: Reporter) -> TrainingOutcome:
    """Quantise the chosen network and decide whether it is served in int8 or fp32.

    Int8 is served if it loses at most `MAX_LOSS` weighted F1 and mAP on the validation part and is at least
    `MIN_SPEED_UP` times as fast as fp32 on this CPU. The chosen network's probabilities, scores and thresholds are then
    those of int8. The other networks stay unchanged. Temporary files are in a folder inside `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as temporary:
        served = _served(outcome.chosen, outcome.bench, Path(temporary), reporter)
    networks = tuple(served if network is outcome.chosen else network for network in outcome.networks)
    return replace(outcome, networks=networks, chosen=served)


def _served(chosen: NetworkOutcome, bench: Bench, folder: Path, reporter: Reporter) -> NetworkOutcome:
    dataset, rows = bench.dataset, chosen.fitted_rows
    trained_on = chosen.predict(rows)  # before the export, because it may move the network to another device
    fp32 = export(chosen.network.cpu().eval(), dataset.preprocessing.size)
    try:
        graph = quantise(fp32.graphs[MODEL], _calibration(dataset), folder)
        int8_model = load_graph(folder / "int8", graph, fp32.explains, dataset)
    except ImportError:  # of a part of these tools: that is not the graph's fault
        raise
    except Exception as error:  # ONNX Runtime's tools raise exceptions of any type for graphs that they cannot handle
        logger.warning("THE NETWORK '%s' COULD NOT BE QUANTISED and is served in fp32: %s", chosen.name, error)
        reason = "This network could not be quantised."
        return replace(chosen, exported=replace(fp32, served=Served(MODEL, "fp32", reason)))
    fp32_model = load_graph(folder / "fp32", fp32.graphs[MODEL], fp32.explains, dataset)
    int8 = _predict(int8_model, dataset, rows)
    probabilities = apply_change(chosen.fitted_probabilities, trained_on, int8)
    before, after = (_scores(each, rows, dataset) for each in (chosen.fitted_probabilities, probabilities))
    changes = [
        after.weighted_f1 - before.weighted_f1,
        after.mean_average_precision - before.mean_average_precision,
    ]
    speed_up = _speed_up(fp32_model, int8_model, dataset.images[dataset.rows(VALIDATION)[: max(_ROUNDS)]])
    accurate, fast = all(change >= -MAX_LOSS for change in changes), speed_up >= MIN_SPEED_UP
    # The manifest holds this sentence, and the bundle's hash covers it: it must not contain times, which differ from
    # run to run, and another wording would give the same training another hash.
    reason = (
        f"With thresholds of other franchises' posters, int8 changes weighted F1 by {changes[0]:+.4f} and mAP by "
        f"{changes[1]:+.4f} against fp32 on the validation part"
        f"{'' if accurate else f', which is more than the {MAX_LOSS} that may be lost,'} and is "
        f"{'clearly' if fast else 'not clearly'} faster on the CPU that it was made on."
    )
    serve_int8 = accurate and fast
    logger.info("%s Speed-up: %.2f. Served in %s.", reason, speed_up, "int8" if serve_int8 else "fp32")
    reporter.scalars(
        {
            f"{VALIDATION}/int8_weighted_f1_change": changes[0],
            f"{VALIDATION}/int8_mean_average_precision_change": changes[1],
            "int8_speed_up": speed_up,
        },
        1,
    )
    if not serve_int8:
        return replace(chosen, exported=replace(fp32, served=Served(MODEL, "fp32", reason)))
    places = np.searchsorted(rows, bench.validation)
    return replace(
        chosen,
        **bench.assess(
            apply_change(chosen.validation_probabilities, trained_on[places], int8[places]), rows, probabilities
        ),
        predict=lambda wanted: _predict(int8_model, dataset, wanted),
        exported=replace(fp32, graphs={**fp32.graphs, MODEL_INT8: graph}, served=Served(MODEL_INT8, "int8", reason)),
    )


def quantise(graph: bytes, posters: Iterable[NDArray[np.uint8]], folder: Path) -> bytes:
    """Quantise the convolutions of an exported graph to int8; the same graph and posters give the same bytes.

    Args:
        graph: the fp32 network, from uint8 pixels.
        posters: batches, uint8 [n, 3, S, S], that calibrate the range of each activation.
        folder: for temporary files, which are left there.

    Raises:
        ImportError: a part of ONNX Runtime's tools is missing.
        ValueError: the network has no convolutions.
        Exception: of any type, raised by those tools if they cannot quantise the graph.
    """
    import onnx
    from onnxruntime.quantization import MinMaxCalibrater, QDQQuantizer, QuantType

    # The parts of `quantize_static`, which would write to the system's temporary folder and warn on the root logger.
    source = folder / "source.onnx"
    source.write_bytes(graph)
    calibrater = MinMaxCalibrater(source, _OPERATORS, str(folder / "calibrated.onnx"))
    model = onnx.ModelProto()
    model.CopyFrom(calibrater.model)  # with inferred shapes, before it is augmented
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise ValueError("it has no convolutions, and only convolutions are slow enough to be worth quantising")
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(_Batches(posters))
    quantizer = QDQQuantizer(
        model,
        # One scale per output channel. With a single scale, mAP dropped by more than `MAX_LOSS` on real posters.
        per_channel=True,
        # Weights of seven bits. An x86 CPU without VNNI instructions adds two products in 16 bits, which weights of
        # eight bits would overflow. Predictions would then differ between the machines that score and serve.
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=calibrater.compute_data(),
        nodes_to_quantize=[],
        nodes_to_exclude=_after_convolutions(model.graph),
        op_types_to_quantize=_OPERATORS,
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    small: onnx.ModelProto = quantizer.model.model
    strip(small)
    onnx.checker.check_model(small)
    data: bytes = small.SerializeToString(deterministic=True)
    return data


class _Batches:
    """Batches in the form that ONNX Runtime's calibration reads."""

    def __init__(self, posters: Iterable[NDArray[np.uint8]]) -> None:
        self._posters = iter(posters)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._posters, None)
        return None if batch is None else {INPUT: batch}


def _after_convolutions(graph: "onnx.GraphProto") -> list[str]:
    """The names of joining nodes whose results reach no further convolution."""
    before_convolutions: set[str] = set()
    names = []
    for node in reversed(graph.node):
        leads = not before_convolutions.isdisjoint(node.output)
        if leads or node.op_type == "Conv":
            before_convolutions.update(node.input)
        if not leads and node.op_type in _JOINING:
            names.append(node.name)
    return names


def apply_change(out_of_fold: Probabilities, fp32: Probabilities, int8: Probabilities) -> Probabilities:
    """Add the change of logits from `fp32` to `int8` to out-of-fold probabilities. All are float32 [N, G].

    A network that was trained on these posters is overconfident about them, in int8 as in fp32, so its int8
    probabilities cannot replace those of networks that were not. For a network that was not trained on them,
    `out_of_fold` equals `fp32`, and the result equals `int8`.
    """
    logits = _logits(out_of_fold) + _logits(int8) - _logits(fp32)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def _logits(probabilities: Probabilities) -> NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


def _calibration(dataset: Dataset) -> Iterable[NDArray[np.uint8]]:
    """Batches of training posters, evenly spaced over the training part."""
    training = dataset.rows(TRAIN)
    chosen = training[np.linspace(0, len(training) - 1, min(_CALIBRATION_POSTERS, len(training))).astype(int)]
    return (dataset.images[chosen[at : at + _CALIBRATION_BATCH]] for at in range(0, len(chosen), _CALIBRATION_BATCH))


def _predict(model: Model, dataset: Dataset, rows: NDArray[np.int64]) -> Probabilities:
    """Probabilities, float32 [len(rows), G], computed batch by batch."""
    batches = (dataset.images[rows[at : at + BATCH_SIZE]] for at in range(0, len(rows), BATCH_SIZE))
    return np.concatenate([model.probabilities(batch) for batch in batches])


def _scores(probabilities: Probabilities, rows: NDArray[np.int64], dataset: Dataset) -> Scores:
    """Scores on the validation part, with thresholds cross-fitted over all given rows.

    With thresholds from the validation part alone, the measured loss would mostly be chance: noise of 0.025 in the
    logits of a thousand posters costs 0.004 +- 0.004 weighted F1. With thresholds from the training and validation
    parts it costs 0.001 +- 0.003.
    """
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    decisions = cross_fitted_decisions(probabilities, labels, stratified_folds(franchises, labels))
    inside = np.isin(rows, dataset.rows(VALIDATION))
    return score(probabilities[inside], decisions[inside], labels[inside], dataset.genre_names)


def _speed_up(fp32: Model, int8: Model, images: NDArray[np.uint8]) -> float:
    """How many times as fast int8 is, for one poster or a batch, whichever is less."""
    return min(_ratio(fp32, int8, images[:count], rounds) for count, rounds in _ROUNDS.items())


def _ratio(slow: Model, fast: Model, images: NDArray[np.uint8], rounds: int) -> float:
    """The ratio of the shortest times. Other work on the machine can only make a round longer."""
    slow_seconds: list[float] = []
    fast_seconds: list[float] = []
    begin = time.perf_counter()
    while len(fast_seconds) < rounds or time.perf_counter() - begin < _MIN_TIMED_SECONDS:
        start = time.perf_counter()
        slow.probabilities(images)
        between = time.perf_counter()
        fast.probabilities(images)
        slow_seconds.append(between - start)
        fast_seconds.append(time.perf_counter() - between)
    return min(slow_seconds) / min(fast_seconds)
