"""One run at a time: a run holds the workspace's lock and the bucket's lease.

Prefect's limit of a deployment only decides which runs begin. By itself Prefect would also end a run whose place it
could not renew for five minutes, as after a laptop has slept or while the server was away. Here such a run goes on:
lock and lease keep others out.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

import prefect.flow_engine
from prefect.client.orchestration import get_client
from prefect.concurrency._leases import maintain_concurrency_lease
from prefect.runtime import flow_run

from flows.interrupted_runs import settle_earlier_runs
from infra.errors import BusyError
from infra.files import workspace_lock, write_bytes
from infra.lease import bucket_lease
from infra.settings import Settings
from infra.store import Store
from tasks.step import prefect_errors, retried

logger = logging.getLogger("flows")
WAITING = "waiting"
"""The tag of a run that waits for another one."""
_POLL_SECONDS = 5.0
_HOLDER = "run.id"  # the file in the workspace with the run that holds the lock


@contextmanager
def _without_ending_the_run(lease_id: UUID, lease_duration: float, **_: bool) -> Iterator[None]:
    with maintain_concurrency_lease(lease_id, lease_duration, suppress_warnings=True):
        yield


# Prefect has no setting for it.
prefect.flow_engine.maintain_concurrency_lease = _without_ending_the_run  # type: ignore[attr-defined, assignment]


@contextmanager
def one_run(settings: Settings, waits: bool) -> Iterator[None]:
    """Hold the lock and the lease in the block. Earlier runs that were killed are ended first.

    Args:
        settings: the workspace and the bucket.
        waits: wait until another run ends. The run in Prefect has the tag `waiting` meanwhile.

    Raises:
        BusyError: another run holds them, and `waits` is False.
    """
    with ExitStack() as held:
        try:
            _hold(held, settings)
        except BusyError as error:
            if not waits:
                raise
            logger.info("Waiting for another run. %s", error.message)
            with _tagged():
                _wait(held, settings)
        holder = settings.workspace / _HOLDER
        killed = holder.read_text(errors="replace") if holder.exists() else None
        retried(lambda: _settle(killed))
        write_bytes(holder, str(flow_run.id).encode())
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _settle(killed: str | None) -> None:
    with prefect_errors():
        settle_earlier_runs(flow_run.id, killed)


def _wait(held: ExitStack, settings: Settings) -> None:
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            return _hold(held, settings)
        except BusyError:
            continue


def _hold(held: ExitStack, settings: Settings) -> None:
    with ExitStack() as entered:
        entered.enter_context(workspace_lock(settings.workspace))
        retried(lambda: entered.enter_context(bucket_lease(Store(settings), settings.workspace)))
        held.push(entered.pop_all())


@contextmanager
def _tagged() -> Iterator[None]:
    """Give the flow run the tag `waiting` in the block."""
    tags = set(flow_run.tags)
    retried(lambda: _set_tags({*tags, WAITING}))
    try:
        yield
    finally:
        retried(lambda: _set_tags(tags))


def _set_tags(tags: set[str]) -> None:
    with prefect_errors(), get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted(tags))
