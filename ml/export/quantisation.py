"""The chosen network in eight bits, which is the one that is served where it answers as well and faster.

Static quantisation after training (Jacob et al. 2018, https://arxiv.org/abs/1712.05877) as ONNX Runtime has it
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html): what convolutions read and give becomes
whole numbers whose range training posters show. What is made of their maps, statistics and a head whose distances are
small differences of large sums, stays in fp32, and so do class activation maps.
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
from ml.errors import MissingPackageError, needs_package
from ml.export.graph import export, load_graph, strip
from ml.reporting import Reporter
from ml.scores.folds import stratified_folds
from ml.scores.metrics import Probabilities, Scores, score
from ml.scores.thresholds import cross_fitted_decisions
from ml.training.bench import Bench
from ml.training.outcome import Exported, NetworkOutcome, TrainingOutcome
from serving.bundle.model import BATCH_SIZE, INPUT, MODEL, MODEL_INT8, Model, Served

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

MOST_LOST = 0.005
"""The weighted F1, and the mAP, that a network may lose in eight bits and still be served."""
LEAST_SPEED_UP = 1.2
"""Times as fast as fp32 that int8 has to be: a smaller difference comes and goes with what else the machine does, and
which network is served is not to be left to that."""
_CALIBRATION_POSTERS = 128
"""Twice as many show no other ranges that matter, measured on real posters."""
_CALIBRATION_BATCH = 16
_OPERATORS = ("Conv", "Relu", "Clip", "MaxPool", "AveragePool", "Add", "Concat")
_JOINING = ("AveragePool", "Add", "Concat")
"""Of these, what a head and the statistics of maps are made of, too."""
_ROUNDS = {1: 21, 16: 5}
"""How often both networks are timed at least, by the number of posters at a time."""
_LEAST_SECONDS = 0.2
"""Of timing, for networks so small that the first rounds tell more about the processor's clock than about them."""
_SUREST = 1e-7


def served_best(outcome: TrainingOutcome, dataset: Dataset, folder: Path, reporter: Reporter) -> TrainingOutcome:
    """Quantise the chosen network, and let it be the chosen one as it is going to be served.

    Int8 is served where, against fp32, it loses at most `MOST_LOST` weighted F1 and mAP on the validation part and is
    `LEAST_SPEED_UP` times as fast on this CPU; probabilities, scores and thresholds of the chosen one are int8's own
    then. The other networks are as they were. Files on the way are in a temporary folder inside `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as beside:
        served = _served(outcome.chosen, outcome.bench, Path(beside), reporter)
    networks = tuple(served if network is outcome.chosen else network for network in outcome.networks)
    return replace(outcome, networks=networks, chosen=served)


def _served(chosen: NetworkOutcome, bench: Bench, folder: Path, reporter: Reporter) -> NetworkOutcome:
    dataset, rows = bench.dataset, chosen.fitted_rows
    known = chosen.predict(rows)  # before the export: it may take the network to another device
    fp32 = export(chosen.network.cpu().eval(), dataset.preprocessing.size)
    try:
        graph = quantised(fp32.graphs[MODEL], _calibration(dataset), folder)
        model = load_graph(folder / "int8", graph, fp32.explains, dataset)
    except MissingPackageError:
        raise
    except Exception as error:  # ONNX Runtime's tools raise anything about graphs that they do not know
        logger.warning("THE NETWORK '%s' COULD NOT BE QUANTISED and is served in fp32: %s", chosen.name, error)
        reason = "This network could not be quantised."
        return replace(chosen, exported=replace(fp32, served=Served(MODEL, "fp32", reason)))
    plain = load_graph(folder / "fp32", fp32.graphs[MODEL], fp32.explains, dataset)
    probabilities = carried_over(chosen.fitted_probabilities, known, _answers(model, dataset, rows))
    before, after = (_scores(each, rows, dataset) for each in (chosen.fitted_probabilities, probabilities))
    changes = [
        after.weighted_f1 - before.weighted_f1,
        after.mean_average_precision - before.mean_average_precision,
    ]
    speed_up = _speed_up(plain, model, dataset.images[dataset.rows(VALIDATION)[: max(_ROUNDS)]])
    good, fast = all(change >= -MOST_LOST for change in changes), speed_up >= LEAST_SPEED_UP
    # Without times, which differ from run to run: the bundle's hash holds this sentence.
    reason = (
        f"With thresholds of other franchises' posters, int8 changes weighted F1 by {changes[0]:+.4f} and mAP by "
        f"{changes[1]:+.4f} against fp32 on the validation part"
        f"{'' if good else f', which is more than the {MOST_LOST} that may be lost,'} and is "
        f"{'clearly' if fast else 'not clearly'} faster on the CPU that it was made on."
    )
    logger.info(
        "%s There int8 is %.2f times as fast; %s is served.", reason, speed_up, "int8" if good and fast else "fp32"
    )
    reporter.scalars(
        {
            "int8/weighted_f1_gained": changes[0],
            "int8/mean_average_precision_gained": changes[1],
            "int8/speed_up": speed_up,
        },
        1,
    )
    if not (good and fast):
        return replace(chosen, exported=replace(fp32, served=Served(MODEL, "fp32", reason)))
    return replace(
        chosen,
        **bench.assess(rows, probabilities),
        predict=lambda asked: _answers(model, dataset, asked),
        exported=Exported({**fp32.graphs, MODEL_INT8: graph}, fp32.explains, Served(MODEL_INT8, "int8", reason)),
    )


def quantised(graph: bytes, posters: Iterable[NDArray[np.uint8]], folder: Path) -> bytes:
    """An exported graph with its convolutions in int8; the same bytes for the same graph and posters.

    Args:
        graph: the fp32 network, from uint8 pixels on.
        posters: batches, uint8 [n, 3, S, S], that show the range of each activation.
        folder: for files on the way, which are left there.

    Raises MissingPackageError where ONNX Runtime's tools are not all there, ValueError for a network without
    convolutions, and what those tools raise about a graph that they cannot quantise.
    """
    with needs_package("Quantising a model"):
        import onnx
        from onnxruntime.quantization import MinMaxCalibrater, QDQQuantizer, QuantType

    # The parts of `quantize_static`, which would leave the folder for the system's and warn through the root logger.
    source = folder / "source.onnx"
    source.write_bytes(graph)
    calibrater = MinMaxCalibrater(source, _OPERATORS, str(folder / "calibrated.onnx"))
    model = onnx.ModelProto()
    model.CopyFrom(calibrater.model)  # with the shapes that it has inferred, and without what it adds now
    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise ValueError("it has no convolutions, and nothing else takes long enough to be quantised")
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(_Batches(posters))
    quantizer = QDQQuantizer(
        model,
        # A scale an output channel: with one for all, mAP fell by more than may be lost on real posters.
        per_channel=True,
        # Weights of seven bits. Without VNNI instructions an x86 CPU adds two products in 16 bits, which eight would
        # overflow: the network would answer otherwise where it is served than where it was scored.
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
    """Batches as ONNX Runtime's calibration reads them."""

    def __init__(self, posters: Iterable[NDArray[np.uint8]]) -> None:
        self._posters = iter(posters)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._posters, None)
        return None if batch is None else {INPUT: batch}


def _after_convolutions(graph: "onnx.GraphProto") -> list[str]:
    """The names of nodes that join tensors of which no convolution is made any more."""
    leads: set[str] = set()
    names = []
    for node in reversed(graph.node):
        before = not leads.isdisjoint(node.output)
        if before or node.op_type == "Conv":
            leads.update(node.input)
        if not before and node.op_type in _JOINING:
            names.append(node.name)
    return names


def carried_over(out_of_fold: Probabilities, fp32: Probabilities, int8: Probabilities) -> Probabilities:
    """What quantisation changed about some posters' logits, added to what is known about them without having learned
    from them; all are probabilities, float32 [N, G].

    A network that has learned from these posters is too sure of them in int8 as well, which would flatter it. One that
    has not gives the same in `out_of_fold` and `fp32`, and what comes out is int8's own.
    """
    logits = _logits(out_of_fold) + _logits(int8) - _logits(fp32)
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def _logits(probabilities: Probabilities) -> NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), _SUREST, 1 - _SUREST)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


def _calibration(dataset: Dataset) -> Iterable[NDArray[np.uint8]]:
    """Training posters, evenly from all of them, in batches."""
    training = dataset.rows(TRAIN)
    chosen = training[np.linspace(0, len(training) - 1, min(_CALIBRATION_POSTERS, len(training))).astype(int)]
    return (dataset.images[chosen[at : at + _CALIBRATION_BATCH]] for at in range(0, len(chosen), _CALIBRATION_BATCH))


def _answers(model: Model, dataset: Dataset, rows: NDArray[np.int64]) -> Probabilities:
    """Probabilities, float32 [len(rows), G], read a batch at a time."""
    batches = (dataset.images[rows[at : at + BATCH_SIZE]] for at in range(0, len(rows), BATCH_SIZE))
    return np.concatenate([model.probabilities(batch) for batch in batches])


def _scores(probabilities: Probabilities, rows: NDArray[np.int64], dataset: Dataset) -> Scores:
    """Scores on the validation part of probabilities of these rows, thresholds cross-fitted over all of them.

    With thresholds of fewer posters than the network is going to have, what is lost would be mostly chance: noise of
    0.025 in the logits of a thousand posters costs 0.004 +- 0.004 weighted F1 with those of the validation part alone,
    and 0.001 +- 0.003 with those of training and validation.
    """
    labels, franchises = dataset.labels[rows], dataset.franchises[rows]
    decisions = cross_fitted_decisions(probabilities, labels, stratified_folds(franchises, labels))
    inside = np.isin(rows, dataset.rows(VALIDATION))
    return score(probabilities[inside], decisions[inside], labels[inside], dataset.genre_names)


def _speed_up(fp32: Model, int8: Model, images: NDArray[np.uint8]) -> float:
    """How many times as fast int8 answers, with a poster at a time or several, whichever is less."""
    return min(_ratio(fp32, int8, images[:count], rounds) for count, rounds in _ROUNDS.items())


def _ratio(slow: Model, fast: Model, images: NDArray[np.uint8], rounds: int) -> float:
    """How the shortest times of many turns compare: what else a machine does only ever adds to them."""
    of_slow: list[float] = []
    of_fast: list[float] = []
    begin = time.perf_counter()
    while len(of_fast) < rounds or time.perf_counter() - begin < _LEAST_SECONDS:
        start = time.perf_counter()
        slow.probabilities(images)
        between = time.perf_counter()
        fast.probabilities(images)
        of_slow.append(between - start)
        of_fast.append(time.perf_counter() - between)
    return min(of_slow) / min(of_fast)
