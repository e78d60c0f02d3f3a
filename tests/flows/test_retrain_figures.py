"""The figures of one training are equal in every place that shows them."""

import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from prefect.artifacts import Artifact
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows import demo
from flows import summary as summaries
from flows.parameters import RetrainParameters
from flows.summary import RunSummary, run_retrain, show, show_predictions
from infra.errors import NotFound
from infra.local.stack import Stack
from infra.settings import read_settings
from infra.store import Store

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def summary(stack: Stack, parameters: RetrainParameters) -> RunSummary:
    """A run of the flow. After test_retrain.py on the same stack, it reuses the training."""
    return run_retrain(parameters)


def test_retrain_that_leaves_nothing_live_says_so_and_only_the_demo_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SimpleNamespace(catalogue=SimpleNamespace(collection="films"), model=SimpleNamespace(version="7"))
    ended: Any = SimpleNamespace(record=record, message="champion kept")
    monkeypatch.setattr(summaries, "CloudRun", lambda settings: SimpleNamespace(live=lambda: None))
    console = Console(file=StringIO(), width=200)
    assert show_predictions(ended, console) == []
    assert "No model is live. Run again with --promote always." in console.file.getvalue()
    monkeypatch.setattr(demo, "run_retrain", lambda parameters: ended)
    monkeypatch.setattr(demo, "show", lambda *_: None)
    with pytest.raises(NotFound, match="anime-genre promote 7 --collection built-in"):
        demo.run_demo(tmp_path, "http://127.0.0.1:9")


def test_figures_are_equal_everywhere(summary: RunSummary) -> None:
    """MLflow's run, nested runs and registered version, TensorBoard, report, model card, summary and artifacts."""
    record, settings, client = summary.record, read_settings(), MlflowClient()
    training, run = record.training, client.get_run(record.training.run_id)
    parent = f"tags.`mlflow.parentRunId` = '{training.run_id}'"
    nested = {each.info.run_name: each.data.metrics for each in client.search_runs([run.info.experiment_id], parent)}
    tags = client.get_model_version(settings.model_name, record.model.version).tags
    (tensorboard,) = (settings.workspace / "tensorboard").glob(f"*_{training.run_id[:6]}")
    report = Path(client.download_artifacts(training.run_id, "model.html")).read_text().replace("<wbr>", "")
    console = Console(file=StringIO(), width=200)
    show(summary, console)
    text = console.file.getvalue()
    card = Store(settings).read(f"bundles/{training.bundle_sha256}/card.md").decode()
    shown = {key: str(Artifact.get(key).data) for key in ("4-training", "5-evaluation")}

    for network in training.networks:
        for metric in ("weighted_f1", "mean_average_precision"):
            name, value = f"validation/{metric}", getattr(network, metric)
            assert nested[network.name][name] == value
            assert last_scalar(tensorboard / network.name, name) == pytest.approx(value, abs=1e-6)
            for place in (card, text, shown["4-training"]):
                assert column(place, name)[network.name] == f"{value:.3f}"
            if network.name == training.chosen:
                assert run.data.metrics[name] == value
                assert last_scalar(tensorboard, name) == pytest.approx(value, abs=1e-6)
    for score in record.evaluation.scores:
        for metric in ("weighted_f1", "macro_f1", "micro_f1", "mean_average_precision"):
            name, value = f"test/{metric}", getattr(score, metric)
            assert column(text, name)[score.name] == column(shown["5-evaluation"], name)[score.name] == f"{value:.3f}"
            assert column(report_table(report), name)[score.name] == f"{value:.3f}"
            if score.name == training.chosen:
                assert run.data.metrics[name] == value
                assert tags[name] == f"{value:.4f}"


def column(text: str, name: str) -> dict[str, str]:
    """The cells of a column of a text table, by the first cell of their row."""
    rows = [[cell.strip() for cell in re.split("[|│┃]", line)[1:-1]] for line in text.splitlines()]
    head = next(place for place, row in enumerate(rows) if name in row)
    place, cells = rows[head].index(name), {}
    for row in rows[head + 1 :]:
        if len(row) == len(rows[head]):
            cells.setdefault(row[0].removesuffix(" (chosen)"), row[place])
    return cells


def report_table(page: str) -> str:
    """The table of models of the report as a text table, without intervals."""
    table = page[page.index('<section id="models">') :]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table[: table.index("</section>")], re.DOTALL)
    cells = (
        [re.sub(r"<small>.*?</small>|<[^>]+>", "", cell) for cell in re.split("</t[hd]>", row)[:-1]] for row in rows
    )
    return "\n".join(f"| {' | '.join(cell.strip() for cell in row)} |" for row in cells)


def last_scalar(folder: Path, name: str) -> float:
    """The last value of a curve in a TensorBoard folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return events.Scalars(name)[-1].value
