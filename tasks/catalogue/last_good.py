"""The last good catalogue of a folder: `catalogues/{sha256}.csv`, named by `catalogue.json`, and `history.csv`.

A new catalogue replaces it after `drift` has found nothing. A kill in between leaves the old one. `catalogue.csv` is a
copy for people. `known/{site}.csv` has the last known row of every title that was ever in a good catalogue of a site.
New catalogues are compared with it, whatever the last run selected.
"""

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from infra.files import write_bytes
from infra.loopback import is_loopback
from infra.settings import MAIN_COLLECTION
from serving.bundle.files import sha256_of
from tasks.catalogue.catalogue_table import catalogue_of, read_catalogue, sorted_by_id, write_catalogue
from tasks.catalogue.history import changes, extended, parse_history, returns
from tasks.catalogue.source import Source
from tasks.crawl.addresses import host_of, is_file
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord

logger = logging.getLogger("tasks")

CATALOGUE, ABOUT, HISTORY = "catalogue.csv", "catalogue.json", "history.csv"


@dataclass(frozen=True)
class LastGood:
    """The known titles of a source, and which of them a new catalogue of the selection has to include (a mask)."""

    titles: pd.DataFrame
    selected: "pd.Series[bool]"


def about_last_good(folder: Path) -> CatalogueRecord | None:
    """The record of the folder's catalogue; None if there is none.

    Raises:
        CatalogueError: the record is damaged.
    """
    try:
        return CatalogueRecord.model_validate_json((folder / ABOUT).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CatalogueError(f"The file {folder / ABOUT} cannot be read. Move it away to start again.") from error


def known_key(site_url: str) -> str:
    """The file of the site's known titles, in a folder as in the bucket.

    All addresses of this machine are one site, whatever the port. A site's API is the same site as its pages, and all
    tables of a collection are one.
    """
    if is_file(site_url):
        return "known/table.csv"
    site = "local" if is_loopback(site_url) else host_of(site_url).removeprefix("api.")
    return f"known/{re.sub(r'[^a-z0-9.-]', '_', site)}.csv"


def read_last_good(folder: Path, source: Source, selection: str) -> LastGood:
    """What a new catalogue of the selection is compared with; without titles if it is the first one.

    A damaged file of known titles is moved aside, and the new catalogue is not compared.
    """
    known = folder / known_key(source.site_url)
    try:
        titles = read_catalogue(known) if known.exists() else catalogue_of([])
    except CatalogueError as error:
        _move_aside(known, error)
        titles = catalogue_of([])
    groups = {page.group for page in source.pages(selection, datetime.now(UTC).timestamp())}
    return LastGood(titles, source.group_of(titles).isin(groups))


def replace_last_good(
    folder: Path,
    source: Source,
    selection: str,
    catalogue: pd.DataFrame,
    last: LastGood,
    collection: str = MAIN_COLLECTION,
) -> CatalogueRecord:
    """Add the changes since `last` to the history, and make `catalogue` the last good one."""
    now = datetime.now(UTC)
    history, date = _intact_history(folder / HISTORY), now.date().isoformat()
    found = pd.concat([changes(last.titles, catalogue, last.selected, date), returns(history, catalogue, date)])
    write_bytes(folder / HISTORY, extended(history, found).encode())
    write_catalogue(catalogue, folder / CATALOGUE)
    content = (folder / CATALOGUE).read_bytes()
    sha256 = sha256_of(content)
    key = f"catalogues/{sha256}.csv"
    write_bytes(folder / key, content)
    others = last.titles[~last.selected & ~last.titles["id"].isin(catalogue["id"])]
    write_catalogue(sorted_by_id(pd.concat([catalogue, others])), folder / known_key(source.site_url))
    about = CatalogueRecord(
        key=key,
        sha256=sha256,
        site_url=source.site_url,
        seasons=selection,
        titles=len(catalogue),
        changes=len(found),
        snapshot_date=date,
        accepted=now.timestamp(),
        collection=collection,
    )
    write_bytes(folder / ABOUT, about.model_dump_json(indent=2).encode())
    return about


def with_known_details(catalogue: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """The catalogue, where titles whose detail page was not read keep what earlier crawls read of it.

    The other source of a site may have read it, and its page is not kept for this one.
    """
    columns = ["rating", "aired_to", "related", "own_page"]
    before = known.set_index("id")[columns].reindex(catalogue["id"]).fillna("").set_axis(catalogue.index)
    is_missing = (catalogue[columns] == "") & (catalogue[["own_page"]] == "").to_numpy()
    return catalogue.assign(**catalogue[columns].mask(is_missing, before))


def _intact_history(file: Path) -> str:
    """The text of the history, empty if there is none. A damaged file is moved aside."""
    if not file.exists():
        return ""
    try:
        text = file.read_bytes().decode()
        parse_history(text)
    except ValueError as error:
        _move_aside(file, error)
        return ""
    return text


def _move_aside(file: Path, error: Exception) -> None:
    aside = file.with_name(f"{file.name}.damaged")
    logger.warning("The file %s is damaged. It is moved to %s, and a new one is started. %s", file, aside, error)
    file.replace(aside)
