"""The commands collect and reparse: the files that they write, and their output."""

import csv
import io
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from flows import collect
from flows.cli import main
from flows.parameters import RetrainParameters
from infra.local.site.invented_titles import SEASONS, invented_titles
from tasks.crawl.traffic import Traffic
from tests.faulty_site import FaultySite, faulty_site
from tests.strict_api import CLIENT_ID, Response, nodes_of, strict_api

pytestmark = pytest.mark.stack

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with faulty_site(titles=36) as site:
        yield site


def arguments(site: FaultySite, workspace: Path, *more: str) -> list[str]:
    return ["collect", "--site-url", site.url, "--seasons", RANGE, "--workspace", str(workspace), *more]


def test_collect_writes_catalogue_posters_and_report_and_prints_its_requests(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(site, tmp_path, "--details", "5")) == 0
    output = capsys.readouterr().out
    assert f"Pages: {len(SEASONS)} of {len(SEASONS)} (" in output
    assert "Detail pages: 5 of 5 (" in output
    assert "Requests to the site" in output and "requested" in output
    assert "36 titles" in output
    with (tmp_path / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["mal_id"]) for row in rows] == sorted(title.mal_id for title in site.site.titles)
    posters = {path.stem for path in (tmp_path / "posters").glob("*.jpg")}
    assert 30 < len(posters) < 36
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(arguments(site, tmp_path)) == 0
    assert "not due" in capsys.readouterr().out


def test_dry_run_estimates_what_the_crawl_then_requests(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def estimated() -> dict[str, int]:
        assert main(arguments(site, tmp_path, "--details", "5", "--dry-run")) == 0
        rows = re.findall(r"│ (pages|detail pages|posters|all) +│ +([\d,]+) ", capsys.readouterr().out)
        return {what: int(count.replace(",", "")) for what, count in rows}

    new = len(SEASONS) * 88  # as many titles per season as the real site has
    assert estimated() == {"pages": len(SEASONS), "detail pages": 5, "posters": new, "all": new + 5 + len(SEASONS)}
    assert not site.requests
    assert main(arguments(site, tmp_path, "--details", "5")) == 0
    capsys.readouterr()
    (tmp_path / "ledger.sqlite").unlink()
    first, titles = estimated(), site.site.titles
    assert first["detail pages"] == 5
    assert first["posters"] - new == pytest.approx(len(titles), abs=6)  # some have no poster
    assert main(arguments(site, tmp_path, "--details", "36")) == 0
    capsys.readouterr()
    assert estimated()["posters"] == 0


def test_reparse_makes_no_request(site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(site, tmp_path)) == 0
    catalogue = (tmp_path / "catalogue.csv").read_bytes()
    requests = len(site.requests)
    (tmp_path / "catalogue.csv").unlink()
    assert main(["reparse", "--workspace", str(tmp_path)]) == 0
    assert "36 titles from the kept pages, 0 changes; no request was made." in capsys.readouterr().out
    assert (tmp_path / "catalogue.csv").read_bytes() == catalogue
    assert len(site.requests) == requests


def test_reparse_without_kept_pages_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reparse", "--workspace", str(tmp_path / "w")]) == 1
    assert "There are no kept pages" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_commands_need_a_contact_for_sites_on_other_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("collect", "retrain"):
        assert main([command, "--workspace", str(tmp_path / "w")]) == 1
        assert "ANIME_GENRE_CONTACT" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_collect_fails_on_drift_with_the_table_of_differences(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(site, tmp_path)) == 0
    site.change = lambda page: page.replace("js-score", "js-rating")
    assert main(arguments(site, tmp_path, "--refresh")) == 1
    error = capsys.readouterr().err
    assert "lost their score" in error and "<- STOP" in error
    assert main(arguments(site, tmp_path, "--refresh", "--max-emptied", "1")) == 0


def test_collect_stops_at_ctrl_c_without_a_traceback_and_continues_in_the_next_run(
    site: FaultySite, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "flows.cli", *arguments(site, tmp_path, "--requests-per-second", "10")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while len(site.requests) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    said = ""  # at first maybe that a season has no page
    while not said.endswith("\nStopping: waiting for the work in progress to end ...\n"):
        line = process.stderr.readline()
        assert line, said
        said += line
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "Stopped." in err
    requests = len(site.requests)
    assert main(arguments(site, tmp_path)) == 0
    pages = [request.path for request in site.requests if "/season/" in request.path]
    assert len(pages) <= len(SEASONS) + 1  # the page in progress
    assert requests < len(site.requests)


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (225, 318), "navy").save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("fails", [False, True])
def test_collect_by_api_shows_and_stores_the_client_id_nowhere(
    fails: bool,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def echo(path: str, answer: Response) -> Response:
        """Repeats the client id wherever a response can."""
        if fails and "summer" in path:
            return 400, {"error": "bad_request", "message": f"{CLIENT_ID} asks too much"}, {}
        return answer[0], {**answer[1], "client": CLIENT_ID}, {"ETag": f'"{CLIENT_ID}"'}

    monkeypatch.setenv("MAL_CLIENT_ID", CLIENT_ID)
    caplog.set_level(logging.DEBUG)
    with strict_api([]) as posters, strict_api(nodes_of(invented_titles(20), posters.url)) as api:
        posters.change = lambda path, answer: (200, jpeg(), {})
        api.change = echo
        command = ["collect", "--source", "api", "--site-url", api.url, "--seasons", RANGE, "--details", "3"]
        assert main([*command, "--workspace", str(tmp_path)]) == fails
        assert main(["reparse", "--workspace", str(tmp_path)]) == fails
        assert any(headers.get("X-MAL-CLIENT-ID") == CLIENT_ID for _, headers in api.requests)
        assert bool(posters.requests) != fails
        assert CLIENT_ID not in str(posters.requests)
    said = capfd.readouterr()
    assert ("*** asks too much" in said.err) == fails
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"ledger.sqlite"} <= {path.name for path in files} and any(b"***" in content for content in files.values())
    files[Path("output")] = f"{said.out}{said.err}{caplog.text}".encode()
    assert [path for path, content in files.items() if CLIENT_ID.encode() in content] == []


def test_collect_stores_its_record_before_the_next_run_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    @contextmanager
    def lease(*_: object) -> Iterator[None]:
        held.append(True)
        yield
        held.clear()

    collected = pd.DataFrame(), SimpleNamespace(snapshot_date="", titles=0, changes=0), pd.DataFrame()
    monkeypatch.setenv("ANIME_GENRE_CLOUD", "google")
    monkeypatch.setattr(collect, "Store", lambda settings: SimpleNamespace(name="bucket"))
    monkeypatch.setattr(collect, "bucket_lease", lease)
    monkeypatch.setattr(collect, "_collect_with_bucket", lambda *_: collected)
    monkeypatch.setattr(collect, "dataset_report", lambda *_: "")
    monkeypatch.setattr(collect, "is_usable", lambda posters: pd.Series(dtype=bool))
    stored: list[bool] = []
    monkeypatch.setattr("tasks.posters.store_posters", lambda *_: stored.append(bool(held)))
    collect.run_collect(tmp_path, RetrainParameters())
    assert stored == [True]


def test_collect_prints_reasons_and_paths_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    traffic, console = Traffic("Posters"), collect._console()
    traffic.note("missing", "no picture at [/b] :x:")
    collect._show_requests(console, [traffic])
    console.print("The files are in /data/[rec].")
    printed = capsys.readouterr().out
    assert "no picture at [/b] :x:" in printed and "/data/[rec]." in printed
