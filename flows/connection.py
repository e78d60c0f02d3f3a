"""What a command runs on: services that are up already, or a stack of its own."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from flows.prefect_access import api_url, check_server, separate_password
from infra.errors import ConfigurationError, StackError
from infra.files import write_bytes
from infra.local.processes import Processes, claim_port, free_port
from infra.local.stack import Ports, Stack, local_stack, prepare_workspace, running_stack_environment
from infra.settings import check_google, environment_variable, read_settings


@contextmanager
def connected(workspace: Path, collection: str, up_options: Sequence[str] | None = None) -> Iterator[None]:
    """Connect this process to services.

    They are the first of: the server of PREFECT_API_URL, the workspace's running stack, the server of Prefect's active
    profile, a new stack. Enter this before importing Prefect, which reads its settings on import.

    Args:
        workspace: the folder of all data.
        collection: whose function has the port of a new stack.
        up_options: those with which `up` serves the model of the block; by default the block serves none.
    """
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.pop("PREFECT_API_URL", None)  # Prefect takes an empty address for one
        if environment := running_stack_environment(workspace):
            if read_settings().cloud == "google" and environment.get(environment_variable("cloud")) != "google":
                raise ConfigurationError(
                    f"The stack that is running in {workspace} does not use Google Cloud. Stop it, or unset "
                    "ANIME_GENRE_CLOUD."
                )
            print(f"Using the stack that is running in {workspace}.", flush=True)
            os.environ.update(environment)
            yield
            return
    separate_password()
    if api_url():
        os.environ["ANIME_GENRE_WORKSPACE"] = str(prepare_workspace(workspace))
        check_server()
        settings = read_settings()
        if not (settings.storage_emulator_host and settings.cloud_run_endpoint):
            check_google(settings)
        yield
    else:
        with new_stack(workspace, Ports(), collection):
            yield
        if up_options is not None:
            command = shlex.join(["anime-genre", "up", *up_options, "--workspace", str(workspace)])
            print(f"To keep the model up, run: {command}", flush=True)


@contextmanager
def new_stack(workspace: Path, ports: Ports, collection: str) -> Iterator[Stack]:
    """A new stack, which stops at the end of the block. The function's port is that of the collection's function."""
    for name in ("prefect", "mlflow"):
        if find_spec(name) is None:  # its process would only say that it has ended
            raise ModuleNotFoundError(name=name)
    settings = read_settings()
    names = "Prefect, MLflow, storage and the Cloud Run stand-in"
    if settings.cloud == "google":
        names = "Prefect and MLflow"
        print(f"Using gs://{settings.bucket} and Cloud Run of {settings.google_project} on Google Cloud.", flush=True)
    print(f"Starting {names} in {workspace} ...", flush=True)
    with local_stack(workspace, ports, collection) as stack:
        print("The services are ready. Loading the pipeline ...", flush=True)
        os.environ.update(stack.environment)
        from prefect.context import refresh_global_settings_context

        from flows.interrupted_runs import settle_interrupted_runs

        refresh_global_settings_context()  # the check of --cron imports Prefect before its address is known
        settle_interrupted_runs()
        try:
            yield stack
        finally:
            with suppress(OSError):  # the terminal may be gone
                print(f"Stopping {names} ...", flush=True)


def start_built_in_site(workspace: Path, processes: Processes) -> str:
    """Start the site on the port of the last start, if it is free: what was downloaded is known by the address."""
    last = workspace / "site-port"
    try:
        port = claim_port(int(last.read_text()), "the built-in site", "--site-url")
    except (OSError, ValueError, StackError):
        port = free_port()
    write_bytes(last, str(port).encode())
    url = f"http://127.0.0.1:{port}"
    processes.start("Site", [sys.executable, "-m", "infra.local.site", "--port", str(port)], {}, f"{url}/robots.txt")
    processes.wait_ready()
    return url
