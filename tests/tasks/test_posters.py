"""What was collected last, from which runs without the crawl begin."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import sha256_of
from tasks.catalogue.poster_download import POSTER_COLUMNS
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import Ledger, PosterVisit
from tasks.crawl.mirror import CrawlMirror
from tasks.errors import StalePosterError
from tasks.posters import read_collected, read_poster_set, store_posters, without_replaced
from tasks.records import CatalogueRecord, CollectedRecord
from tasks.stored_posters import fetch_posters
from tests.storage import storage_emulator

CATALOGUE = CatalogueRecord(
    key="catalogues/1.csv",
    sha256="1",
    site_url="https://example.org",
    seasons="all",
    titles=4,
    changes=0,
    snapshot_date="2026-11-30",
    accepted=1.0,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with storage_emulator(tmp_path / "emulator", "posters") as url:
        yield Store(Settings(bucket="posters", storage_emulator_host=url))


def test_run_without_the_crawl_leaves_out_posters_that_an_interrupted_crawl_replaced(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "posters"
    folder.mkdir()
    ledger = Ledger()
    mirror = CrawlMirror(store, ledger, KeptPages(tmp_path / "pages"), folder)

    def put(id: str, body: bytes, checked: float) -> str:
        (folder / f"{id}.jpg").write_bytes(body)
        ledger.posters.put(PosterVisit(id, f"https://example.org/{id}", checked, "here", sha256_of(body)))
        return sha256_of(body)

    with mirror.posters():
        rows = [(id, "new", "", put(id, f"poster {id}".encode(), 1), "") for id in ("1", "2", "3")]
    posters = pd.DataFrame([*rows, ("4", "missing", "nothing there", "", "")], columns=POSTER_COLUMNS)
    store_posters(store, CATALOGUE, posters, b"report")
    collected = read_collected(store)
    assert collected and without_replaced(store, collected) == collected and not caplog.text

    with pytest.raises(RuntimeError), mirror.posters():
        put("1", b"another poster", 2)
        (folder / "2.jpg").unlink()
        ledger.posters.put(PosterVisit("2", "https://example.org/2", 2, "explicit"))
        raise RuntimeError("the host refuses us")
    with pytest.raises(StalePosterError, match="with the crawl"):
        fetch_posters(store, tmp_path / "another worker", {"1": rows[0][3]})
    left = without_replaced(store, collected)
    assert "Left out: 2 posters, such as that of 1, because an interrupted crawl" in caplog.text
    assert (left.posters.posters, left.posters.without) == (1, {"missing": 1, "failed": 2})
    assert read_collected(store) == collected, "the next complete crawl replaces it"
    found = read_poster_set(store, left.posters.key)
    assert list(found["status"]) == ["failed", "failed", "present", "missing"]
    usable = found[found["sha256"] != ""]
    fetch_posters(store, tmp_path / "another worker", dict(zip(usable["id"], usable["sha256"], strict=True)))
    assert without_replaced(store, left) == left
    assert json.loads(store.read("collected.json")) == json.loads(CollectedRecord.model_dump_json(collected))
    ledger.close()
