"""A bucket and workspace of November 2026: the present code reads and reuses them.

Parts are drawn by franchise, and the rules for franchises have a new version. So preprocess and train run again once.
"""

import gzip
import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from infra.local.site.server import SmallSite
from tests import stored_formats
from tests.conftest import NewWorkspace
from tests.small_site import small_site

pytestmark = pytest.mark.stack

_ABSOLUTE_PATH = re.compile(rb"file:///|/(?:home|root|work|tmp|Users|usr|var|private|opt|srv|mnt)/[\w.-]+")


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    """The archive's files by their path in the workspace."""
    return stored_formats.read()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, new_workspace: NewWorkspace) -> Path:
    """The archive as a workspace that was used an hour ago, so that nothing in it is due."""
    folder = tmp_path_factory.mktemp("stored-formats")
    stored_formats.unpack(folder)
    new_workspace(folder)  # the archive has no database of Prefect
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger, ledger:
        for table in ("PageVisit", "PosterVisit"):
            visits = ledger.execute(f"UPDATE {table} SET checked = ?", (time.time() - 3600,))
            assert visits.rowcount > 19
    return folder


@pytest.fixture(scope="module")
def reused(workspace: Path) -> tuple[dict, list[str], str]:
    """A run on the archive's workspace: its summary, the paths that it requested from the site, and what it printed."""
    requested: list[str] = []
    response = SmallSite.response

    def recorded(site: SmallSite, path: str):
        requested.append(path)
        return response(site, path)

    with (
        pytest.MonkeyPatch.context() as patch,
        small_site(stored_formats.TITLES, port=stored_formats.SITE_PORT) as site_url,
    ):
        patch.setattr(SmallSite, "response", recorded)
        printed = stored_formats.retrain(workspace, site_url)
    return json.loads((workspace / "summary.json").read_bytes()), requested, printed


def test_archive_is_small_and_stores_equal_files_once(before: dict[str, bytes]) -> None:
    assert stored_formats.ARCHIVE.stat().st_size <= 8_000_000
    assert len({*before.values()}) < len(before)


def test_archive_has_no_absolute_path(before: dict[str, bytes]) -> None:
    for name, data in before.items():
        text = gzip.decompress(data) if name.endswith(".gz") else data
        found = _ABSOLUTE_PATH.search(text)
        assert not found, f"{name}: {found}"


def test_stored_formats_are_read_and_the_parts_are_drawn_again_once(
    reused, workspace: Path, before: dict[str, bytes]
) -> None:
    summary, _, printed = reused
    then = json.loads(before["summary.json"])["record"]
    assert [(step["name"], step["state"]) for step in summary["steps"]][:6] == [
        *(("scrape", "Completed"), ("download posters", "Completed"), ("preprocess", "Completed")),
        *(("train", "Completed"), ("evaluate", "Completed"), ("register", "Completed")),
    ]
    now = summary["record"]
    for record, name in (("catalogue", "sha256"), ("posters", "sha256")):
        assert now[record][name] == then[record][name], (record, name)
    assert now["dataset"]["dataset_key"] != then["dataset"]["dataset_key"]
    assert "for the champion" in summary["message"]
    notice = now["dataset"]["notices"][0]
    assert notice.startswith("The parts were drawn again, once, because")
    assert notice[:60] in printed


def test_run_with_its_own_stack_ends_with_the_command_that_keeps_the_model_up(reused, workspace: Path) -> None:
    options = f"--site-url http://127.0.0.1:{stored_formats.SITE_PORT} --workspace {workspace}"
    assert reused[2].strip().splitlines()[-1] == f"To keep the model up, run: anime-genre up {options}"


def test_stored_formats_need_no_request_if_nothing_is_due(reused) -> None:
    _, requested, _ = reused
    assert requested == []


def test_stored_formats_keep_their_names_in_the_bucket(reused, workspace: Path, before: dict[str, bytes]) -> None:
    bucket = Path("bucket/.cloudstorage/anime-genre")
    for name in ("page-visits.json", "poster-visits.json", "hosts.json"):
        then = json.loads(before[str(bucket / name)])
        now = json.loads((workspace / bucket / name).read_bytes())
        assert [list(entry) for entry in now] == [list(entry) for entry in then], name
