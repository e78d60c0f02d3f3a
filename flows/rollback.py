"""The commands `rollback`, `promote` and `history`: a person chooses the live model, and sees what was live before."""

import getpass
import socket

from rich.console import Console
from rich.table import Table

from infra.settings import read_settings
from infra.store import Store
from tasks.rollouts import promote, read_hold, read_rollouts, roll_back


def run_rollback(collection: str, version: str | None) -> None:
    """Serve an earlier version again and hold it. Raises as `tasks.rollouts.roll_back`."""
    rollout = roll_back(read_settings(collection), version, _person())
    print(
        f"{rollout.after} is live again, instead of {rollout.before}. Runs go on training, but replace nothing until "
        "anime-genre promote VERSION, or a run with --promote always."
    )


def run_promote(collection: str, version: str) -> None:
    """Serve a version that was live before, and lift the hold. Raises as `tasks.rollouts.promote`."""
    rollout = promote(read_settings(collection), version, _person())
    print(f"{rollout.after} is live, instead of {rollout.before}. Runs replace it when they train a better model.")


def show_history(collection: str) -> None:
    """Print what went live, oldest first, and whether a hold keeps it."""
    store, console = Store(read_settings(collection)), Console()
    table = Table("when", "what", "by", "before", "after", "reason", title=f"What went live, {collection}")
    for each in read_rollouts(store):
        table.add_row(each.when[:16].replace("T", " "), each.what, each.by, each.before or "", each.after, each.reason)
    console.print(table)
    if hold := read_hold(store):
        console.print(hold.sentence)


def _person() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
