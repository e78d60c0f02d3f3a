"""The last good catalogue in a folder: `catalogues/{sha256}.csv`, named in `catalogue.json`, and `history.csv`.

A new catalogue takes its place once `drift` has found nothing; a kill in between leaves the old one. For people,
`catalogue.csv` is a copy of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.files import sha256_of, write_bytes
from tasks.errors import CatalogueError
from tasks.myanimelist.catalogue import read_catalogue, write_catalogue
from tasks.myanimelist.client import host_of, is_loopback
from tasks.myanimelist.history import changes, extended
from tasks.myanimelist.records import AnimeRecord
from tasks.myanimelist.seasons import parse_seasons
from tasks.records import CatalogueRecord

CATALOGUE, ABOUT, HISTORY = "catalogue.csv", "catalogue.json", "history.csv"


@dataclass(frozen=True)
class LastGood:
    """The titles of a catalogue and the names of the seasons that both it and the new one are made of; nothing of
    both where there was none, or one of another site."""

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


def read_last_good(folder: Path, site_url: str, seasons: str) -> LastGood:
    """The folder's catalogue, to compare a new one of this site and these seasons with.

    Raises:
        CatalogueError: it is damaged.
    """
    about = about_last_good(folder)
    if about is None or _site(about.site_url) != _site(site_url):
        return LastGood()
    common = set(parse_seasons(about.seasons)) & set(parse_seasons(seasons))
    return LastGood(read_catalogue(folder / about.key), frozenset(map(str, common)))


def replace_last_good(
    folder: Path, site_url: str, seasons: str, records: Sequence[AnimeRecord], last: LastGood
) -> CatalogueRecord:
    """Write down what changed since `last`, and put the new catalogue in its place."""
    today = datetime.now(UTC).date().isoformat()
    history = folder / HISTORY
    known = history.read_text(encoding="utf-8") if history.exists() else ""
    found = changes(last.records, records, last.seasons, today)
    write_bytes(history, extended(known, found).encode())
    write_catalogue(records, folder / CATALOGUE)
    content = (folder / CATALOGUE).read_bytes()
    sha256 = sha256_of(content)
    key = f"catalogues/{sha256}.csv"
    write_bytes(folder / key, content)
    about = CatalogueRecord(
        key=key,
        sha256=sha256,
        site_url=site_url,
        seasons=seasons,
        titles=len(records),
        changes=len(found),
        snapshot_date=today,
    )
    write_bytes(folder / ABOUT, about.model_dump_json(indent=2).encode())
    return about


def _site(url: str) -> str:
    """The site's name; a stand-in on this machine's own addresses is one site, whatever its port."""
    return "local" if is_loopback(url) else host_of(url)
