"""Rows of numbers per poster that machines share: features of a backbone, or a bundle's predictions.

    {key}/{shard}.npy, .json    in the bucket as in the workspace (see `ml.data.shards`); the index is uploaded last

Rows that the bucket has are computed nowhere again. With ANIME_GENRE_DASK, missing rows are computed by jobs on a Dask
cluster, one per shard. A job fetches its posters from the bucket, decodes them, computes their rows and uploads them.
It keeps nothing on its disk and returns nothing: machines share only the bucket and the scheduler.
"""

import logging
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from infra.cluster import run_on_cluster, worker_name
from infra.disk import disk_errors
from infra.errors import WorkerError, WorkerUnavailable
from infra.settings import read_settings
from infra.store import Store, crc32c_of_file
from ml.data.decoding import is_decoded, open_pixels
from ml.data.shards import FILLED_ROWS, Shards
from ml.reporting import NullReporter, Reporter
from serving.bundle.errors import AnimeGenreError
from tasks.stored_posters import decode_stored
from tasks.versions import check_versions, training_versions

logger = logging.getLogger("tasks")

_ARRAY, _INDEX = ".npy", ".json"

RowsOf = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.float32]]
"""Rows float32 [n, F] of posters uint8 [n, 3, S, S]; the second argument [n] says which of them could be decoded."""


class RowWork(Hashable, Protocol):
    """What is computed for each poster. It is sent to other machines, so it has no local paths.

    Attributes:
        key: the folder of the rows in bucket and workspace; other ways to compute them have other keys.
        width: numbers per row, F.
        image_size: width and height of decoded posters in pixels, S.
        batch_size: posters per call of the function.
        doing: what is computed, for progress.
    """

    @property
    def key(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def image_size(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def doing(self) -> str: ...

    def load(self, store: Store, workspace: Path) -> RowsOf:
        """The function, with all files that it needs in the workspace."""


@dataclass(frozen=True)
class ShardJob:
    """The rows of one shard: what is computed, the posters by sha256 with a title's id, and the sender's versions."""

    work: RowWork
    collection: str
    posters: Mapping[str, str]
    versions: Mapping[str, str]


def fetch_rows(store: Store, workspace: Path, key: str) -> None:
    """Download the complete shards that are in the bucket and not in the workspace."""
    listed = set(store.keys(f"{key}/"))
    missing = [
        Path(index).stem
        for index in sorted(listed)
        if index.endswith(_INDEX) and _array(index) in listed and not (workspace / index).exists()
    ]
    for ending in (_ARRAY, _INDEX):  # the index last: it declares a shard complete
        store.download({f"{key}/{name}{ending}": workspace / key / f"{name}{ending}" for name in missing})


def publish_rows(store: Store, workspace: Path, key: str) -> None:
    """Upload the workspace's complete shards that the bucket lacks, or has with other content."""
    present = store.checksums(f"{key}/")
    names = [index.stem for index in sorted((workspace / key).glob(f"*{_INDEX}"))]
    for ending in (_ARRAY, _INDEX):
        files = {f"{key}/{name}{ending}": workspace / key / f"{name}{ending}" for name in names}
        store.upload({each: path for each, path in files.items() if present.get(each) != crc32c_of_file(path)})


def _array(index: str) -> str:
    return index.removesuffix(_INDEX) + _ARRAY


def complete_rows(work: RowWork, collection: str, posters: Mapping[str, str], reporter: Reporter) -> Shards:
    """Rows of all posters, given by sha256 with a title's id, in workspace and bucket.

    Raises:
        WorkerError, WorkerUnavailable: see `compute_on_cluster`.
        StalePosterError: a poster in the bucket was replaced in the meantime.
        ServiceUnavailable: the bucket is not reachable (retryable).
    """
    settings = read_settings(collection)
    store, folder = Store(settings), settings.folder
    fetch_rows(store, folder, work.key)
    shards = _open(work, folder)
    with shards.adding(posters) as missing:
        if missing and not settings.dask:
            rows_of = work.load(store, folder)
            _add_rows(shards, work, rows_of, store, folder, {each: posters[each] for each in missing}, reporter)
            publish_rows(store, folder, work.key)
    if missing and settings.dask:
        compute_on_cluster(work, collection, {each: posters[each] for each in missing}, reporter)
        fetch_rows(store, folder, work.key)
        shards = _open(work, folder)
    return shards


def _open(work: RowWork, folder: Path) -> Shards:
    return Shards(folder / work.key, (work.width,), np.float32)


def _add_rows(
    shards: Shards,
    work: RowWork,
    rows_of: RowsOf,
    store: Store,
    folder: Path,
    posters: Mapping[str, str],
    reporter: Reporter,
) -> None:
    """Compute the rows of these posters here. Their pixels are those in the folder, or are decoded into it."""
    pixels = open_pixels(folder, work.image_size)
    decode_stored(store, folder, {id: sha256 for sha256, id in posters.items()}, pixels, reporter)

    def rows(hashes: Sequence[str]) -> NDArray[np.float32]:
        return rows_of(pixels.rows(hashes)[:], np.array([is_decoded(note) for note in pixels.notes(hashes)]))

    reporter.progress(0, len(posters), work.doing, "images")
    shards.fill(
        sorted(posters), rows, work.batch_size, lambda done: reporter.progress(done, len(posters), work.doing, "images")
    )


def compute_on_cluster(work: RowWork, collection: str, posters: Mapping[str, str], reporter: Reporter) -> None:
    """Compute rows of posters, given by sha256 with a title's id, on the Dask cluster, into the bucket.

    Shards that were completed before an error stay in the bucket.

    Raises:
        WorkerError: a worker cannot do its work: other versions, no rights, a full disk. The message names it.
        WorkerUnavailable: a worker failed for a temporary reason (retryable).
        AnimeGenreError: see `infra.cluster.run_on_cluster`.
    """
    address = read_settings().dask
    assert address is not None
    hashes, here = sorted(posters), training_versions()
    jobs = [
        ShardJob(work, collection, {each: posters[each] for each in hashes[start : start + FILLED_ROWS]}, here)
        for start in range(0, len(hashes), FILLED_ROWS)
    ]
    done = 0
    reporter.progress(done, len(hashes), work.doing, "images")
    for job in run_on_cluster(address, run_job, jobs):
        done += len(job.posters)
        reporter.progress(done, len(hashes), work.doing, "images")


def run_job(job: ShardJob) -> None:
    """Compute the rows of a job's posters on this machine, a worker of a Dask cluster, and upload them."""
    try:
        check_versions(job.versions)
        settings = read_settings(job.collection)
        store = Store(settings)
        with disk_errors(settings.workspace), _job_folder(settings.workspace) as folder:
            rows_of = _loaded(job.work, job.collection)
            _add_rows(_open(job.work, folder), job.work, rows_of, store, folder, job.posters, NullReporter())
            publish_rows(store, folder, job.work.key)
    except AnimeGenreError as error:
        kind = WorkerUnavailable if error.retryable else WorkerError
        raise kind(f"The Dask worker {worker_name()}: {error.message}", error.details) from error


@lru_cache(1)
def _loaded(work: RowWork, collection: str) -> RowsOf:
    """The work's function, kept for the next job: a GPU computes its rows faster than this reads a network."""
    settings = read_settings(collection)
    return work.load(Store(settings), settings.folder)


@contextmanager
def _job_folder(workspace: Path) -> Iterator[Path]:
    """A folder for the block. Those of jobs whose process was killed are removed first: nobody holds their locks."""
    workspace.mkdir(parents=True, exist_ok=True)
    for lock in workspace.glob(".job-*.lock"):
        with suppress(Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    folder = workspace / f".job-{uuid4().hex}"
    lock = folder.with_suffix(".lock")
    with FileLock(lock):
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)
