"""Step 2: a poster a title, `posters/{mal_id}.jpg`, on this machine and in the bucket."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from prefect.artifacts import create_table_artifact

from infra.errors import NotFound
from infra.files import sha256_of, sha256_of_file
from infra.settings import read_settings
from infra.store import Store
from tasks.errors import StalePosterError
from tasks.myanimelist import posters as site_posters
from tasks.myanimelist.catalogue import read_catalogue
from tasks.myanimelist.posters import PosterOutcome, read_outcomes, write_outcomes
from tasks.records import CatalogueRecord, PosterSetRecord
from tasks.reporters import ProgressLog
from tasks.step import step

_LATEST = "poster-sets/latest.json"
_CONCURRENCY = 8


@step("download posters")
def download_posters(catalogue: CatalogueRecord) -> PosterSetRecord:
    """Download the posters of a catalogue that are not here yet; what is missing or broken is recorded.

    Raises:
        SiteUnavailable: the posters' host does not answer (retryable).
        SiteBlocked: the posters' host refuses us.
    """
    settings = read_settings()
    store = Store(settings)
    folder = settings.workspace / "posters"
    titles = read_catalogue(store.fetch(catalogue.key, settings.workspace / catalogue.key))
    kept = _kept(store)
    _restore(store, kept, folder)
    progress = ProgressLog()
    outcomes = asyncio.run(
        site_posters.download_posters(
            titles, folder, _CONCURRENCY, lambda done, total: progress.progress(done, total, "Posters")
        )
    )
    have = {o.mal_id: o for o in outcomes if o.sha256}
    before = {o.mal_id: o.sha256 for o in kept}
    store.upload({poster_key(i): folder / f"{i}.jpg" for i, outcome in have.items() if before.get(i) != outcome.sha256})
    content = _content(outcomes)
    sha256 = sha256_of(content)
    key = f"poster-sets/{sha256}.json"
    store.write(key, content)
    store.write(_LATEST, _content({**{o.mal_id: o for o in kept}, **{o.mal_id: o for o in outcomes}}.values()))
    counts = Counter(o.status for o in outcomes)
    create_table_artifact(
        [{"mal_id": o.mal_id, "status": o.status, "reason": o.reason} for o in outcomes if not o.sha256][:1000],
        key="posters-without-a-file",
        description=", ".join(f"{count} {status}" for status, count in counts.items()),
    )
    return PosterSetRecord(
        key=key,
        sha256=sha256,
        posters=len(have),
        new=counts["new"],
        missing=counts["missing"],
        broken=counts["broken"],
        explicit=counts["explicit"],
        without_address=counts["no_address"],
    )


def poster_key(mal_id: int | str) -> str:
    """Where a title's poster is in the bucket."""
    return f"posters/{mal_id}.jpg"


def read_poster_set(store: Store, key: str) -> list[PosterOutcome]:
    """The outcomes that a poster set holds."""
    return [PosterOutcome(**entry) for entry in json.loads(store.read(key))]


def _kept(store: Store) -> list[PosterOutcome]:
    """What the bucket holds of earlier runs."""
    try:
        return read_poster_set(store, _LATEST)
    except NotFound:
        return []


def _restore(store: Store, kept: list[PosterOutcome], folder: Path) -> None:
    """Give a worker with an empty disk the posters of the bucket, so that the site is not asked again."""
    if kept and not read_outcomes(folder):
        store.download({poster_key(o.mal_id): folder / f"{o.mal_id}.jpg" for o in kept if o.sha256})
        write_outcomes(kept, folder)


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
    return json.dumps([asdict(o) | {"status": _lasting(o)} for o in outcomes]).encode()


def _lasting(outcome: PosterOutcome) -> str:
    """The status, with no difference between a poster fetched now and one that was here."""
    return "present" if outcome.sha256 else outcome.status
