"""Step 2: a poster a title, `posters/{mal_id}.jpg`, on this machine and in the bucket."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from infra.files import sha256_of, sha256_of_file, write_bytes
from infra.settings import read_settings
from infra.store import Store
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.dataset_report import dataset_report, dataset_summary
from tasks.catalogue.poster_download import PosterOutcome
from tasks.crawl.mirror import poster_key
from tasks.crawling import crawl
from tasks.errors import StalePosterError
from tasks.records import CatalogueRecord, PosterSetRecord
from tasks.step import step


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
    with crawl(catalogue.site_url, config) as (collector, mirror), mirror.posters():
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
    store.download({poster_key(str(mal_id)): folder / f"{mal_id}.jpg" for mal_id in wrong})
    if stale := [mal_id for mal_id in wrong if differs(mal_id)]:
        raise StalePosterError(
            f"Another run replaced {len(stale)} posters in the bucket, such as {poster_key(str(stale[0]))}. "
            "Start the run again."
        )


def _content(outcomes: Iterable[PosterOutcome]) -> bytes:
    return json.dumps([asdict(o) | {"status": "present" if o.usable else o.status} for o in outcomes]).encode()
