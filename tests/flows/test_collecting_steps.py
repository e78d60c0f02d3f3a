"""The steps scrape and download posters on a running stack: errors, artifacts, and several workers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.concurrency.sync import concurrency

import flows.retrain
from flows.cli import main
from flows.parameters import RetrainParameters
from flows.retrain import configure_logging
from flows.summary import recorded_steps, run_retrain
from infra.local.site.invented_titles import SEASONS
from infra.local.stack import Stack
from infra.settings import MAIN_COLLECTION, read_settings
from infra.store import Store
from tasks import crawling
from tasks.catalogue.configuration import CollectConfig, DatasetConfig
from tasks.catalogue.last_good import ABOUT, HISTORY, known_key
from tasks.crawl.ledger import FILE, PageVisit, to_stored
from tasks.errors import CatalogueError, DriftError, SiteBlocked, SiteBusy
from tasks.myanimelist.page_addresses import api_url
from tasks.posters import collected_before, download_posters
from tasks.preprocess import preprocess
from tasks.records import CollectedRecord, DatasetRecord
from tasks.scrape import scrape
from tasks.source_choice import source_for
from tests.damage import cut, empty, flip_bit
from tests.faulty_site import FaultySite, faulty_site
from tests.messages import project_messages
from tests.storage import damage, delete
from tests.strict_api import CLIENT_ID, nodes_of, strict_api

pytestmark = pytest.mark.stack

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"


@pytest.fixture
def site(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySite]:
    """A new site, with an empty workspace and an empty bucket."""
    bucket = tmp_path.name.replace("_", "-")[:60].lower()
    client = storage.Client(
        project="tests",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": stack.environment["STORAGE_EMULATOR_HOST"]},
    )
    client.create_bucket(bucket)
    monkeypatch.setenv("ANIME_GENRE_BUCKET", bucket)
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "workspace"))
    with faulty_site(titles=36) as site:
        yield site


@flow(name="collect only")
def collect(site_url: str, refresh: bool = False) -> tuple[str, str]:
    """The first two steps of the flow."""
    configure_logging()
    config = CollectConfig(refresh=refresh)
    catalogue = scrape(site_url, RANGE, config)
    posters = download_posters(catalogue, config)
    return catalogue.sha256, posters.sha256


def artifacts(state) -> dict[str, Artifact]:
    """The artifacts of a flow run by key."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=of_run)}


def test_scrape_fails_the_flow_on_drift_with_a_table(site: FaultySite) -> None:
    first = collect(site.url)
    store = Store(read_settings())
    latest = store.read("catalogues/latest.json")
    site.change = lambda page: page.replace("js-score", "js-rating")
    state = collect(site.url, refresh=True, return_state=True)
    with pytest.raises(DriftError, match=r"lost their score .*STOP"):
        state.result()
    steps = recorded_steps(state.state_details.flow_run_id)
    assert [(step.name, step.tries, step.state) for step in steps] == [("scrape", 1, "Failed")]
    assert '"verdict": "STOP"' in str(artifacts(state)["1-drift"].data)
    assert store.read("catalogues/latest.json") == latest
    site.change = str
    assert collect(site.url) == first


def test_collecting_without_a_crawl_is_cancelled_without_a_request(site: FaultySite) -> None:
    state = flows.retrain.collect(RetrainParameters(site_url=site.url, crawl=False), return_state=True)
    assert (state.name, state.message) == ("Cancelled", "Nothing is collected: the parameter crawl is off.")
    assert site.requests == []


def test_steps_by_api_use_the_collection_of_the_pages_and_store_the_client_id_nowhere(
    site: FaultySite, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAL_CLIENT_ID", CLIENT_ID)
    collect(site.url)
    with strict_api(nodes_of(site.site.titles, site.url)) as api:
        state = collect(api_url(api.url), return_state=True)
        assert any(headers.get("X-MAL-CLIENT-ID") == CLIENT_ID for _, headers in api.requests)
    found = artifacts(state)
    assert "36 titles" in str(found["1-catalogue"].data) and "; 0 changes since" in str(found["1-catalogue"].data)
    assert '"outcome": "new"' not in str(found["1-crawl"].data).replace(
        '"what": "Pages", "outcome": "new"', ""
    ).replace('"what": "Detail pages", "outcome": "new"', "")
    store = Store(read_settings())
    for folder in (
        tmp_path,
        Path(stack.environment["ANIME_GENRE_WORKSPACE"]),
    ):  # with Prefect's database, and the bucket's files
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in files if CLIENT_ID.encode() in path.read_bytes()] == []
        assert any(path.name.endswith(".db") for path in files) or folder == tmp_path
    assert CLIENT_ID.encode() not in store.read("page-visits.json")


def test_artifacts_show_progress_requests_unread_titles_and_report(site: FaultySite) -> None:
    odd = next(title for title in site.site.titles if len(title.pages) == 1)
    site.change = lambda page: re.sub(rf'class="genres [^"]*" id="{odd.mal_id}"', f'id="{odd.mal_id}"', page)
    state = collect(site.url, return_state=True)
    found = artifacts(state)
    assert f'"page": "{odd.season}"' in str(found["1-unread-titles"].data)
    assert "has no element for genres" in str(found["1-unread-titles"].data)
    assert {"1-pages", "1-crawl", "1-drift", "1-catalogue", "2-posters", "2-crawl", "2-dataset-report"} <= set(found)
    assert (found["2-posters"].type, found["2-posters"].data) == ("progress", 100.0)
    assert "Posters: " in (found["2-posters"].description or "")
    assert '"outcome": "requested"' in str(found["2-crawl"].data)
    assert "report.html in MLflow, and reports/" in (found["2-dataset-report"].description or "")


def test_worker_with_an_empty_disk_requests_nothing_that_the_bucket_has(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect(site.url)
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "another"))
    requests = len(site.requests)
    assert collect(site.url) == first
    assert site.requests[requests:] == []


@flow(name="without a crawl")
def read_collected(config: DatasetConfig) -> tuple[CollectedRecord, DatasetRecord]:
    """The steps of a run without a crawl, up to the dataset."""
    configure_logging()
    collected = collected_before(MAIN_COLLECTION)
    return collected, preprocess(collected.catalogue, collected.posters, config)


def test_dataset_without_a_crawl_is_made_in_an_empty_workspace_of_what_was_collected_at_home(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CatalogueError, match="nothing was collected yet"):
        run_retrain(RetrainParameters(crawl=False))

    monkeypatch.setenv("ANIME_GENRE_CLOUD", "google")
    command = ["collect", "--site-url", site.url, "--seasons", RANGE, "--workspace"]
    assert main([*command, str(tmp_path / "home")]) == 0
    assert f"gs://{read_settings().bucket}" in capsys.readouterr().out
    requests = len(site.requests)
    collected, dataset = read_collected(DatasetConfig(image_size=32, min_posters=5, min_posters_per_part=1))
    assert collected.catalogue.titles == 36 and 20 < dataset.posters <= collected.posters.posters
    assert len(site.requests) == requests, "the run asked the site"

    assert main([*command, str(tmp_path / "another-home")]) == 0
    assert len(site.requests) == requests, "a second home asked for what the bucket has"


def test_workspace_with_damaged_files_collects_the_same_and_names_each_file(
    site: FaultySite, caplog: pytest.LogCaptureFixture
) -> None:
    first = collect(site.url)
    folder = read_settings().folder
    copies = [folder / HISTORY, folder / known_key(site.url)]
    before = {file: file.read_bytes() for file in copies}
    # A bit of the record or of the ledger may be one that nobody misses.
    for change, files in ((cut, copies), (flip_bit, copies), (cut, [folder / ABOUT, folder / FILE])):
        for file in files:
            change(file)
        caplog.clear()
        assert collect(site.url) == first
        for file in files:
            (_,) = [message for message in project_messages(caplog) if f"{file} is damaged" in message]
        assert {file: file.read_bytes() for file in copies} == before


def test_objects_that_are_lost_or_damaged_are_written_again(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, store = collect(site.url), Store(read_settings())
    requests = len(site.requests)
    names = [HISTORY, known_key(site.url), "page-visits.json", "poster-visits.json"]
    before = {key: store.read(key) for key in [*names, store.keys("pages/")[0], store.keys("posters/")[0]]}
    for how in (cut, empty, None):
        for key in [*before, "catalogues/latest.json", "hosts.json"]:
            damage(store, key, how) if how else delete(store, key)
        assert collect(site.url) == first
        assert {key: store.read(key) for key in before} == before
        assert json.loads(store.read("catalogues/latest.json"))["sha256"] == first[0]
        assert site.requests[requests:] == []
    delete(store, "catalogues/latest.json")
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "another"))
    assert collect(site.url) == first
    assert store.read(HISTORY) == before[HISTORY], "a worker with an empty disk keeps the history"


def test_scrape_that_another_worker_overtakes_is_retried_and_loses_nothing(site: FaultySite) -> None:
    theirs = PageVisit("https://example.org/anime/season/1999/fall", checked=1.0)

    def overtake(page: str) -> str:
        site.change = str
        Store(read_settings()).write("page-visits.json", json.dumps([to_stored(theirs)]).encode())
        return page

    site.change = overtake
    state = collect(site.url, return_state=True)
    tries = {step.name: step.tries for step in recorded_steps(state.state_details.flow_run_id)}
    assert state.is_completed() and tries == {"scrape": 2, "download posters": 1}
    stored = json.loads(Store(read_settings()).read("page-visits.json"))
    assert to_stored(theirs) in stored and len(stored) > len(SEASONS)
    paths = [request.path for request in site.requests if request.path != "/robots.txt"]
    assert len(paths) == len(set(paths)), "the retry requests no page again"


def test_blocked_site_is_not_contacted_again_by_retries_or_other_workers(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.change = lambda page: "<html><head><title>Human Verification</title></head></html>"
    for worker in ("workspace", "another"):
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / worker))
        state = collect(site.url, return_state=True)
        with pytest.raises(SiteBlocked, match="captcha"):
            state.result()
        assert [step.tries for step in recorded_steps(state.state_details.flow_run_id)] == [1]
    first = f"/anime/season/{SEASONS[0].replace('-', '/')}"
    assert [request.path for request in site.requests] == ["/robots.txt", first]


def test_crawl_waits_for_another_run_and_then_raises_site_busy(
    site: FaultySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawling, "_WAIT_SECONDS", 2)
    name = f"crawl {site.url.removeprefix('http://')}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 1)
    with (
        concurrency(name, strict=True),
        pytest.raises(SiteBusy, match="Another run is crawling"),
        crawling.crawl(source_for(site.url), CollectConfig(), MAIN_COLLECTION),
    ):
        pass
    assert not site.requests
    collect(site.url)
    assert site.requests
