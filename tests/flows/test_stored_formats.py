"""A bucket and workspace that the code of November 2026 left: today's code goes on with them."""

import gzip
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.summary import RunSummary, run_retrain
from infra.local.site.server import SmallSite, small_site
from infra.local.stack import local_stack
from infra.settings import read_settings
from infra.store import Store
from tasks.catalogue.seasons import parse_seasons
from tasks.crawl.ledger import Ledger
from tasks.crawl.revisits import season_is_due
from tests import stored_formats

_ABSOLUTE_PATH = re.compile(rb"file:///|/(?:home|root|work|tmp|Users|usr|var|private|opt|srv|mnt)/[\w.-]+")


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    """The archive's files by their path in the workspace."""
    return stored_formats.read()


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunSummary, list[str], set[str]]]:
    """A run on the archive's workspace: its summary, the paths it requested, and the paths that were due."""
    workspace = tmp_path_factory.mktemp("stored-formats")
    stored_formats.unpack(workspace)
    requested: list[str] = []
    answer = SmallSite.answer

    def noting(site: SmallSite, path: str):
        requested.append(path)
        return answer(site, path)

    with (
        pytest.MonkeyPatch.context() as patch,
        small_site(stored_formats.TITLES, port=stored_formats.SITE_PORT) as site_url,
        local_stack(workspace) as stack,
        temporary_settings({PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}),
    ):
        for name, value in stack.environment.items():
            patch.setenv(name, value)
        patch.setattr(SmallSite, "answer", noting)
        parameters = stored_formats.parameters(site_url)
        due = _due_paths(workspace, site_url, parameters.seasons)
        yield run_retrain(parameters), requested, due


def _due_paths(workspace: Path, site_url: str, seasons: str) -> set[str]:
    """The season pages that are due today, judged by the archive's ledger alone."""
    ledger, now = Ledger(workspace / "ledger.sqlite"), datetime.now(UTC).timestamp()
    pages = {season: ledger.pages.get(site_url + season.path) for season in parse_seasons(seasons)}
    assert len(pages) == 20 and all(pages.values())
    ledger.close()
    return {urlsplit(visit.url).path for season, visit in pages.items() if season_is_due(visit, season, now)}


def test_archive_is_small_and_stores_equal_files_once(before: dict[str, bytes]) -> None:
    assert stored_formats.ARCHIVE.stat().st_size <= 8_000_000
    assert len({*before.values()}) < len(before)


def test_archive_has_no_absolute_path(before: dict[str, bytes]) -> None:
    for name, data in before.items():
        text = gzip.decompress(data) if name.endswith(".gz") else data
        found = _ABSOLUTE_PATH.search(text)
        assert not found, f"{name}: {found}"


def test_stored_formats_are_reused_by_each_step_and_the_champion_is_kept(reused, before: dict[str, bytes]) -> None:
    summary, _, _ = reused
    then = json.loads(before["summary.json"])["record"]
    assert [(step.name, step.state) for step in summary.steps] == [
        *(("scrape", "Completed"), ("download posters", "Completed"), ("preprocess", "Reused")),
        *(("train", "Reused"), ("evaluate", "Completed"), ("register", "Reused")),
    ]
    assert summary.message.startswith("champion kept")
    now = summary.record.model_dump(mode="json")
    for record, name in (
        *(("catalogue", "sha256"), ("posters", "sha256"), ("dataset", "dataset_key")),
        *(("training", "bundle_sha256"), ("model", "version"), ("training", "run_id")),
    ):
        assert now[record][name] == then[record][name], (record, name)


def test_stored_formats_keep_requests_to_what_is_due(reused) -> None:
    _, requested, due = reused
    assert {path for path in requested if path != "/robots.txt"} <= due


def test_stored_formats_keep_their_names_in_the_bucket(reused, before: dict[str, bytes]) -> None:
    store, prefix = Store(read_settings()), "bucket/.cloudstorage/anime-genre/"
    names = [name.removeprefix(prefix) for name in before if name.startswith(prefix)]
    for name in ("page-visits.json", "poster-visits.json", "hosts.json"):
        entries_before = json.loads(before[prefix + name])
        entries = json.loads(store.read(name))
        assert [list(entry) for entry in entries] == [list(entry) for entry in entries_before], name
    assert {"parts.csv", "history.csv", "catalogues/latest.json"} <= {*names}
