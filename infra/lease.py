"""The leases of a bucket: one pipeline at a time writes it, and one rollout at a time moves its traffic.

Leases are the objects `lease.json` and `rollout.json`. Whoever holds one writes it again every 20 seconds. Clocks are
not compared: if somebody who waits sees the same lease for a minute, its holder was killed, and it is taken over.

A workspace takes over its own lease at once. It recognises it by the machine's name, its path and the random id in its
file `workspace.id`. Two containers with the same name and path have different ids. A clone of a machine has the same id
in its workspace, so it counts as the original.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from infra.errors import BusyError, InfraError, OutdatedError
from infra.files import write_bytes
from infra.store import Store
from serving.bundle.files import temporary_path

logger = logging.getLogger("infra")

Holder = Literal["pipeline", "rollout"]

LEASE = "lease.json"
WORKSPACE_ID = "workspace.id"
_KEYS: dict[Holder, str] = {"pipeline": LEASE, "rollout": "rollout.json"}
RENEW_SECONDS, STALE_SECONDS = 20.0, 60.0
ROLLOUT_WAIT_SECONDS = 600.0
_POLL_SECONDS = 1.0
_waited_for: dict[Holder, str] = {}  # which holder this process has logged last


@contextmanager
def bucket_lease(
    store: Store, workspace: Path, holder: Holder = "pipeline", wait_seconds: float = 0.0
) -> Iterator[None]:
    """Hold a lease of the bucket in the block. The caller has locked the workspace against others of its kind.

    Args:
        store: any collection of the bucket: they share the lease.
        workspace: who holds it, with the name of this machine.
        holder: what holds the lease, a pipeline or a rollout. Each has a lease of its own.
        wait_seconds: how long to wait for another holder that goes on.

    Raises:
        BusyError: another one holds the lease; the message says which one, and since when.
    """
    store, key = store.whole_bucket(), _KEYS[holder]
    lease: dict[str, Any] = {
        "place": f"{socket.gethostname()}:{workspace.resolve()}",
        "workspace": _workspace_id(workspace),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "renewed": 0,
    }
    deadline = time.monotonic() + wait_seconds
    while True:
        _wait_until_free(store, holder, lease, deadline)
        try:
            _write(store, key, lease)
            break
        except OutdatedError as error:
            if time.monotonic() >= deadline:
                raise _busy(store, holder, _read(store, key) or {}) from error
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, holder, lease, ended), name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(InfraError):  # it is another holder's now, or the bucket is unreachable: it becomes stale
            store.delete(key)


@contextmanager
def rollout_lease(store: Store, workspace: Path) -> Iterator[None]:
    """Hold the lease of a rollout in the block, so that no other one moves the traffic.

    Another rollout is waited for, in this workspace by a lock that ends with its process.

    Raises:
        BusyError: the other rollout takes longer than `ROLLOUT_WAIT_SECONDS`.
    """
    lock, began = FileLock(workspace / "rollout.lock"), time.monotonic()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found = _read(store.whole_bucket(), _KEYS["rollout"]) or {"place": workspace}
        logger.warning("Waiting for another rollout: %s.", _who(found))
        try:
            lock.acquire(timeout=ROLLOUT_WAIT_SECONDS)
        except Timeout:
            raise _busy(store, "rollout", found) from None
    try:
        with bucket_lease(store, workspace, "rollout", began + ROLLOUT_WAIT_SECONDS - time.monotonic()):
            yield
    finally:
        lock.release()


def _workspace_id(workspace: Path) -> str:
    """The random id of a workspace. The first process writes it; others that start at the same time read that one."""
    file = workspace / WORKSPACE_ID
    if not file.exists():
        new = uuid.uuid4().hex
        temporary = temporary_path(workspace / new)
        write_bytes(temporary, new.encode())
        try:
            os.link(temporary, file)  # unlike a move, it replaces nothing
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return file.read_text(errors="replace")


def _is_ours(found: Mapping[str, Any], lease: Mapping[str, Any]) -> bool:
    """Whether a lease is this workspace's. Leases of versions before December 2026 have no id."""
    place, workspace = lease["place"], lease["workspace"]
    return (found.get("place"), found.get("workspace", workspace)) == (place, workspace)


def _wait_until_free(store: Store, holder: Holder, lease: Mapping[str, Any], deadline: float) -> None:
    """Return if there is no lease, if it is this workspace's, or if nobody renews it.

    A process that held the lease for this workspace has ended, because the workspace is locked. BusyError is raised if
    the lease is renewed after the deadline.
    """
    key = _KEYS[holder]
    found = _read(store, key)
    if found is None or _is_ours(found, lease):
        return
    if _waited_for.get(holder) != _who(found):  # a run that waits for hours tries again every few seconds
        _waited_for[holder] = _who(found)
        logger.warning("Another %s holds the bucket %s (%s). Waiting for it.", holder, store.name, _who(found))
    seen, renewed = found, time.monotonic()
    while time.monotonic() < renewed + STALE_SECONDS:
        time.sleep(_POLL_SECONDS)
        found = _read(store, key)
        if found is None:
            return
        if found != seen:
            if time.monotonic() >= deadline:
                raise _busy(store, holder, found)
            seen, renewed = found, time.monotonic()
    logger.warning("Taking over the bucket %s: %s has not written for a minute.", store.name, seen.get("place"))


def _renew(store: Store, holder: Holder, lease: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        lease["renewed"] += 1
        try:
            _write(store, _KEYS[holder], lease)
        except OutdatedError:
            logger.warning(
                "Another %s has taken over the bucket %s. What this run writes may fail.", holder, store.name
            )
            return
        except InfraError as error:
            logger.warning("The lease of the bucket %s cannot be renewed: %s", store.name, error)


def _read(store: Store, key: str) -> dict[str, Any] | None:
    while True:
        try:
            return store.read_parsed(key, lambda content: dict(json.loads(content)))
        except OutdatedError:  # its holder wrote it in between
            continue


def _write(store: Store, key: str, lease: dict[str, Any]) -> None:
    store.write(key, json.dumps({**lease, "process": os.getpid()}).encode())


def _busy(store: Store, holder: Holder, lease: dict[str, Any]) -> BusyError:
    return BusyError(f"Another {holder} is using the bucket {store.name}: {_who(lease)}. Wait until it ends.")


def _who(lease: dict[str, Any]) -> str:
    return f"{lease.get('place')}, since {lease.get('since', 'a moment ago')}"
