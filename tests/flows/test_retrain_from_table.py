"""Public-style tables, from the command `retrain --catalogue` to predictions of the deployed function."""

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from flows.cli import main
from infra.cloud_run import CloudRun
from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import InventedTitle, invented_titles
from infra.local.site.pages import poster_path
from infra.local.stack import Stack
from infra.settings import read_settings
from infra.store import Store
from tests.faults import Fault, fault_proxy
from tests.flows.conftest import TITLES
from tests.up import RUN_SECONDS

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("--image-size", "32", "--min-posters", "15", "--min-posters-per-part", "1", "--promote", "always"),
    *("--candidates", "scratch", "--backbone", "squeezenet1_1", "--weights", "none", "--trials", "1", "--epochs", "1"),
]


def run_command(table: Path, *options: str) -> int:
    """The exit code of the command, run in a new workspace beside the table."""
    workspace = ["--workspace", str(table.parent / "workspace")]
    # The command's process has no Prefect before its run; this one has.
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        return main(["retrain", *workspace, "--catalogue", str(table), *options, *OPTIONS])


def retrain_from(table: Path, *options: str) -> dict[str, Any]:
    """The records of a run of the command."""
    assert run_command(table, *options) == 0
    record: dict[str, Any] = json.loads((table.parent / "workspace" / "summary.json").read_text())["record"]
    return record


def check_rows(record: dict[str, Any], rows: int, left_out: dict[str, int], store: Store) -> None:
    """Each row of the table is a poster of the dataset, or is counted with a reason."""
    catalogue, dataset = record["catalogue"], record["dataset"]
    key = f"catalogues/{catalogue['sha256']}-left-out.csv"
    listed = pd.read_csv(io.BytesIO(store.read(key)), dtype=str) if store.exists(key) else pd.DataFrame({"reason": []})
    assert listed["reason"].value_counts().to_dict() == left_out
    assert catalogue["titles"] == rows - len(listed)
    assert record["posters"]["posters"] + sum(record["posters"]["without"].values()) == catalogue["titles"]
    titles = pd.read_csv(io.BytesIO(store.read(catalogue["key"])), dtype=str, keep_default_na=False)
    posters = pd.DataFrame(json.loads(store.read(record["posters"]["key"])))
    usable = titles[titles["mal_id"].isin(posters.loc[posters["status"] == "present", "mal_id"].astype(str))]
    suspects = json.loads(store.read(f"datasets/{dataset['dataset_key']}/manifest.json"))["suspects"]
    assert dataset["posters"] + suspects == (usable["genres"] != "").sum()


def write_csv(path: Path, rows: list[dict[str, object]], **options: Any) -> Path:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def names(title: InventedTitle) -> list[str]:
    return [genre.name for genre in title.genres]


def with_image_url(title: InventedTitle) -> dict[str, object]:
    """A row in the style of public MyAnimeList tables: a list literal, `UNKNOWN` as filler, no host in addresses."""
    return {
        "anime_id": title.mal_id,
        "Name": title.title,
        "Score": title.score or "UNKNOWN",
        "Genres": str(names(title)) if title.genres else "UNKNOWN",
        "Rating": title.rating or "UNKNOWN",
        "Image URL": poster_path(title),
    }


def test_table_with_image_addresses_becomes_an_answering_function(
    stack: Stack, site_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = invented_titles(TITLES)
    rows = [with_image_url(title) for title in titles]
    record = retrain_from(write_csv(tmp_path / "Anime Dataset 2026.csv", [*rows, rows[0]]), "--image-base", site_url)
    collection = "anime-dataset-2026"
    assert record["catalogue"]["collection"] == collection
    settings = read_settings(collection)
    check_rows(record, len(rows) + 1, {"identical to an earlier row": 1}, Store(settings))
    explicit = sum("Hentai" in names(title) or (title.rating or "").startswith("Rx") for title in titles)
    assert explicit and record["posters"]["without"]["explicit"] == explicit
    assert f"{len(rows) - explicit} posters without a file will be downloaded" in capsys.readouterr().out
    assert "Hentai" not in record["dataset"]["genres"]
    live = CloudRun(settings).live()
    assert settings.service == f"anime-genre-{collection}"
    assert live and live.environment["COLLECTION"] == collection and live.url == record["deployment"]["url"]


def write_films(folder: Path, titles: list[InventedTitle]) -> None:
    (folder / "Images").mkdir()
    for title in titles:
        (folder / "Images" / f"tt{title.mal_id:07}.jpg").write_bytes(poster_jpeg(title))


def with_file(title: InventedTitle) -> dict[str, object]:
    """A row with Windows paths, and genres between slashes."""
    return {
        "filename": rf"D:\films\Images\tt{title.mal_id:07}.JPG",
        "listed_in": "/".join(names(title)) or "N/A",
        "film": title.title.encode("cp1252", "ignore").decode("cp1252") + " (Café)",
    }


def test_table_of_films_becomes_an_answering_function_and_no_password_is_written(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    titles = [title for title in invented_titles(TITLES // 2) if not any(name == "Hentai" for name in names(title))]
    write_films(tmp_path, titles[:-1])
    first = tmp_path / "Images" / f"tt{titles[0].mal_id:07}"
    Image.open(first.with_suffix(".jpg")).save(first.with_suffix(".bmp"))
    first.with_suffix(".jpg").unlink()
    (tmp_path / "Images" / f"tt{titles[1].mal_id:07}.jpg").write_bytes(b"\xff\xd8 cut")
    rows = [with_file(title) for title in titles]
    table = write_csv(tmp_path / "films.csv", rows, delimiter=";", encoding="cp1252")
    options = ["--catalogue", str(table), "--posters", str(tmp_path / "Images")]
    printed = retrain_with_passwords(stack, [*options, *OPTIONS], tmp_path)
    assert "is live" in printed and "failed temporarily" in printed
    assert "The run succeeded, but the ping to ANIME_GENRE_PING_URL failed (ConnectionError)." in printed
    record = json.loads((Path(stack.environment["ANIME_GENRE_WORKSPACE"]) / "summary.json").read_text())["record"]
    settings = read_settings("films")
    store = Store(settings)
    check_rows(record, len(titles), {}, store)
    assert record["posters"]["without"] == {"no_address": 1, "broken": 1}
    assert store.read(f"posters/tt{titles[0].mal_id:07}.jpg").startswith(b"\x89PNG")
    assert CloudRun(settings).live()

    monkeypatch.setenv("ANIME_GENRE_SERVICE", settings.service)
    assert run_command(table, *options[2:], "--collection", "others") == 1
    assert "Set ANIME_GENRE_SERVICE to another name, or unset it." in capsys.readouterr().err
    assert Store(read_settings("others")).keys("") == [], "refused before the table was uploaded"


def retrain_with_passwords(stack: Stack, options: list[str], folder: Path) -> str:
    """What the command prints with passwords in its services' addresses, after a check that none is written."""
    workspace, passwords = stack.environment["ANIME_GENRE_WORKSPACE"], ("in-mlflow-1x", "in-prefect-2x", "elsewhere-3x")
    with fault_proxy(stack.environment["MLFLOW_TRACKING_URI"], Fault("model-versions/create", 1.5)) as mlflow:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": mlflow.url.replace("://", f"://owner:{passwords[0]}@"),
            "PREFECT_API_URL": stack.environment["PREFECT_API_URL"].replace("://", f"://owner:{passwords[1]}@"),
            "MAL_CLIENT_ID": passwords[2],
            "HTTPS_PROXY": f"http://owner:{passwords[2]}@127.0.0.1:9",
            "ANIME_GENRE_NOTIFY_URL": f"http://127.0.0.1:9/{passwords[2]}",
            "ANIME_GENRE_PING_URL": f"http://127.0.0.1:9/{passwords[2]}",
            "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS": "1",
        }
        command = [sys.executable, "-m", "flows.cli", "retrain", "--workspace", workspace, *options]
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=folder, timeout=RUN_SECONDS
        )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed
    files: dict[Path, bytes] = {}
    for path in Path(workspace).rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # Prefect deletes leases meanwhile
            files[path] = path.read_bytes()
    assert {"mlflow.db", "prefect.db", "model.onnx", "summary.json"} <= {path.name for path in files}
    for password in (*passwords, stack.environment["ANIME_GENRE_CLOUD_RUN_TOKEN"]):
        found = [str(path) for path, content in files.items() if password.encode() in content]
        assert [path for path in found if not path.endswith("stack.json")] == [], password
        assert password not in printed
    return printed
