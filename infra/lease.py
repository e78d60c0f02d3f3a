"""The lease of a bucket: one pipeline at a time writes it, whatever machine it runs on.

The lease is the object `lease.json`. Whoever holds it writes it again every few seconds. Clocks are not compared: if a
waiting pipeline sees the same lease for a minute, the pipeline that wrote it was killed, and the lease is taken over.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import BusyError, InfraError, OutdatedError
from infra.store import Store

logger = logging.getLogger("infra")

LEASE = "lease.json"
RENEW_SECONDS, STALE_SECONDS = 20.0, 60.0
_POLL_SECONDS = 1.0


@contextmanager
def bucket_lease(store: Store, workspace: Path) -> Iterator[None]:
    """Hold the bucket's lease in the block. The caller has locked the workspace against other processes.

    Raises:
        BusyError: another pipeline holds the lease; the message says which one, and since when.
    """
    store = store.whole_bucket()
    place = f"{socket.gethostname()}:{workspace.resolve()}"
    _wait_until_free(store, place)
    lease: dict[str, Any] = {"place": place, "since": datetime.now(UTC).isoformat(timespec="seconds"), "renewed": 0}
    try:
        _write(store, lease)
    except OutdatedError as error:
        raise _busy(store, _read(store) or {}) from error
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, lease, ended), name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(InfraError):  # it is another pipeline's now, or the bucket is unreachable: it becomes stale
            store.delete(LEASE)


def _wait_until_free(store: Store, place: str) -> None:
    """Return if there is no lease, if it is this workspace's, or if nobody renews it. Raise BusyError if it is renewed.

    A process that held the lease for this workspace has ended, because the workspace is locked.
    """
    first = _read(store)
    if first is None or first.get("place") == place:
        return
    logger.info("Another pipeline holds the bucket %s (%s). Waiting to see if it still runs.", store.name, _who(first))
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        found = _read(store)
        if found is None:
            return
        if found != first:
            raise _busy(store, found)
    logger.warning("Taking over the bucket %s: %s has not written for a minute.", store.name, first.get("place"))


def _renew(store: Store, lease: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        lease["renewed"] += 1
        try:
            _write(store, lease)
        except OutdatedError:
            logger.warning("Another pipeline has taken over the bucket %s. What this run writes may fail.", store.name)
            return
        except InfraError as error:
            logger.warning("The lease of the bucket %s cannot be renewed: %s", store.name, error)


def _read(store: Store) -> dict[str, Any] | None:
    return store.read_parsed(LEASE, lambda content: dict(json.loads(content)))


def _write(store: Store, lease: dict[str, Any]) -> None:
    store.write(LEASE, json.dumps({**lease, "process": os.getpid()}).encode())


def _busy(store: Store, lease: dict[str, Any]) -> BusyError:
    return BusyError(f"Another pipeline is using the bucket {store.name}: {_who(lease)}. Wait until it ends.")


def _who(lease: dict[str, Any]) -> str:
    return f"{lease.get('place')}, since {lease.get('since')}"
