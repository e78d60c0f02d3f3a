"""A person chooses the live model, and sees what was live before: the commands `rollback`, `promote` and `history`.

The flow `rollback` does in Prefect what the command does.
"""

import getpass
import logging
import os
import socket
import textwrap
from datetime import date, datetime

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.retrain import configure_logging
from infra.settings import MAIN_COLLECTION, read_settings
from infra.store import Store
from serving.bundle.redaction import redact_logs
from tasks.artifacts import show_text
from tasks.rollouts import Rollout, promote, promote_command, read_hold, read_rollouts, roll_back
from tasks.step import run_name


def _run_name() -> str:
    return f"rollback {date.today()} to {flow_run.parameters['version'] or 'the model before'}"


@flow(name="rollback", flow_run_name=_run_name, persist_result=False)
def rollback(version: str = "", collection: str = MAIN_COLLECTION) -> State[Rollout]:
    """Serve an earlier model again, within seconds, and hold it. It trains and builds nothing.

    It waits for no other run. A run that is training goes on, and replaces nothing.

    Args:
        version: The version in MLflow. Empty: the one that was live before the present one.
        collection: Whose model it is.
    """
    redact_logs()
    configure_logging()
    rollout = roll_back(read_settings(collection), version or None, f"run {run_name()}")
    show_text("summary", _sentence(rollout, collection), "What is live now, and what keeps it")
    return Completed(message=_sentence(rollout, collection), data=rollout)


def run_rollback(collection: str, version: str | None) -> None:
    """Serve an earlier version again and hold it. Raises as `tasks.rollouts.roll_back`."""
    _be_quiet_at_exit()
    print(_sentence(roll_back(read_settings(collection), version, _person()), collection))


def run_promote(collection: str, version: str) -> None:
    """Serve a version, and lift the hold. Raises as `tasks.rollouts.promote`."""
    _be_quiet_at_exit()
    rollout = promote(read_settings(collection), version, _person())
    instead = f", instead of {rollout.before}" if rollout.before else ""
    print(f"{rollout.after} is live{instead}. Runs replace it when they train a better model.")


def show_history(collection: str) -> None:
    """Print what went live, oldest first, and whether a hold keeps it."""
    store = Store(read_settings(collection))
    print(f"What went live, {collection}")
    for each in read_rollouts(store):
        instead = f" instead of {each.before}" if each.before else ""
        when = datetime.fromisoformat(each.when).astimezone()
        print(f"\n{when:%Y-%m-%d %H:%M}  {each.what}: {each.after}{instead}, by {each.by}")
        print(textwrap.fill(each.reason, 100, initial_indent="    ", subsequent_indent="    "))
    if hold := read_hold(store):
        print(f"\n{hold.sentence}")


def _sentence(rollout: Rollout, collection: str) -> str:
    return (
        f"{rollout.after} is live again, instead of {rollout.before}. Runs go on training, but replace nothing until "
        f"{promote_command(collection)}, or a run with promote: always."
    )


def _person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container: KeyError until Python 3.12
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _be_quiet_at_exit() -> None:
    """Let Prefect send the event of the change at the end of the process without a warning that it is doing so."""
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
