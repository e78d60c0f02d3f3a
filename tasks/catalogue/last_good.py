"""The last good catalogue in a folder: `catalogues/{sha256}.csv`, named in `catalogue.json`, and `history.csv`.

A new catalogue takes its place once `drift` has found nothing; a kill in between leaves the old one. For people,
`catalogue.csv` is a copy of it. `known/{site}.csv` has every title that was ever in a good catalogue of a site, as it
was last: what a new one is compared with, whichever seasons the last run read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.files import sha256_of, write_bytes
from tasks.catalogue.catalogue_table import read_catalogue, write_catalogue
from tasks.catalogue.history import changes, extended
from tasks.catalogue.seasons import parse_seasons
from tasks.catalogue.titles import AnimeRecord
from tasks.crawl.addresses import host_of, is_loopback
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord

CATALOGUE, ABOUT, HISTORY = "catalogue.csv", "catalogue.json", "history.csv"


@dataclass(frozen=True)
class LastGood:
    """The titles of a site that are known, and the names of the seasons whose titles a new catalogue has to have."""

    records: list[AnimeRecord] = field(default_factory=list)
    seasons: frozenset[str] = frozenset()


def about_last_good(folder: Path) -> CatalogueRecord | None:
    """What the folder's catalogue is; None where there is none.

    Raises:
        CatalogueError: it is damaged.
    """
    try:
        return CatalogueRecord.model_validate_json((folder / ABOUT).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CatalogueError(f"The file {folder / ABOUT} cannot be read; move it away to begin anew.") from error


def known_key(site_url: str) -> str:
    """Where the site's known titles are, in a folder as in the bucket. A stand-in on this machine's own addresses is
    one site, whatever its port."""
    site = "local" if is_loopback(site_url) else host_of(site_url)
    return f"known/{re.sub(r'[^a-z0-9.-]', '_', site)}.csv"


def read_last_good(folder: Path, site_url: str, seasons: str) -> LastGood:
    """What a new catalogue of this site and these seasons is to be compared with; nothing for the first one.

    Raises:
        CatalogueError: it is damaged.
    """
    known = folder / known_key(site_url)
    records = read_catalogue(known) if known.exists() else []
    return LastGood(records, frozenset(map(str, parse_seasons(seasons))))


def replace_last_good(
    folder: Path, site_url: str, seasons: str, records: Sequence[AnimeRecord], last: LastGood
) -> CatalogueRecord:
    """Write down what changed since `last`, and put the new catalogue in its place."""
    now = datetime.now(UTC)
    history = folder / HISTORY
    text = history.read_text(encoding="utf-8") if history.exists() else ""
    found = changes(last.records, records, last.seasons, now.date().isoformat())
    write_bytes(history, extended(text, found).encode())
    write_catalogue(records, folder / CATALOGUE)
    content = (folder / CATALOGUE).read_bytes()
    sha256 = sha256_of(content)
    key = f"catalogues/{sha256}.csv"
    write_bytes(folder / key, content)
    there = {record.mal_id for record in records}
    others = [r for r in last.records if r.mal_id not in there and r.season not in last.seasons]
    write_catalogue(sorted([*records, *others], key=lambda record: record.mal_id), folder / known_key(site_url))
    about = CatalogueRecord(
        key=key,
        sha256=sha256,
        site_url=site_url,
        seasons=seasons,
        titles=len(records),
        changes=len(found),
        snapshot_date=now.date().isoformat(),
        accepted=now.timestamp(),
    )
    write_bytes(folder / ABOUT, about.model_dump_json(indent=2).encode())
    return about
