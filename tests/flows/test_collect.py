"""The commands collect and reparse: what they leave in the workspace, and what they say."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from infra.local.site.invented_titles import SEASONS
from tests.faulty_site import FaultySite, faulty_site

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with faulty_site(titles=36) as site:
        yield site


def arguments(site: FaultySite, workspace: Path, *more: str) -> list[str]:
    return ["collect", "--site-url", site.url, "--seasons", RANGE, "--workspace", str(workspace), *more]


def test_collect_leaves_catalogue_posters_history_and_report_and_says_what_it_asked(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(site, tmp_path, "--details", "5")) == 0
    said = capsys.readouterr().out
    assert f"Pages: {len(SEASONS)} of {len(SEASONS)} (" in said
    assert "Detail pages: 5 of 5 (" in said
    assert "Requests to the site" in said and "requested" in said
    assert "36 titles" in said
    with (tmp_path / "catalogue.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["mal_id"]) for row in rows] == sorted(title.mal_id for title in site.site.titles)
    posters = {path.stem for path in (tmp_path / "posters").glob("*.jpg")}
    assert 30 < len(posters) < 36
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(arguments(site, tmp_path)) == 0
    assert "not due" in capsys.readouterr().out


def test_reparse_makes_no_request(site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(site, tmp_path)) == 0
    catalogue = (tmp_path / "catalogue.csv").read_bytes()
    asked = len(site.requests)
    (tmp_path / "catalogue.csv").unlink()
    assert main(["reparse", "--workspace", str(tmp_path)]) == 0
    assert "36 titles from the kept pages, 0 changes; no request was made." in capsys.readouterr().out
    assert (tmp_path / "catalogue.csv").read_bytes() == catalogue
    assert len(site.requests) == asked


def test_reparse_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reparse", "--workspace", str(tmp_path / "w")]) == 1
    assert "There are no kept pages" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_a_site_on_the_net_needs_a_contact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("collect", "retrain"):
        assert main([command, "--workspace", str(tmp_path / "w")]) == 1
        assert "ANIME_GENRE_CONTACT" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_drift_ends_the_command_with_the_table(
    site: FaultySite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(site, tmp_path)) == 0
    site.change = lambda page: page.replace("js-score", "js-rating")
    assert main(arguments(site, tmp_path, "--refresh")) == 1
    error = capsys.readouterr().err
    assert "lost their score" in error and "<- STOP" in error
    assert main(arguments(site, tmp_path, "--refresh", "--max-emptied", "1")) == 0


def test_ctrl_c_ends_it_quietly_and_the_next_run_goes_on(site: FaultySite, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.cli", *arguments(site, tmp_path, "--requests-per-second", "10")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while len(site.requests) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "Stopped." in err
    asked = len(site.requests)
    assert main(arguments(site, tmp_path)) == 0
    pages = [request.path for request in site.requests if "/season/" in request.path]
    assert len(pages) <= len(SEASONS) + 1  # the one under way
    assert asked < len(site.requests)
