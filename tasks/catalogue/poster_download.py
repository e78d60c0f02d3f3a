"""Posters as files, `posters/{id}.jpg`, and a table of what is known about each.

A poster table is a DataFrame of text with one row per title and the columns id, status, reason (why there is no
poster), sha256 (of the file) and url. Empty text means none.

| status | meaning |
| --- | --- |
| new, present | there is a file: downloaded now, or in an earlier run |
| missing | the host has nothing at the address (404), or refuses this one address (403) |
| broken | the image is incomplete, does not have a poster's size, or is a web page |
| redirected | the address redirects too often, or to an invalid address |
| failed | the host was not reachable, refused us, or its robots.txt disallowed the address |
| refused | the host's response was not expected |
| placeholder | the source's placeholder, an image that many titles have, or one that several addresses redirect to |
| duplicate | another title has the same image |
| explicit, no_address | never downloaded: the title is explicit, or has no address of a poster |
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from infra.disk import check_space
from infra.files import write_bytes
from ml.data.table_images import in_served_format
from serving.bundle.errors import PosterError, PosterFormatError, PosterSizeError
from serving.bundle.files import atomic_write, sha256_of, sha256_of_file
from serving.bundle.image import decode, image_size
from tasks.catalogue.catalogue_table import STORED_NAMES, sorted_by_id
from tasks.catalogue.crawl_context import CrawlContext
from tasks.catalogue.poster_hosts import PosterHosts
from tasks.crawl.client import ROBOTS_TXT, SiteClient
from tasks.crawl.hosts import NO_REQUEST
from tasks.crawl.ledger import PosterVisit, poster_name
from tasks.crawl.revisits import is_stale
from tasks.crawl.sent_text import described
from tasks.errors import (
    BrokenImageError,
    DisallowedByRobots,
    NotAnImageError,
    NotOnSite,
    RedirectError,
    SiteBlocked,
    SiteError,
    SiteUnavailable,
    UnusableImageError,
    UnwantedRedirect,
    excerpt_of_url,
)

Item = TypeVar("Item")

POSTER_COLUMNS = ["id", "status", "reason", "sha256", "url"]
_CHECK_SIZE = 64  # pixels; any size decodes the whole file
_SMALLEST_SIDE, _LONGEST_RATIO = 32, 5  # pixels, and long side by short side: no poster exceeds these
# After how many days a poster that could not be downloaded is retried. One that "failed" is always due.
_RETRY_DAYS = {"missing": 30.0, "placeholder": 30.0, "redirected": 30.0, "refused": 30.0, "broken": 7.0}
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
    retried when it is due; until then the poster of an earlier address is used. Each poster is in the ledger as soon as
    its file is in its place.

    A host that refuses us, or from which many posters in a row could not be downloaded, is skipped (`PosterHosts`).

    Raises:
        SiteBlocked: all hosts are skipped, and the last one refuses us.
        SiteUnavailable, SiteError: all hosts are skipped, and the last one failed in this way.
    """
    client, ledger, traffic, source = context.client, context.ledger, context.traffic, context.source
    assert client is not None
    earlier = ledger.posters.all()
    visits = await asyncio.to_thread(_settled_visits, context, catalogue, folder, earlier)
    explicit = [visit for id, visit in visits.items() if visit.status == "explicit" and id in earlier]
    withdrawn = [visit for visit in explicit if earlier[visit.id].sha256]
    ledger.posters.put(*(replace(visit, checked=time.time()) for visit in withdrawn))  # the mirror deletes their copies
    url_of = dict(zip(catalogue["id"], catalogue["poster_url"], strict=True))
    due = [id for id in url_of if id not in visits]
    # A poster that ended the last run comes last, so that it does not keep the others from this one.
    due.sort(key=lambda id: earlier[id].checked if id in earlier else 0)
    traffic.expect(len(due))
    for visit in visits.values():
        traffic.note("unchanged" if visit.status == "here" else visit.status, _without_address(visit.why_no_file))
    new: set[str] = set()

    def is_placeholder(url: str) -> bool:
        return source.is_placeholder(url) or source.is_placeholder(url.partition("?")[0])

    def record(visit: PosterVisit) -> None:
        path, known = folder / poster_name(visit.id), earlier.get(visit.id)
        if visit.status == "here":
            new.add(visit.id)
        elif known and visit.status != "placeholder" and _is_here(known, path):
            if visit.status == "failed":
                visits[visit.id] = known
                ledger.posters.put(known)  # the next run tries the new address again
                return
            visit = replace(visit, sha256=known.sha256)
        else:
            path.unlink(missing_ok=True)
        visits[visit.id] = visit
        ledger.posters.put(replace(visit, checked=time.time()))

    used = [url_of[id] for id in due] + [visit.url for visit in visits.values() if visit.status == "here"]
    hosts = PosterHosts(client, used, record)

    async def download(id: str) -> None:
        visit = PosterVisit(id, url_of[id], 0, "failed")
        if reason := hosts.reason_to_skip(visit.url):
            visit = replace(visit, reason=reason)
        else:
            try:
                visit = await _download(client, visit, folder / poster_name(id), is_placeholder)
            except SiteError as error:
                visit = hosts.failed(_failed(visit, error), error, earlier.get(id))
            else:
                hosts.succeeded(visit)
        traffic.settle(visit.status if visit.status != "here" else "new", _without_address(visit.why_no_file))
        record(visit)

    await for_each(due, download, concurrency)
    posters = _table([visits[id] for id in url_of], new)
    judged = _without_shared_images(_without_shared_targets(posters, {**earlier, **visits}.values()))
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


async def _download(
    client: SiteClient, visit: PosterVisit, path: Path, is_placeholder: Callable[[str], bool]
) -> PosterVisit:
    """Download a poster to a file; raises SiteError if there is none, DiskFull if the disk is nearly full."""
    fetched = await client.fetch(visit.url, _whole_image, tolerates_refusals=True, is_unwanted=is_placeholder)
    assert fetched is not None  # only a conditional request can be answered by "unchanged"
    check_space(path.parent)
    write_bytes(path, fetched.content, durable=False)
    target = fetched.url if fetched.url != visit.url else None
    return replace(visit, status="here", sha256=sha256_of(fetched.content), reason=target)


def _failed(visit: PosterVisit, error: SiteError) -> PosterVisit:
    # Reasons are part of stored poster sets and of their hashes.
    match error:
        case SiteUnavailable():
            return replace(visit, reason=f"{excerpt_of_url(visit.url)} could not be had: {error.why}")
        case SiteBlocked():
            return replace(visit, reason=f"{excerpt_of_url(visit.url)} could not be had: its host refuses us")
        case DisallowedByRobots():
            return replace(visit, reason=str(error))  # maybe only today; to look costs one request per host
        case NotOnSite():
            status = "missing"
        case BrokenImageError() | UnusableImageError() | NotAnImageError():
            status = "broken"
        case UnwantedRedirect():
            return replace(visit, status="placeholder", reason=f"{str(error).removesuffix('.')}, a placeholder")
        case RedirectError():
            status = "redirected"
        case _:
            status = "refused"  # a response that will be the same tomorrow
    return replace(visit, status=status, reason=str(error))


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
            visits[id] = PosterVisit(
                id, url, 0, "placeholder", reason=f"{excerpt_of_url(url)} is the site's placeholder"
            )
        else:
            if visit and visit.url == url and _is_settled(visit, path, context.started):
                visits[id] = visit
            continue
        path.unlink(missing_ok=True)
    return visits


def _is_settled(visit: PosterVisit, path: Path, started: float) -> bool:
    if visit.sha256 and not _is_here(visit, path):
        return False
    return visit.status == "here" or not poster_is_due(visit, started)


def poster_is_due(visit: PosterVisit, started: float) -> bool:
    """Whether the crawl that began at `started` retries a poster that could not be downloaded."""
    reason = visit.reason or ""
    if NO_REQUEST in reason or reason.startswith(ROBOTS_TXT):  # earlier versions noted these as the poster's
        return True
    days = _RETRY_DAYS.get(visit.status)
    return days is None or is_stale(visit.url, visit.checked, days, started)


def _is_here(visit: PosterVisit, path: Path) -> bool:
    """Whether the folder has the visit's file, of its present or an earlier address."""
    return visit.sha256 is not None and path.is_file() and sha256_of_file(path) == visit.sha256


def _table(visits: Iterable[PosterVisit], new: set[str]) -> pd.DataFrame:
    def row(visit: PosterVisit) -> tuple[str, ...]:
        if visit.sha256:
            return visit.id, "new" if visit.id in new else "present", "", visit.sha256, visit.url
        return visit.id, visit.status, visit.reason or "", "", visit.url

    rows = [row(visit) for visit in visits]
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


def _without_shared_targets(posters: pd.DataFrame, visits: Iterable[PosterVisit]) -> pd.DataFrame:
    """The table, in which images that several addresses redirect to are placeholders.

    `visits` are those of all known titles.
    """
    urls: dict[str, set[str]] = defaultdict(set)  # the addresses that redirect to a target
    ids: dict[str, set[str]] = defaultdict(set)  # the titles that have a target's image
    for visit in visits:
        if visit.status == "here":
            target = visit.target or visit.url
            ids[target].add(visit.id)
            if visit.target:
                urls[target].add(visit.url)
    shared = {id for target, redirecting in urls.items() if len(redirecting) > 1 for id in ids[target]}
    # A title whose address has changed since may still have the image.
    images = posters["sha256"].isin(posters.loc[posters["id"].isin(shared) & is_usable(posters), "sha256"])
    changed = is_usable(posters) & (posters["id"].isin(shared) | images)
    if not changed.any():
        return posters
    posters = posters.copy()
    posters.loc[changed, ["status", "reason"]] = ["placeholder", "other addresses redirect to this very image, too"]
    return posters


def _whole_image(data: bytes) -> bytes:
    """The bytes of an image that the models' own decoder reads to its end. BMP and TIFF images become PNG.

    Raises:
        BrokenImageError: the image cannot be decoded. A download may have ended early without an error.
        UnusableImageError: no poster has this size.
        NotAnImageError: this is text, such as a web page.
    """
    if not data:
        raise BrokenImageError("The image is empty (0 bytes).")
    try:
        data = in_served_format(data)
        width, height = image_size(data)
        short, long = sorted((width, height))
        if short < _SMALLEST_SIDE or long > _LONGEST_RATIO * short:
            raise UnusableImageError(f"The image has {width} x {height} pixels, which is no poster's size.")
        decode(data, _CHECK_SIZE)
    except PosterSizeError as error:
        raise UnusableImageError(str(error)) from error
    except PosterFormatError as error:
        if text := described(data):
            raise NotAnImageError(f"The host sent {text} instead of an image.") from error
        raise BrokenImageError(str(error)) from error
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
