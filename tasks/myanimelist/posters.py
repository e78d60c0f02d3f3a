"""Posters, a file a title: `posters/{mal_id}.jpg`, and beside them `posters.csv`, what became of each."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.files import moved_in, sha256_of, sha256_of_file, write_bytes
from serving.function.errors import PosterError
from serving.function.image import decode
from tasks.errors import BrokenImageError, NotOnSite, SiteError
from tasks.myanimelist.client import SiteClient
from tasks.myanimelist.concurrency import for_each
from tasks.myanimelist.records import AnimeRecord, is_explicit
from tasks.myanimelist.scraping import no_progress

# One poster that cannot be had is no matter; so many without one between them are a host that is down.
_FAILURES_IN_A_ROW = 20
# What a killed run may have to download again.
_SAVE_EVERY = 500
_CHECK_SIZE = 64  # pixels; any size decodes the whole file
_COLUMNS = ("mal_id", "url", "sha256", "status", "reason")


@dataclass(frozen=True)
class PosterOutcome:
    """What became of a title's poster.

    `status` is "new" (downloaded now), "present" (downloaded before), "missing" (404), "broken" (no whole
    image, or not to be had), "explicit" (never asked for) or "no_address". `sha256` is the file's, None where
    there is no file; `reason` says why there is none.
    """

    mal_id: int
    status: str
    reason: str | None = None
    sha256: str | None = None
    url: str | None = None


async def download_posters(
    records: Sequence[AnimeRecord],
    folder: Path,
    concurrency: int = 8,
    on_progress: Callable[[int, int], None] = no_progress,
) -> list[PosterOutcome]:
    """Download the posters of some titles that are not in `folder` yet; one outcome a record, in their order.

    A file that is there from the same address is not asked for again. What is done is written down beside the
    folder even where the work ends early. A file stands in the folder only under an outcome with its sha256.

    Raises:
        SiteUnavailable, SiteBlocked, SiteError: many posters in a row could not be had.
    """
    before = {outcome.mal_id: outcome for outcome in read_outcomes(folder)}
    outcomes: dict[int, PosterOutcome] = {}
    failures_in_a_row = 0

    async def settle(record: AnimeRecord) -> None:
        nonlocal failures_in_a_row
        path = folder / f"{record.mal_id}.jpg"
        outcome = _without_asking(record, path, before.get(record.mal_id))
        if outcome is None:
            try:
                outcome = await _download(client, record, path)
                failures_in_a_row = 0
            except SiteError as error:
                failures_in_a_row += 1
                if failures_in_a_row == _FAILURES_IN_A_ROW:
                    raise
                outcome = PosterOutcome(record.mal_id, "broken", str(error), url=record.poster_url)
        if not outcome.sha256:
            path.unlink(missing_ok=True)
        outcomes[record.mal_id] = outcome
        if len(outcomes) % _SAVE_EVERY == 0:
            write_outcomes((before | outcomes).values(), folder)
        on_progress(len(outcomes), len(records))

    try:
        async with SiteClient(concurrency=concurrency) as client:
            await for_each(records, settle, concurrency)
    finally:
        write_outcomes((before | outcomes).values(), folder)
    return [outcomes[record.mal_id] for record in records]


def _without_asking(record: AnimeRecord, path: Path, before: PosterOutcome | None) -> PosterOutcome | None:
    """What becomes of a poster that need not be downloaded, None where it must be."""
    if is_explicit(record):
        reason = "posters of explicit titles are not downloaded"
        return PosterOutcome(record.mal_id, "explicit", reason, url=record.poster_url)
    if record.poster_url is None:
        return PosterOutcome(record.mal_id, "no_address", "the site has no poster of it")
    here = before and before.sha256 and before.url == record.poster_url and path.is_file()
    if before and here and sha256_of_file(path) == before.sha256:
        return replace(before, status="present")
    return None


async def _download(client: SiteClient, record: AnimeRecord, path: Path) -> PosterOutcome:
    """Download one poster; raises SiteError where the host does not answer as it should."""
    url = record.poster_url or ""
    try:
        data = await client.fetch(url, _whole_image)
    except NotOnSite as error:
        return PosterOutcome(record.mal_id, "missing", str(error), url=url)
    except BrokenImageError as error:
        return PosterOutcome(record.mal_id, "broken", str(error), url=url)
    write_bytes(path, data)
    return PosterOutcome(record.mal_id, "new", sha256=sha256_of(data), url=url)


def _whole_image(data: bytes) -> bytes:
    """The bytes of an image that the models' own decoder reads to its end.

    Raises:
        BrokenImageError: it does not; half of it may have come, with no error on the way.
    """
    try:
        decode(data, _CHECK_SIZE)
    except PosterError as error:
        raise BrokenImageError(str(error)) from error
    return data


def write_outcomes(outcomes: Iterable[PosterOutcome], folder: Path) -> None:
    """Write down what became of each poster, in `posters.csv` beside the folder `posters`."""
    with moved_in(_table(folder)) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.mal_id))


def read_outcomes(folder: Path) -> list[PosterOutcome]:
    """What became of each poster in earlier runs, sorted by id; nothing where no run has written it down."""
    if not _table(folder).is_file():
        return []
    with _table(folder).open(encoding="utf-8", newline="") as file:
        return [
            PosterOutcome(
                mal_id=int(row["mal_id"]),
                status=row["status"],
                reason=row["reason"] or None,
                sha256=row["sha256"] or None,
                url=row["url"] or None,
            )
            for row in csv.DictReader(file)
        ]


def _table(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.csv")
