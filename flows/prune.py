"""The command `prune`: prints what nothing needs any more, and deletes it."""

import logging
from contextlib import ExitStack
from datetime import datetime

from infra.errors import OutdatedError
from infra.files import remove_temporary_files, workspace_lock
from infra.lease import bucket_lease, rollout_lease
from infra.settings import read_settings
from infra.store import Store
from tasks.prune import plan

logger = logging.getLogger("flows")


def prune(since: datetime, dry_run: bool = False) -> None:
    """Print what nothing needs and is older than `since`, one line per kind, and delete it.

    With `dry_run`, nothing is deleted or written.

    Raises:
        BusyError: a run is working in the workspace, or another pipeline or rollout holds the bucket.
        ServiceUnavailable: the bucket, MLflow or Cloud Run is not reachable.
    """
    settings = read_settings()
    with ExitStack() as held:
        if not dry_run:
            store, workspace = Store(settings), settings.workspace
            held.enter_context(workspace_lock(workspace))
            held.enter_context(bucket_lease(store, workspace))
            # `rollback` and `promote` hold only this lease. They need revisions and bundles.
            held.enter_context(rollout_lease(store, workspace))
            for folder in (workspace, *workspace.glob("collections/*")):  # of processes that were killed
                remove_temporary_files(folder)
        removals, keeps = plan(since)
        kinds = dict.fromkeys(each.kind for each in removals)
        for kind in kinds:
            those = [each for each in removals if each.kind == kind]
            megabytes = sum(each.size_bytes for each in those) / 1e6
            print(f"{megabytes:9.1f} MB  {kind}: {len({each.entry for each in those})}")
        print(f"Kept: {keeps}")
        if dry_run or not removals:
            print("Nothing was deleted.")
            return
        deleted_bytes = 0
        for each in removals:
            try:
                each.delete()
                deleted_bytes += each.size_bytes
            except OutdatedError as error:
                logger.warning("%s is kept. %s", each.entry, error.message)
        print(f"Deleted {deleted_bytes / 1e6:.1f} MB.")
