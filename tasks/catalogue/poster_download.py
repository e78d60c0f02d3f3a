"""Posters, a file a title: `posters/{mal_id}.jpg`, and beside them `posters.csv`, what became of each."""

import asyncio
import csv
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.files import moved_in, sha256_of, sha256_of_file, write_bytes
from serving.bundle.errors import PosterError, PosterSizeError
from serving.bundle.image import decode, image_size
from tasks.catalogue.titles import AnimeRecord, is_explicit
from tasks.catalogue.workers import for_each
from tasks.crawl.client import SiteClient
from tasks.crawl.ledger import Ledger, PosterVisit
from tasks.crawl.revisits import is_stale
from tasks.crawl.traffic import Traffic
from tasks.errors import (
    BrokenImageError,
    NotOnSite,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
    UnusableImageError,
)

# One poster that cannot be had is no matter; so many without one between them are a host that is down.
_FAILURES_IN_A_ROW = 20
_CHECK_SIZE = 64  # pixels; any size decodes the whole file
_SMALLEST_SIDE, _LONGEST_RATIO = 32, 5  # pixels, and long side by short side: no poster is beyond these
# After how many days a poster that could not be downloaded is retried. One that "failed" is always due.
_RETRY_DAYS = {"missing": 30.0, "refused": 365.0, "broken": 7.0}
# The site's question mark and its icon, where they stand in a poster's place.
_PLACEHOLDER_ADDRESS = re.compile(r"/(?:qm_\d+|questionmark_\d+|apple-touch-icon[^/]*|na|no_?image)\.\w+$")
# Two or three titles share a poster now and then; an image of so many is no poster.
_PLACEHOLDER_TITLES = 5
_COLUMNS = ("mal_id", "url", "sha256", "status", "reason")


@dataclass(frozen=True)
class PosterOutcome:
    """What became of a title's poster.

    `status` is "new" (downloaded now), "present" (downloaded before), "missing" (404), "broken" (no whole image,
    or none of a poster's size), "failed" (the host did not answer as it should), "refused" (it refused us),
    "placeholder", "duplicate" (another title has the same image), "explicit" (never asked for) or "no_address".
    `sha256` is the file's, None where there is no file; `reason` says what is the matter.
    """

    mal_id: int
    status: str
    reason: str | None = None
    sha256: str | None = None
    url: str | None = None

    @property
    def usable(self) -> bool:
        """Whether there is a poster to learn from."""
        return self.status in ("new", "present")


async def download_posters(
    records: Sequence[AnimeRecord],
    folder: Path,
    client: SiteClient,
    ledger: Ledger,
    started: float,
    traffic: Traffic,
    concurrency: int = 4,
) -> list[PosterOutcome]:
    """Download the posters of some titles that are not in `folder` yet; one outcome a record, in their order.

    A file that is there from the same address is never asked for again; what could not be had is, where it is due
    in the crawl that began at `started`. Each poster is in the ledger as soon as its file is in its place.

    Raises:
        SiteBlocked: the host refuses us.
        SiteUnavailable, SiteError: many posters in a row could not be had.
    """
    visits = {int(key): visit for key, visit in ledger.posters.all().items()}
    outcomes = await asyncio.to_thread(_without_asking, records, folder, visits, started)
    asked = [record for record in records if record.mal_id not in outcomes]
    traffic.expect(len(asked))
    for outcome in outcomes.values():
        traffic.note("unchanged" if outcome.usable else outcome.status, _short(outcome.reason))
    failures_in_a_row = 0

    async def settle(record: AnimeRecord) -> None:
        nonlocal failures_in_a_row
        path, url = folder / f"{record.mal_id}.jpg", record.poster_url or ""
        visit = PosterVisit(str(record.mal_id), url, 0, "failed")
        try:
            fetched = await client.fetch(url, _whole_image)
        except NotOnSite as error:
            visit = replace(visit, status="missing", reason=str(error))
        except (BrokenImageError, UnusableImageError) as error:
            visit = replace(visit, status="broken", reason=str(error))
        except SiteBlocked as error:
            if error.address:  # so that one poster that is refused for ever does not end each run
                ledger.posters.put(replace(visit, status="refused", reason=str(error), checked=time.time()))
            raise
        except SiteError as error:
            failures_in_a_row += 1
            if failures_in_a_row == _FAILURES_IN_A_ROW:
                raise
            if isinstance(error, SiteUnavailable):
                visit = replace(visit, reason=f"{url} could not be had: {error.why}")
            else:  # an answer that will be the same tomorrow
                visit = replace(visit, status="refused", reason=str(error))
        else:
            assert fetched is not None  # nothing was known that could have stayed the same
            write_bytes(path, fetched.content)
            visit = replace(visit, status="here", sha256=sha256_of(fetched.content))
        failures_in_a_row = failures_in_a_row if visit.status in ("failed", "refused") else 0
        outcome = _outcome(visit, "new")
        older = visits.get(record.mal_id)
        if visit.status == "failed" and older and _is_here(older, path):
            outcome = _outcome(older, "present")  # a poster of an older address is better than none, for now
        else:
            if visit.sha256 is None:
                path.unlink(missing_ok=True)
            ledger.posters.put(replace(visit, checked=time.time()))
        outcomes[record.mal_id] = outcome
        traffic.settle(visit.status if visit.status != "here" else "new", _short(visit.reason))

    await for_each(asked, settle, concurrency)
    judged = _judged([outcomes[record.mal_id] for record in records])
    for outcome in judged:
        if outcome.status != outcomes[outcome.mal_id].status:
            traffic.note(outcome.status, "other titles have the same image")
    return judged


def _without_asking(
    records: Sequence[AnimeRecord], folder: Path, visits: dict[int, PosterVisit], started: float
) -> dict[int, PosterOutcome]:
    """What became of the posters that need not be downloaded, by id."""
    outcomes: dict[int, PosterOutcome] = {}
    for record in records:
        path, visit = folder / f"{record.mal_id}.jpg", visits.get(record.mal_id)
        if unwanted := _unwanted(record):
            outcomes[record.mal_id] = unwanted
            path.unlink(missing_ok=True)
        elif visit and visit.url == record.poster_url and _is_settled(visit, path, started):
            outcomes[record.mal_id] = _outcome(visit, "present")
    return outcomes


def poster_is_due(visit: PosterVisit, started: float) -> bool:
    """Whether the crawl that began at `started` retries a poster that could not be downloaded."""
    days = _RETRY_DAYS.get(visit.status)
    return days is None or is_stale(visit.url, visit.checked, days, started)


def _is_settled(visit: PosterVisit, path: Path, started: float) -> bool:
    return _is_here(visit, path) if visit.status == "here" else not poster_is_due(visit, started)


def _is_here(visit: PosterVisit, path: Path) -> bool:
    return visit.status == "here" and path.is_file() and sha256_of_file(path) == visit.sha256


def _unwanted(record: AnimeRecord) -> PosterOutcome | None:
    """The outcome of a poster that is never asked for."""
    url = record.poster_url
    if is_explicit(record):
        return PosterOutcome(record.mal_id, "explicit", "posters of explicit titles are not downloaded", url=url)
    if url is None:
        return PosterOutcome(record.mal_id, "no_address", "the site shows a placeholder, or no image")
    if _PLACEHOLDER_ADDRESS.search(url):
        return PosterOutcome(record.mal_id, "placeholder", f"{url} is the site's placeholder", url=url)
    return None


def _outcome(visit: PosterVisit, here: str) -> PosterOutcome:
    status = here if visit.status == "here" else visit.status
    return PosterOutcome(int(visit.id), status, visit.reason, visit.sha256, visit.url)


def _judged(outcomes: Sequence[PosterOutcome]) -> list[PosterOutcome]:
    """The outcomes, with images that several titles have told apart: the title of the lowest id keeps a poster that
    it shares with a few, nobody one that many have."""
    sharing: defaultdict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.usable:
            sharing[str(outcome.sha256)].append(outcome.mal_id)

    def judge(outcome: PosterOutcome) -> PosterOutcome:
        titles = sharing.get(outcome.sha256 or "", [])
        if len(titles) >= _PLACEHOLDER_TITLES:
            return replace(outcome, status="placeholder", reason=f"{len(titles)} titles have this very image")
        if len(titles) > 1 and outcome.mal_id != min(titles):
            return replace(outcome, status="duplicate", reason=f"the same image as that of {min(titles)}")
        return outcome

    return [judge(outcome) for outcome in outcomes]


def _whole_image(data: bytes) -> bytes:
    """The bytes of an image that the models' own decoder reads to its end.

    Raises:
        BrokenImageError: it does not; half of it may have come, with no error on the way.
        UnusableImageError: it is of a size that no poster has.
    """
    try:
        width, height = image_size(data)
        short, long = sorted((width, height))
        if short < _SMALLEST_SIDE or long > _LONGEST_RATIO * short:
            raise UnusableImageError(f"The image has {width} x {height} pixels, which is no poster's size.")
        decode(data, _CHECK_SIZE)
    except PosterSizeError as error:
        raise UnusableImageError(str(error)) from error
    except PosterError as error:
        raise BrokenImageError(str(error)) from error
    return data


def _short(reason: str | None) -> str | None:
    """A reason without the address that differs from title to title."""
    return re.sub(r"https?://\S+", "the address", reason) if reason else None


def write_outcomes(outcomes: Iterable[PosterOutcome], folder: Path) -> None:
    """Write down what became of each poster, for people: `posters.csv` beside the folder `posters`."""
    with (
        moved_in(folder.with_name(f"{folder.name}.csv")) as beside,
        beside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.mal_id))
