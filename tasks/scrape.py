"""Step 1: reads the site's season pages into the table `catalogue.csv`, and checks it for drift."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from infra.files import write_bytes
from infra.settings import MAIN_COLLECTION, read_settings
from infra.store import Store
from ml.data.table_rows import TableRows
from serving.bundle.wording import counted
from tasks.artifacts import show_table, show_text
from tasks.catalogue.catalogue_table import catalogue_csv, parse_catalogue, sorted_by_id
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.drift import Measure
from tasks.catalogue.genre_ids import known_genre_ids, with_genre_ids
from tasks.catalogue.history import merged, parse_history
from tasks.catalogue.last_good import ABOUT, HISTORY, about_last_good, known_key
from tasks.catalogue.unread_cards import UnreadEntry
from tasks.crawling import crawl
from tasks.errors import CatalogueError
from tasks.preprocess import parts_so_far
from tasks.records import CatalogueRecord
from tasks.source_choice import source_for
from tasks.step import step
from tasks.table.configuration import TableConfig
from tasks.table.poster_folder import poster_addresses
from tasks.table.source import Table

LATEST = "catalogues/latest.json"
_ROWS_SHOWN = 1000

logger = logging.getLogger("tasks")


@step("scrape")
def scrape(
    site_url: str,
    seasons: str,
    config: CollectConfig,
    collection: str = MAIN_COLLECTION,
    table: TableConfig | None = None,
) -> CatalogueRecord:
    """Read the season pages of a range such as `2015-winter..2019-fall`, and store the catalogue in the bucket.

    If `site_url` is the address of a table, the table is read instead, as `table` says.

    Raises:
        ServiceUnavailable: the bucket is not reachable (retryable).
        SeasonError: a season does not exist, or the site has none of them.
        NotOnSite: there is no table at the address.
        SiteUnavailable, SiteBusy: the site does not respond, or another run is crawling it (retryable).
        SiteBlocked: the site refuses us.
        PageLayoutError: a page has an unknown layout.
        EmptyCatalogueError: the pages contain no title.
        DatasetError: the table cannot be read, or it can be read in two ways.
        DriftError: the catalogue differs too much from the last good one, which stays in place.
    """
    settings = read_settings(collection)
    store, folder = Store(settings), settings.folder
    source = _table(store, table) if table else source_for(site_url)
    with crawl(source, config, collection) as (collector, mirror), mirror.pages():
        fetch_last_good(store, folder, site_url)
        catalogue = asyncio.run(collector.read_catalogue(seasons, parts_so_far(store)))
        _show_unread(collector.unread)
        if isinstance(source, Table):
            catalogue = with_genre_ids(catalogue, known_genre_ids(_known_catalogues(store)))
        record = collector.replace_last_good(seasons, catalogue, _show_drift)
    store_catalogue(store, folder, record)
    show_text(
        "catalogue",
        f"{counted(record.titles, 'title')} of {seasons} from {site_url}; {counted(record.changes, 'change')} since "
        "the last catalogue.",
        "The titles that were read",
    )
    if isinstance(source, Table) and source.read:
        _show_rows(source.read, store, record)
    return record


def _table(store: Store, config: TableConfig) -> Table:
    addresses = poster_addresses(store, config.posters) if config.posters else {}
    return Table(config.catalogue, config.options, addresses)


def _known_catalogues(store: Store) -> Iterator[pd.DataFrame]:
    """The known titles of all sources of the collection."""
    for key in store.keys("known/"):
        known = store.read_parsed(key, partial(parse_catalogue, path=store.uri(key)))
        if known is not None:
            yield known


def _show_rows(read: TableRows, store: Store, record: CatalogueRecord) -> None:
    """Log how the table was read, and list the rows that were left out: the first in an artifact, all in the bucket."""
    for notice in read.notices:
        logger.info("%s", notice)
    if read.dropped.empty:
        return
    key = f"catalogues/{record.sha256}-left-out.csv"
    store.write(key, read.dropped.to_csv(index=False).encode())
    counts = ", ".join(f"{count} {reason}" for reason, count in read.dropped["reason"].value_counts().items())
    logger.warning(
        "Left out of the table: %s (%s). All are in %s.", counted(len(read.dropped), "row"), counts, store.uri(key)
    )
    show_table(
        "rows-left-out", read.dropped.head(_ROWS_SHOWN).to_dict("records"), f"{counts}; all are in the bucket, {key}"
    )


def _show_drift(measures: Sequence[Measure]) -> None:
    show_table("drift", [measure.row() for measure in measures], "Changes since the last good catalogue")


def _show_unread(unread: Sequence[UnreadEntry]) -> None:
    if unread:
        show_table("unread-titles", [entry.row() for entry in unread], f"Titles that were not read: {len(unread)}")


def store_catalogue(store: Store, folder: Path, record: CatalogueRecord) -> None:
    """Upload the workspace's last good catalogue, and then its record."""
    store.upload({key: folder / key for key in (record.key, HISTORY, known_key(record.site_url))})
    store.upload({LATEST: folder / ABOUT})


def fetch_last_good(store: Store, folder: Path, site_url: str) -> None:
    """Replace the last good catalogue and its history in the workspace with those of the bucket, if they differ.

    Damaged files in the workspace are replaced as well, and damaged objects of the bucket are not used.
    """
    latest = store.read_parsed(LATEST, CatalogueRecord.model_validate_json)
    is_same = latest is not None and _sha256_here(folder) == latest.sha256
    known = known_key(site_url)
    _fetch(store, known, folder / known, is_same, _check_catalogue, _merged_known)
    _fetch(store, HISTORY, folder / HISTORY, is_same, _check_history, _merged_history)
    if latest is not None and not is_same:
        write_bytes(folder / ABOUT, latest.model_dump_json(indent=2).encode())


def _fetch(
    store: Store,
    key: str,
    file: Path,
    is_same: bool,
    check: Callable[[bytes], bytes],
    merge: Callable[[bytes, bytes], bytes],
) -> None:
    """Replace a file with the bucket's copy, or with what `merge` makes of the bucket's and the workspace's.

    `is_same` says that both belong to the same catalogue, so that a file with other content is damaged.
    `check` returns the content, and raises an error if it is damaged.
    """
    in_bucket, here = store.read_parsed(key, check), file.read_bytes() if file.exists() else None
    if in_bucket is None or in_bucket == here:
        return
    if here is not None and is_same:
        logger.warning("The file %s is damaged and is downloaded again.", file)
    elif here is not None:
        try:
            in_bucket = merge(in_bucket, check(here))
        except (CatalogueError, ValueError):
            logger.warning("The file %s is damaged and is downloaded again.", file)
    write_bytes(file, in_bucket)


def _check_catalogue(content: bytes) -> bytes:
    parse_catalogue(content, "of known titles")
    return content


def _merged_known(one: bytes, other: bytes) -> bytes:
    """The known titles of both, those of `one` if both have a title."""
    both = pd.concat([parse_catalogue(content, "of known titles") for content in (one, other)])
    return catalogue_csv(sorted_by_id(both.drop_duplicates("id"))).encode()


def _merged_history(one: bytes, other: bytes) -> bytes:
    return merged(one.decode(), other.decode()).encode()


def _check_history(content: bytes) -> bytes:
    parse_history(content.decode())
    return content


def _sha256_here(folder: Path) -> str | None:
    """The hash of the workspace's last good catalogue, None if there is none or its record is damaged."""
    try:
        here = about_last_good(folder)
    except CatalogueError:
        logger.warning("The file %s is damaged and is downloaded again.", folder / ABOUT)
        return None
    return here.sha256 if here else None
