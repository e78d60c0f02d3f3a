"""The command `logs`: the end of a service's log."""

import os
from collections import deque
from pathlib import Path

from infra.errors import ConfigurationError


def show_log(workspace: Path, name: str, lines: int) -> None:
    """Print the end of a service's log.

    Args:
        workspace: the folder of the stack that writes or wrote it.
        name: the service, such as "prefect"; "function" is the newest revision of the local function.
        lines: how many lines.

    Raises:
        ConfigurationError: there is no such log; the message lists those that there are.
    """
    logs = {path.stem: path for path in sorted((workspace / "logs").glob("*.log"))}
    if revisions := sorted((workspace / "cloud-run" / "logs").glob("*.log"), key=os.path.getmtime):
        logs["function"] = revisions[-1]
    if name not in logs:
        known = f"Choose from: {', '.join(sorted(logs))}." if logs else "No stack has run there."
        raise ConfigurationError(f"There is no log of {name!r} in {workspace}. {known}")
    with logs[name].open(errors="replace") as file:
        print("".join(deque(file, lines)), end="")
