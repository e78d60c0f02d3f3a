"""A Dask cluster, on which shards of work run. The owner starts its scheduler and its workers.

A scheduler runs any code of whoever reaches it. So an address beyond this machine must be tls://, with certificates
that Dask's own variables name.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from infra.errors import ConfigurationError, ServiceUnavailable, failure

logger = logging.getLogger("infra")

RETRIES = 2  # of a job that fails; Dask also runs the jobs of a lost worker again
_CONNECT_SECONDS = 15.0
_WORKER_SECONDS = 45.0
_CERTIFICATES = tuple(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))


def check_scheduler(address: str) -> None:
    """Raise ConfigurationError if the address is neither on this machine nor encrypted, or if Dask is missing."""
    parts = urlsplit(address)
    if parts.scheme != "tls" and not _is_loopback(parts.hostname or ""):
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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """An executor whose jobs run on the workers of the scheduler at this address. At the end, jobs are cancelled.

    Raises:
        ConfigurationError: see `check_scheduler`; or certificates are missing or refused.
        ServiceUnavailable: the scheduler is not reachable, or has no worker (retryable).
    """
    check_scheduler(address)
    import distributed

    dask: Any = distributed  # its functions have no types
    is_encrypted = address.startswith("tls:")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it logs each lost connection with a traceback
    try:
        security = dask.Security(require_encryption=True) if is_encrypted else None
        client = dask.Client(address, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (TypeError, FileNotFoundError) as error:  # no certificate, or a path that does not exist
        raise failure(
            ConfigurationError,
            f"The certificates for the Dask scheduler {address} cannot be used",
            error,
            f"Set {', '.join(_CERTIFICATES)} to files.",
        ) from error
    except OSError as error:  # also TimeoutError and errors of TLS
        raise failure(
            ServiceUnavailable,
            f"The Dask scheduler {address} is not reachable",
            error,
            f"Start it with `dask scheduler`{', or check the certificates' if is_encrypted else ''}.",
        ) from error
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        count = len(client.scheduler_info(n_workers=-1)["workers"])
        logger.info("Using the Dask scheduler %s. Its workers: %d.", address, count)
        executor = client.get_executor(pure=False, retries=RETRIES)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
    except TimeoutError as error:
        raise ServiceUnavailable(
            f"The Dask scheduler {address} has had no worker for {_WORKER_SECONDS:.0f} s. Start one with "
            f"`dask worker {address}`."
        ) from error
    finally:
        client.close(timeout=_CONNECT_SECONDS)


def worker_name() -> str:
    """The address of the Dask worker that runs this code."""
    from distributed import get_worker

    return str(get_worker().address)
