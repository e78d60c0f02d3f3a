"""Posters as files, `posters/{id}.jpg`, and a table of what is known about each.

A poster table is a DataFrame of text with one row per title and the columns id, status, reason (why there is no
poster), sha256 (of the file) and url. Empty text means none.

| status | meaning |
| --- | --- |
| new, present | there is a file: downloaded now, or in an earlier run |
| missing | the host has nothing at the address (404) |
| broken | the image is incomplete, or does not have a poster's size |
| failed, refused | the host was not reachable, or did not send the poster |
| placeholder | the source's placeholder, or an image that many titles have |
| duplicate | another title has the same image |
| explicit, no_address | never downloaded: the title is explicit, or has no address of a poster |
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from infra.files import atomic_write, sha256_of, sha256_of_file, write_bytes
from serving.bundle.errors import PosterError, PosterSizeError
from serving.bundle.image import decode, image_size
from tasks.catalogue.catalogue_table import STORED_NAMES, sorted_by_id
from tasks.catalogue.crawl_context import CrawlContext
from tasks.crawl.client import SiteClient
from tasks.crawl.ledger import PosterVisit, poster_name
from tasks.crawl.revisits import is_stale
from tasks.errors import (
    BrokenImageError,
    NotOnSite,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
    UnusableImageError,
)

Item = TypeVar("Item")

POSTER_COLUMNS = ["id", "status", "reason", "sha256", "url"]
# One poster that fails does not matter. So many in a row mean that the host is down.
_FAILURES_IN_A_ROW = 20
_CHECK_SIZE = 64  # pixels; any size decodes the whole file
_SMALLEST_SIDE, _LONGEST_RATIO = 32, 5  # pixels, and long side by short side: no poster exceeds these
# After how many days a poster that could not be downloaded is retried. One that "failed" is always due.
_RETRY_DAYS = {"missing": 30.0, "refused": 365.0, "broken": 7.0}
# Two or three titles may share a poster. An image of so many is a placeholder.
_PLACEHOLDER_TITLES = 5


def is_usable(posters: pd.DataFrame) -> "pd.Series[bool]":
    """Which titles of a poster table have a poster to learn from."""
    return posters["status"].isin(["new", "present"])


async def download_posters(
    context: CrawlContext, catalogue: pd.DataFrame, folder: Path, concurrency: int = 4
) -> pd.DataFrame:
    """Download the posters of a catalogue that are not in `folder` yet; returns a poster table in the same order.

    A poster that was downloaded from the same address is never fetched again. One that could not be downloaded is
    retried when it is due. Each poster is in the ledger as soon as its file is in its place.

    Raises:
        SiteBlocked: the host refuses us.
        SiteUnavailable, SiteError: many posters in a row could not be downloaded.
    """
    client, ledger, traffic = context.client, context.ledger, context.traffic
    assert client is not None
    earlier = ledger.posters.all()
    visits = await asyncio.to_thread(_settled_visits, context, catalogue, folder, earlier)
    url_of = dict(zip(catalogue["id"], catalogue["poster_url"], strict=True))
    due = [id for id in url_of if id not in visits]
    traffic.expect(len(due))
    for visit in visits.values():
        traffic.note("unchanged" if visit.status == "here" else visit.status, _without_address(visit.reason))
    new: set[str] = set()
    failures_in_a_row = 0

    async def download(id: str) -> None:
        nonlocal failures_in_a_row
        path, visit = folder / poster_name(id), PosterVisit(id, url_of[id], 0, "failed")
        try:
            visit = await _download(client, visit, path)
        except SiteBlocked as error:
            if error.url:  # remembered, so that one refused poster does not end every run
                ledger.posters.put(replace(visit, status="refused", reason=str(error), checked=time.time()))
            raise
        except SiteError as error:
            failures_in_a_row += 1
            if failures_in_a_row == _FAILURES_IN_A_ROW:
                raise
            visit = _failed(visit, error)
        else:
            failures_in_a_row = 0
        traffic.settle(visit.status if visit.status != "here" else "new", _without_address(visit.reason))
        known = earlier.get(id)
        if visit.status == "failed" and known and _is_here(known, path):
            visits[id] = known  # until the new address is reachable, the poster of the old one is used
            return
        if visit.status == "here":
            new.add(id)
        else:
            path.unlink(missing_ok=True)
        visits[id] = visit
        ledger.posters.put(replace(visit, checked=time.time()))

    await for_each(due, download, concurrency)
    posters = _table([visits[id] for id in url_of], new)
    judged = _without_shared_images(posters)
    for status in judged.loc[judged["status"] != posters["status"], "status"]:
        traffic.note(status, "other titles have the same image")
    return judged


async def for_each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Do `work` for each item, at most `concurrency` at a time.

    The first exception cancels the work in progress and is raised as it is.
    """
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _download(client: SiteClient, visit: PosterVisit, path: Path) -> PosterVisit:
    """Download a poster to a file; raises SiteError if the host does not say what it has at the address."""
    try:
        fetched = await client.fetch(visit.url, _whole_image)
    except NotOnSite as error:
        return replace(visit, status="missing", reason=str(error))
    except (BrokenImageError, UnusableImageError) as error:
        return replace(visit, status="broken", reason=str(error))
    assert fetched is not None  # only a conditional request can be answered by "unchanged"
    write_bytes(path, fetched.content)
    return replace(visit, status="here", sha256=sha256_of(fetched.content))


def _failed(visit: PosterVisit, error: SiteError) -> PosterVisit:
    # Reasons are part of stored poster sets and of their hashes.
    if isinstance(error, SiteUnavailable):
        return replace(visit, status="failed", reason=f"{visit.url} could not be had: {error.why}")
    return replace(visit, status="refused", reason=str(error))  # a response that will be the same tomorrow


def _settled_visits(
    context: CrawlContext, catalogue: pd.DataFrame, folder: Path, earlier: Mapping[str, PosterVisit]
) -> dict[str, PosterVisit]:
    """The visits of posters that this crawl does not fetch, by id."""
    visits: dict[str, PosterVisit] = {}
    explicit = context.source.is_explicit(catalogue)
    for id, url, is_explicit in zip(catalogue["id"], catalogue["poster_url"], explicit, strict=True):
        path, visit = folder / poster_name(id), earlier.get(id)
        if is_explicit:
            reason = "posters of explicit titles are not downloaded"
            visits[id] = PosterVisit(id, url, 0, "explicit", reason=reason)
        elif not url:
            visits[id] = PosterVisit(id, "", 0, "no_address", reason="the site shows a placeholder, or no image")
        elif context.source.is_placeholder(url):
            visits[id] = PosterVisit(id, url, 0, "placeholder", reason=f"{url} is the site's placeholder")
        else:
            if visit and visit.url == url and _is_settled(visit, path, context.started):
                visits[id] = visit
            continue
        path.unlink(missing_ok=True)
    return visits


def _is_settled(visit: PosterVisit, path: Path, started: float) -> bool:
    return _is_here(visit, path) if visit.status == "here" else not poster_is_due(visit, started)


def poster_is_due(visit: PosterVisit, started: float) -> bool:
    """Whether the crawl that began at `started` retries a poster that could not be downloaded."""
    days = _RETRY_DAYS.get(visit.status)
    return days is None or is_stale(visit.url, visit.checked, days, started)


def _is_here(visit: PosterVisit, path: Path) -> bool:
    return visit.status == "here" and path.is_file() and sha256_of_file(path) == visit.sha256


def _table(visits: Iterable[PosterVisit], new: set[str]) -> pd.DataFrame:
    def status(visit: PosterVisit) -> str:
        return visit.status if visit.status != "here" else "new" if visit.id in new else "present"

    rows = [(visit.id, status(visit), visit.reason or "", visit.sha256 or "", visit.url) for visit in visits]
    return pd.DataFrame(rows, columns=POSTER_COLUMNS, dtype=str)


def _without_shared_images(posters: pd.DataFrame) -> pd.DataFrame:
    """The table, in which of the titles that share an image the first one keeps it, or none if they are many."""
    by_image = sorted_by_id(posters[is_usable(posters)]).groupby("sha256")["id"]
    judged: dict[str, tuple[str, str]] = {}
    for ids in by_image.agg(list):
        if len(ids) >= _PLACEHOLDER_TITLES:
            judged |= dict.fromkeys(ids, ("placeholder", f"{len(ids)} titles have this very image"))
        elif len(ids) > 1:
            judged |= dict.fromkeys(ids[1:], ("duplicate", f"the same image as that of {ids[0]}"))
    if not judged:
        return posters
    posters, changed = posters.copy(), posters["id"].isin(judged)
    posters.loc[changed, ["status", "reason"]] = [judged[id] for id in posters.loc[changed, "id"]]
    return posters


def _whole_image(data: bytes) -> bytes:
    """The bytes of an image that the models' own decoder reads to its end.

    Raises:
        BrokenImageError: the image cannot be decoded. A download may have ended early without an error.
        UnusableImageError: no poster has this size.
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


def _without_address(reason: str | None) -> str | None:
    """A reason without the address, which differs from title to title."""
    return re.sub(r"https?://\S+", "the address", reason) if reason else None


def write_posters(posters: pd.DataFrame, folder: Path) -> None:
    """Write a poster table for people: `posters.csv` beside the folder `posters`."""
    columns = ["id", "url", "sha256", "status", "reason"]
    with atomic_write(folder.with_name(f"{folder.name}.csv")) as beside:
        table = sorted_by_id(posters)[columns].rename(columns=STORED_NAMES)
        table.to_csv(beside, index=False, lineterminator="\n")
