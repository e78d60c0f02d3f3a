"""A Dask cluster, on which shards of work run. The owner starts its scheduler and its workers.

A scheduler runs any code of whoever reaches it. So an address beyond this machine must be tls://, with certificates
that Dask's own variables name.
"""

import logging
import pickle
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from infra.errors import ConfigurationError, ServiceUnavailable, WorkerError, WorkerUnavailable, failure
from infra.loopback import is_loopback
from serving.bundle.errors import AnimeGenreError
from serving.bundle.wording import counted

logger = logging.getLogger("infra")
Job = TypeVar("Job")

_RETRIES = 2  # of a job whose error a retry may help; Dask also runs the jobs of a lost worker again
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 15.0
_WORKER_SECONDS = 45.0
_CERTIFICATES = tuple(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))


def check_scheduler(address: str) -> None:
    """Raise ConfigurationError if the address is neither on this machine nor encrypted, or if Dask is missing."""
    if urlsplit(address).scheme != "tls" and not is_loopback(address):
        raise ConfigurationError(
            f"The Dask scheduler {address} is on another machine and not encrypted: whoever reaches it can run code "
            "there. Start it with TLS and set ANIME_GENRE_DASK to its tls:// address."
        )
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "ANIME_GENRE_DASK is set, but Dask is not installed. Run `pip install '.[dask]'`, or unset it."
        ) from error


def run_on_cluster(address: str, work: Callable[[Job], None], jobs: Sequence[Job]) -> Iterator[Job]:
    """Run `work` on the workers of a scheduler for each job, and yield the jobs as they complete.

    `work` and the jobs are pickled; a worker imports their modules. Jobs that a lost worker had begun are run again, as
    are jobs with an error that a retry may help. When the caller stops, the other jobs are cancelled.

    Raises:
        ConfigurationError: see `check_scheduler`; or certificates are missing.
        WorkerError: a worker has another version of Python, or lacks a module.
        WorkerUnavailable: a job failed for another reason than an error of this project (retryable).
        ServiceUnavailable: the scheduler is not reachable, was lost, or has no worker (retryable).
        AnimeGenreError: what `work` raised on a worker.
    """
    with _connected(address) as client:
        _wait_for_workers(client, address)
        executor: Executor = client.get_executor(pure=False, retries=_RETRIES)
        pickled, run = pickle.dumps(work), _runner()
        jobs_of = {executor.submit(run, pickled, pickle.dumps(job)): job for job in jobs}
        waiting = set(jobs_of)
        seen = time.monotonic()
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    _check(future, address)
                    yield jobs_of[future]
                if done or _workers(client):
                    seen = time.monotonic()
                elif time.monotonic() - seen > _WORKER_SECONDS:
                    raise _no_worker(address)
        finally:
            executor.shutdown(wait=False)


def _runner() -> Callable[[bytes, bytes], Exception | None]:
    """A function that is sent as it is, and not by its module's name. It returns an error that no retry helps.

    A worker's event loop unpickles what it gets, and a module that it cannot import ends the whole worker. Dask retries
    each job that raises an error, whatever its type.
    """

    def run(work: bytes, job: bytes) -> Exception | None:
        try:
            pickle.loads(work)(pickle.loads(job))
        except Exception as error:
            if getattr(error, "retryable", not isinstance(error, ImportError)):
                raise
            return error
        return None

    return run


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    check_scheduler(address)
    import distributed

    dask: Any = distributed  # its functions have no types
    is_encrypted = address.startswith("tls:")
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it logs a lost scheduler with a traceback
    try:
        security = dask.Security(require_encryption=True) if is_encrypted else None
        client = dask.Client(address, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (TypeError, FileNotFoundError) as error:  # no certificate, or a path that does not exist
        raise failure(
            ConfigurationError,
            f"The Dask scheduler {address} needs certificates",
            error,
            "Set the variables below to files.",
            details="\n".join(_CERTIFICATES),
        ) from error
    except OSError as error:  # also TimeoutError and errors of TLS
        raise failure(
            ServiceUnavailable,
            f"The Dask scheduler {address} is not reachable",
            error,
            f"Start it with `dask scheduler`{', or check the certificates' if is_encrypted else ''}.",
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=_CONNECT_SECONDS)


def _workers(client: Any) -> Mapping[str, Any]:
    """The workers by address; empty if the scheduler is lost."""
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1).get("workers", {})
    return workers


def _wait_for_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except TimeoutError as error:
        raise _no_worker(address) from error
    here = ".".join(platform.python_version_tuple()[:2])
    workers = client.get_versions()["workers"]
    for worker, found in workers.items():
        version = ".".join(found["host"]["python"].split(".")[:2])
        if version != here:
            raise WorkerError(
                f"The Dask worker {worker} has Python {version} instead of {here}. Start it with the same version."
            )
    logger.info("Using the Dask scheduler %s with %s.", address, counted(len(workers), "worker"))


def _no_worker(address: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"The Dask scheduler {address} has had no worker for {_WORKER_SECONDS:.0f} s. Start one with "
        f"`dask worker {address}`."
    )


def _check(future: "Future[Exception | None]", address: str) -> None:
    """Raise the error that a future has or returns, in the words of this project."""
    try:
        if error_of_work := future.result():
            raise error_of_work
    except CancelledError as error:
        raise ServiceUnavailable(f"The connection to the Dask scheduler {address} was lost.") from error
    except AnimeGenreError:
        raise
    except ModuleNotFoundError as error:
        raise WorkerError(
            f"A worker of the Dask scheduler {address} has no module {error.name}. Install anime-genre with "
            "`pip install '.[pipeline,dask]'` there."
        ) from error
    except Exception as error:  # any error of the work, and those of Dask, such as KilledWorker
        raise failure(
            WorkerUnavailable,
            f"A job on the Dask cluster {address} failed",
            f"{type(error).__name__}: {error}",
            "See the log of its workers.",
        ) from error


def worker_name() -> str:
    """The address of the Dask worker that runs this code."""
    from distributed import get_worker

    return str(get_worker().address)
