"""`monitor` on logs of the function: what it counts, the shift that it finds, and input that it refuses."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flows.cli import main
from infra.settings import environment_variable, read_settings
from infra.store import Store
from ml.evaluation.predictions import ActivationExamples, NetworkPredictions, PredictionSet
from tasks.records import TrainingRecord
from tests.damage import cut
from tests.storage import damage, new_bucket, storage_emulator

pytestmark = pytest.mark.stack

GENRES = ("Action", "Drama", "Sea & Sky")
BUNDLE = "9f86d081" + "a" * 56
Table = NDArray[np.float64]


def predictions(posters: int, seed: int, added: float = 0) -> Table:
    """Probabilities [N, 3]; `added` is added to the logit of Drama."""
    logits = np.random.default_rng(seed).normal([-1, added, -2], size=(posters, 3))
    return 1 / (1 + np.exp(-logits))


def line(rows: Table | None = None, **others: Any) -> dict[str, Any]:
    """The function's line about a request with a poster for each row of probabilities, [N, 3]."""
    found = [] if rows is None else rows.round(2).tolist()
    posters = [
        {"width": 225, "height": 318, "brightness": 0.4, "probabilities": dict(zip(GENRES, each, strict=True))}
        for each in found
    ]
    return {
        "severity": "INFO",
        "message": "POST / 200",
        "request_id": "1",
        "method": "POST",
        "path": "/",
        "status": 200,
        "milliseconds": {"fetch": 1.0, "decode": 2.0, "infer": 7.0, "total": 10.0},
        "model_version": "3",
        "bundle": BUNDLE[:8],
        "posters": len(found),
        "predictions": posters,
        "refusals": {},
        **others,
    }


def write(path: Path, rows: Table) -> Path:
    """A log with a request for each poster."""
    path.write_text("".join(json.dumps(line(rows[number : number + 1])) + "\n" for number in range(len(rows))))
    return path


@pytest.fixture
def monitor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns its exit code and what it printed to stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["monitor", "--workspace", str(tmp_path / "none"), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings of a bucket in which another collection has a training with its predictions for 400 test posters."""
    folder = tmp_path_factory.mktemp("monitor-bucket")
    chosen = NetworkPredictions("chosen", predictions(400, 1).astype(np.float32), np.full(3, 0.5), 0.5)
    other = NetworkPredictions("other", np.zeros((400, 3), np.float32), np.full(3, 0.5), 0.5)
    empty = np.zeros(0, np.int64)
    activations = ActivationExamples(empty, empty, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32))
    record = TrainingRecord(
        run_id="1",
        bundle_sha256=BUNDLE,
        chosen="chosen",
        networks=[],
        answers_key="answers/1.npz",
        device="cpu",
        precision="fp32",
    )
    manifest = {
        "format": 1,
        "genres": [{"id": None, "name": name, "threshold": 0.5} for name in GENRES],
        "preprocessing": {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "squash-bilinear", "version": 1},
        "network": {},
        "dataset_key": "d",
        "files": {"model.onnx": "0" * 64},
    }
    with storage_emulator(folder / "storage", "unused") as url:
        name = new_bucket(url, folder).name
        settings = read_settings("films").model_copy(update={"bucket": name, "storage_emulator_host": url})
        store = Store(settings)
        store.write("answers/1.npz", PredictionSet((chosen, other), activations, ()).to_bytes())
        store.write(f"bundles/{BUNDLE}/manifest.json", json.dumps(manifest).encode())
        store.write("trainings/0.json", b"damaged")
        store.write("trainings/1.json", record.model_dump_json(by_alias=True).encode())
        yield {
            environment_variable("bucket"): store.name,
            environment_variable("storage_emulator_host"): url,
        }


def test_shift_is_found_against_the_models_test_posters_in_the_bucket(
    bucket: dict[str, str],
    monitor: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    code, printed, error = monitor(write(tmp_path / "quiet.log", predictions(300, 2)))
    assert code == 0, error
    assert "Version 3 (9f86d081): 300 different posters against 400 of the test posters" in printed
    assert "No genre shifted" in printed
    code, printed, _ = monitor(write(tmp_path / "shifted.log", predictions(300, 2, added=1)))
    assert code == 1 and "1 genre shifted" in printed
    assert [text.split()[0] for text in printed.splitlines() if text.endswith("  shifted")] == ["Drama"]

    unknown = tmp_path / "unknown.log"
    unknown.write_text(json.dumps(line(predictions(5, 2), bundle="00000000", model_version="9")))
    code, _, error = monitor(unknown)
    assert code == 2 and "has no predictions of version 9 (00000000)." in error
    with unknown.open("a") as file:
        file.write("\n" + (tmp_path / "shifted.log").read_text())
    code, printed, _ = monitor(unknown)
    assert code == 1 and "1 genre shifted" in printed
    assert "\nVersion 9 (00000000) is not compared. The bucket " in printed

    damage(Store(read_settings("films")), "answers/1.npz", cut)
    code, _, error = monitor(tmp_path / "quiet.log")
    assert code == 2 and "answers/1.npz is damaged. Name another --reference." in error


def test_table_has_counts_latency_refusals_and_what_else_the_log_has(
    monitor: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    rows = np.array([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.1, 0.1]])
    refused = {"status": 404, "posters": 1, "refusals": {"no_such_poster": 1}, "milliseconds": {"total": 900}}
    entries = [
        line(rows[:2], posters=4, refusals={"unusable_image": 2}, milliseconds={"total": 30.0}),
        line(rows[2:]),
        line(rows[2:]),  # the same poster again
        line(None, **refused),
        line(None, method="GET", path="/health"),
        {"textPayload": "Starting"},
    ]
    damaged = [json.dumps(line(rows))[:-40], json.dumps(line(rows, milliseconds=None)), json.dumps(line(rows + 1))]
    text = "[2026-11-29 12:00:00] [1] [INFO] Starting gunicorn\n\n" + "\n".join([*map(json.dumps, entries), *damaged])
    (tmp_path / "log").write_text(text)
    code, printed, _ = monitor(tmp_path / "log", "--reference", tmp_path / "log")
    assert code == 0
    assert (
        "Requests:  4 requests with 7 posters; also 1 other request, 2 lines of other kinds, 3 damaged lines\n"
        in printed
    )
    assert "Predicted: 4 posters by version 3 (9f86d081)\n" in printed
    assert "Latency:   p50 10 ms, p95 28 ms, p99 30 ms\n" in printed
    assert "Posters:   median 225 x 318 pixels, median brightness 0.40\n" in printed
    table = [text.rsplit(maxsplit=1) for text in printed.splitlines()]
    for row in (["Action", "3"], ["Drama", "1"], ["unusable_image", "2"], ["no_such_poster", "1"]):
        assert row in table
    assert "All models: 3 different posters against 3 of the predictions in" in printed
    assert "log, which also has 3 damaged lines\n" in printed


@pytest.mark.parametrize("form", ["lines", "export", "export of lines", "gzip", "predict --json"])
def test_all_forms_of_a_log_and_of_a_reference_are_read(
    form: str, monitor: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    rows = predictions(60, 3)
    log, other = write(tmp_path / "log", rows), tmp_path / "other"
    entries = [{"insertId": "a", "jsonPayload": json.loads(text)} for text in log.read_text().splitlines()]
    printed_by_predict = (
        json.dumps(
            {"file": "p.jpg", "genres": [{"name": n, "probability": p} for n, p in zip(GENRES, row, strict=True)]}
        )
        for row in rows.tolist()
    )
    other.write_bytes(
        {
            "lines": log.read_bytes(),
            "export": json.dumps(entries, indent=2).encode(),
            "export of lines": "\n".join(map(json.dumps, entries)).encode(),
            "gzip": gzip.compress(log.read_bytes()),
            "predict --json": "\n".join(printed_by_predict).encode(),
        }[form]
    )
    code, printed, _ = monitor(log, "--reference", other)
    assert code == 0 and "All models: 60 different posters against 60 of the predictions in" in printed
    table = [text.split()[-4:] for text in printed.splitlines() if text.startswith(GENRES)]
    assert [row[1] for row in table if len(row) == 4 and row[3] == "1.0000"] == ["0.00"] * 3
    if form != "predict --json":
        assert monitor(other, "--reference", log)[0] == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "log has no request for a prediction. Name a log of the function."),
        (b"[]", "log has no request for a prediction. Name a log"),
        (b"Starting\n{", "log has no request for a prediction; also 1 line of another kind, 1 damaged line. Name"),
        (b'[{"a": 1}, {', "log is a damaged JSON array. Export it again."),
        (gzip.compress(b"text" * 99, mtime=0)[:-9], "log cannot be read: it is damaged."),
        (b"\x1f\x8bno gzip", "log cannot be read: it is damaged."),
        (None, "log cannot be read: No such file or directory."),
    ],
)
def test_unusable_log_gives_one_sentence(
    content: bytes | None, sentence: str, monitor: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    code, printed, error = monitor(tmp_path / "log")
    assert (code, printed) == (2, "")
    assert sentence in error and "Traceback" not in error


def test_unusable_reference_gives_one_sentence(monitor: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    log, other = write(tmp_path / "log", predictions(5, 4)), tmp_path / "other"
    sentences = {
        "": "has no predictions. Name an earlier log, or the output of `anime-genre predict --json`.",
        '{"genres": [{"name": "Action"}]}': "has damaged predictions. Predict again with one model.",
        '{"genres": [{"name": "Horror", "probability": 0.5}]}': "have no genre in common.",
    }
    for content, sentence in sentences.items():
        other.write_text(content)
        code, _, error = monitor(log, "--reference", other)
        assert code == 2 and sentence in error
    code, _, error = monitor(log)
    assert code == 2 and "There is nothing to compare with: no stack is running." in error
