"""Step 2: downloads one poster per title, `posters/{id}.jpg`, into the workspace and the bucket."""

import asyncio
import json
import logging

import pandas as pd

from infra.files import write_bytes
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.files import sha256_of
from serving.bundle.wording import counted
from tasks.artifacts import show_table, show_text
from tasks.catalogue.catalogue_table import CODE_NAMES, STORED_NAMES, fetch_catalogue
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.dataset_report import dataset_report, dataset_summary
from tasks.catalogue.poster_download import POSTER_COLUMNS, is_usable
from tasks.catalogue.titles import is_number
from tasks.crawl.mirror import stored_posters
from tasks.crawling import crawl
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord, CollectedRecord, PosterSetRecord
from tasks.source_choice import source_for
from tasks.step import step

logger = logging.getLogger("tasks")

_ROWS_SHOWN = 1000
_COLLECTED = "collected.json"


@step("download posters")
def download_posters(catalogue: CatalogueRecord, config: CollectConfig) -> PosterSetRecord:
    """Download the posters of a catalogue that are not in the workspace yet, and record the status of each.

    Raises:
        SiteUnavailable, SiteBusy: the posters' host is not reachable, or another run is reading the site (retryable).
        SiteBlocked: the posters' host refuses us.
    """
    settings = read_settings(catalogue.collection)
    store, folder, source = Store(settings), settings.folder, source_for(catalogue.site_url)
    titles = fetch_catalogue(store, folder, catalogue.key)
    with crawl(source, config, catalogue.collection) as (collector, mirror), mirror.posters():
        posters = asyncio.run(collector.download_posters(titles))
    logger.info("Writing the report of the dataset.")
    report = dataset_report(titles, posters, source, folder / "posters", catalogue.snapshot_date).encode()
    write_bytes(folder / "report.html", report)
    record = store_posters(store, catalogue, posters, report)
    show_text(
        "dataset-report",
        dataset_summary(titles, posters),
        f"The whole report is report.html in MLflow, and {record.report_key} in the bucket",
    )
    without_file = posters.loc[~is_usable(posters), ["id", "status", "reason"]]
    show_table(
        "posters-without-a-file",
        without_file.head(_ROWS_SHOWN).to_dict("records"),
        "Posters by status: " + ", ".join(f"{count} {status}" for status, count in _counts(posters).items()),
    )
    return record


def read_collected(store: Store) -> CollectedRecord | None:
    """What was collected last into the bucket; None if nothing was."""
    return store.read_parsed(_COLLECTED, CollectedRecord.model_validate_json)


def read_last_collected(store: Store) -> CollectedRecord:
    """What was collected last into the bucket. Raises CatalogueError if nothing was."""
    collected = read_collected(store)
    if collected is None:
        raise CatalogueError(
            f"{store.uri(_COLLECTED)} does not exist, so nothing was collected yet. Start a run with the crawl; with "
            "ANIME_GENRE_CLOUD=google, `anime-genre collect` also writes it."
        )
    return collected


@step("collected before")
def collected_before(collection: str) -> CollectedRecord:
    """The catalogue and the posters that were collected last into the bucket. The site is not asked.

    Posters that an interrupted crawl has replaced since are left out: those of the last complete one are gone.

    Raises:
        CatalogueError: nothing has been collected into this bucket.
        ServiceUnavailable: the bucket is not reachable (retryable).
    """
    store = Store(read_settings(collection))
    collected = without_replaced(store, read_last_collected(store))
    logger.info(
        "Using the catalogue of %s: %s, %s.",
        collected.catalogue.snapshot_date,
        counted(collected.catalogue.titles, "title"),
        counted(collected.posters.posters, "poster"),
    )
    return collected


def without_replaced(store: Store, collected: CollectedRecord) -> CollectedRecord:
    """What was collected, without posters that a crawl has replaced or deleted since. Writes the set without them."""
    posters, now = read_poster_set(store, collected.posters.key), stored_posters(store)
    replaced = is_usable(posters) & posters["id"].isin(now) & (posters["id"].map(now) != posters["sha256"])
    if not replaced.any():
        return collected
    logger.warning(
        "Left out: %s, such as that of %s, because an interrupted crawl replaced or deleted them. Start a run with the "
        "crawl to update the set.",
        *(counted(int(replaced.sum()), "poster"), posters.loc[replaced, "id"].iloc[0]),
    )
    reason = "an interrupted crawl replaced or deleted it"
    posters.loc[replaced, ["status", "reason", "sha256"]] = ["failed", reason, ""]
    record = _store_set(store, posters, collected.posters.report_key)
    return collected.model_copy(update={"posters": record})


def store_posters(store: Store, catalogue: CatalogueRecord, posters: pd.DataFrame, report: bytes) -> PosterSetRecord:
    """Write a catalogue's poster set and report, and then the record of what was collected last."""
    report_key = f"reports/{sha256_of(report)}/report.html"
    store.write(report_key, report)
    record = _store_set(store, posters, report_key)
    store.write(_COLLECTED, CollectedRecord(catalogue=catalogue, posters=record).model_dump_json(indent=2).encode())
    return record


def _store_set(store: Store, posters: pd.DataFrame, report_key: str) -> PosterSetRecord:
    content = poster_set_json(posters)
    sha256 = sha256_of(content)
    key = f"poster-sets/{sha256}.json"
    store.write(key, content)
    counts = _counts(posters)
    new, present = counts.pop("new", 0), counts.pop("present", 0)
    return PosterSetRecord(
        key=key, sha256=sha256, posters=new + present, new=new, report_key=report_key, without=counts
    )


def _counts(posters: pd.DataFrame) -> dict[str, int]:
    return {status: int(count) for status, count in posters["status"].value_counts(sort=False).items()}


def poster_set_json(posters: pd.DataFrame) -> bytes:
    """A poster set as JSON, in which new posters have the status "present"."""
    stored = posters.rename(columns=STORED_NAMES).replace({"status": {"new": "present"}})
    entries = [{name: value or None for name, value in row.items()} for row in stored.to_dict("records")]
    for id, entry in zip(posters["id"], entries, strict=True):
        entry[STORED_NAMES["id"]] = int(id) if is_number(id) else id
    return json.dumps(entries).encode()


def read_poster_set(store: Store, key: str) -> pd.DataFrame:
    """The poster table of a poster set."""
    table = pd.DataFrame(json.loads(store.read(key))).rename(columns=CODE_NAMES)
    return table.reindex(columns=POSTER_COLUMNS).fillna("").astype(str)
