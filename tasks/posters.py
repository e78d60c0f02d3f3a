"""Step 2: a poster a title, `posters/{mal_id}.jpg`, on this machine and in the bucket."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from infra.errors import NotFound
from infra.files import sha256_of, sha256_of_file, write_bytes
from infra.settings import read_settings
from infra.store import Store
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.dataset_report import dataset_report, dataset_summary
from tasks.catalogue.poster_download import PosterOutcome
from tasks.crawl.ledger import PosterVisit
from tasks.crawling import crawl
from tasks.errors import StalePosterError
from tasks.records import CatalogueRecord, PosterSetRecord
from tasks.step import step

_VISITS = "poster-visits.json"


@step("download posters")
def download_posters(catalogue: CatalogueRecord, config: CollectConfig) -> PosterSetRecord:
    """Download the posters of a catalogue that are not here yet; what is missing or broken is recorded.

    Raises:
        SiteUnavailable, SiteBusy: the posters' host does not answer, or another run is asking it (retryable).
        SiteBlocked: the posters' host refuses us.
    """
    settings = read_settings()
    store = Store(settings)
    titles = read_catalogue(store.fetch(catalogue.key, settings.workspace / catalogue.key))
    with crawl(catalogue.site_url, config) as collector, _posters_in_the_store(store, collector):
        outcomes = asyncio.run(collector.download_posters(titles))
    content = _content(outcomes)
    sha256 = sha256_of(content)
    key = f"poster-sets/{sha256}.json"
    store.write(key, content)
    counts = Counter(outcome.status for outcome in outcomes)
    report = dataset_report(titles, outcomes, settings.workspace / "posters", catalogue.snapshot_date).encode()
    report_key = f"reports/{sha256_of(report)}/report.html"
    store.write(report_key, report)
    write_bytes(settings.workspace / "report.html", report)
    create_markdown_artifact(dataset_summary(titles, outcomes), key="dataset-report", description=store.uri(report_key))
    create_table_artifact(
        [{"mal_id": o.mal_id, "status": o.status, "reason": o.reason} for o in outcomes if not o.usable][:1000],
        key="posters-without-a-file",
        description=", ".join(f"{count} {status}" for status, count in counts.items()),
    )
    return PosterSetRecord(
        key=key,
        sha256=sha256,
        posters=counts["new"] + counts["present"],
        new=counts.pop("new", 0),
        report_key=report_key,
        without={status: count for status, count in counts.items() if status != "present"},
    )


@contextmanager
def _posters_in_the_store(store: Store, collector: Collector) -> Iterator[None]:
    """What the bucket keeps of posters is here before the block, and what is new is there after it, also where the
    crawl is stopped: a worker with an empty disk asks for no poster twice."""
    try:
        known = {entry["mal_id"]: PosterVisit(**entry) for entry in json.loads(store.read(_VISITS))}
    except NotFound:
        known = {}

    def path(mal_id: int) -> Path:
        return collector.posters / f"{mal_id}.jpg"

    def is_here(mal_id: int, sha256: str) -> bool:
        return path(mal_id).exists() and sha256_of_file(path(mal_id)) == sha256

    collector.ledger.posters.adopt(known)
    mine = collector.ledger.posters.all()
    there = {mal_id: visit.sha256 for mal_id, visit in known.items() if visit.sha256}
    wanted = [i for i, sha256 in there.items() if mine[i].sha256 == sha256 and not is_here(i, sha256)]
    store.download({poster_key(mal_id): path(mal_id) for mal_id in wanted})
    try:
        yield
    finally:
        visits = collector.ledger.posters.all()
        new = [i for i, v in visits.items() if v.sha256 and v.sha256 != there.get(i) and is_here(i, v.sha256)]
        store.upload({poster_key(mal_id): path(mal_id) for mal_id in new})
        # Only of what is in the bucket it says so: a poster that has gone since, of an explicit title, say, is not.
        kept = [v for i, v in visits.items() if not v.sha256 or v.sha256 == there.get(i) or i in new]
        store.write(_VISITS, json.dumps([asdict(visit) for visit in kept]).encode())


def poster_key(mal_id: int | str) -> str:
    """Where a title's poster is in the bucket."""
    return f"posters/{mal_id}.jpg"


def read_poster_set(store: Store, key: str) -> list[PosterOutcome]:
    """The outcomes that a poster set holds."""
    return [PosterOutcome(**entry) for entry in json.loads(store.read(key))]


def fetch_posters(store: Store, folder: Path, sha256_of_title: Mapping[int, str]) -> None:
    """Make the posters in the folder those of the hashes: what is absent or another one comes from the bucket.

    Raises:
        StalePosterError: the bucket has another poster by now, too.
    """

    def differs(mal_id: int) -> bool:
        path = folder / f"{mal_id}.jpg"
        return not path.exists() or sha256_of_file(path) != sha256_of_title[mal_id]

    wrong = [mal_id for mal_id in sha256_of_title if differs(mal_id)]
    store.download({poster_key(mal_id): folder / f"{mal_id}.jpg" for mal_id in wrong})
    if stale := [mal_id for mal_id in wrong if differs(mal_id)]:
        raise StalePosterError(
            f"{len(stale)} posters in the bucket are not those of this run any more, {poster_key(stale[0])} for one: "
            "another run replaced them. Start the run again."
        )


def _content(outcomes: Iterable[PosterOutcome]) -> bytes:
    return json.dumps([asdict(o) | {"status": "present" if o.usable else o.status} for o in outcomes]).encode()
