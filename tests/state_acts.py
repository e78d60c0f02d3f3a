"""What may go wrong: each act is one function, which does it and says what it did.

An act that only a person can undo returns how. All acts of `ACTS` are chosen by `state_fuzzer` with the same chance.
"""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Literal

import psutil
import requests

from infra.cloud_run import CloudRun
from infra.settings import read_settings
from tests.damage import DAMAGES
from tests.state_fuzzer import Act, Did, World
from tests.storage import damage, delete

ACTS: list[Act] = []

_SERVICES = {
    "storage": "infra.local.storage",
    "Cloud Run": "infra.local.run_api",
    "Prefect": "infra.local.prefect_server",
    "MLflow": "mlflow",
}
_VIEWERS = {"TensorBoard": "infra.local.tensorboard_server", "page": "serving.web.app:create_app()"}
# Folders of services, for which there are acts of their own, and logs.
_OF_SERVICES = {"bucket", "prefect", "mlflow-artifacts", "cloud-run", "logs", "mlflow.db", "mlruns"}
_LOCKS = {"stack.lock", "run.lock", "rollout.lock", "stack.json"}


def act(moment: Literal["any", "before", "during"] = "any") -> Callable[[Callable[[World, Random], Did | None]], Act]:
    """Add a function to `ACTS`."""

    def add(do: Callable[[World, Random], Did | None]) -> Act:
        ACTS.append(Act(do, moment))
        return ACTS[-1]

    return add


# --- objects and files


@act()
def lose_objects(world: World, random: Random) -> Did | None:
    """Some objects of one folder of the bucket are deleted."""
    keys = _some(world.store.keys(_folder(world, random)), random)
    for key in keys:
        delete(world.store, key)
    return Did(f"deleted gs://{', '.join(keys)}") if keys else None


@act()
def damage_object(world: World, random: Random) -> Did | None:
    """An object of the bucket is replaced by a damaged one."""
    keys = [key for key in world.store.keys(_folder(world, random)) if world.store.read(key)]
    if not keys:
        return None
    key, how = random.choice(keys), random.choice(DAMAGES)
    damage(world.store, key, how)
    return Did(f"{how.__name__} gs://{key}")


@act()
def lose_file(world: World, random: Random) -> Did | None:
    """A file of the workspace is deleted."""
    file = _file(world, random)
    file.unlink(missing_ok=True)
    return Did(f"deleted {file.relative_to(world.workspace)}")


@act()
def damage_file(world: World, random: Random) -> Did | None:
    """A file of the workspace is damaged."""
    file, how = _file(world, random), random.choice(DAMAGES)
    if file.exists() and file.stat().st_size:
        how(file)
    return Did(f"{how.__name__} {file.relative_to(world.workspace)}")


@act()
def lose_folder(world: World, random: Random) -> Did:
    """A folder of the workspace is deleted."""
    folders = [each for each in world.workspace.iterdir() if each.is_dir() and each.name not in _OF_SERVICES]
    folder = random.choice(sorted(folders))
    shutil.rmtree(folder, ignore_errors=True)
    return Did(f"deleted {folder.relative_to(world.workspace)}/")


@act("before")
def lose_state_of_a_service(world: World, random: Random) -> Did:
    """A stopped stack loses the files of a service."""
    world.stop()
    name = random.choice(("bucket", "prefect", "mlflow.db", "mlflow-artifacts", "cloud-run"))
    entry = world.workspace / name
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
    world.start()
    # Without a service there is no champion, and the small network does not pass the gate.
    undo = (lambda: world.run(["--promote", "always"])) if name == "cloud-run" else None
    return Did(f"deleted {name} of the stopped stack", undo)


@act("before")
def damage_file_of_cloud_run(world: World, random: Random) -> Did | None:
    """A stopped stack has a damaged file of the Cloud Run stand-in."""
    files = [each for each in sorted((world.workspace / "cloud-run").rglob("*")) if each.is_file()]
    if not files:
        return None
    world.stop()
    file, how = random.choice(files), random.choice(DAMAGES)
    if file.stat().st_size:
        how(file)
    world.start()
    return Did(f"{how.__name__} {file.relative_to(world.workspace)}")


def _folder(world: World, random: Random) -> str:
    """The beginning of the keys of one folder of the bucket, or of the objects outside folders."""
    keys = world.store.keys("")
    return random.choice(sorted({key.partition("/")[0] for key in keys}))


def _some(keys: list[str], random: Random) -> list[str]:
    """One, three, or all of the keys."""
    return random.sample(keys, min(len(keys), random.choice((1, 1, 3, len(keys)))))


def _file(world: World, random: Random) -> Path:
    """A file of the workspace, each kind with the same chance."""
    files: dict[str, list[Path]] = {}
    for file in sorted(world.workspace.rglob("*")):
        top = file.relative_to(world.workspace).parts[0]
        if file.is_file() and top not in _OF_SERVICES | _LOCKS:
            files.setdefault(top, []).append(file)
    return random.choice(files[random.choice(sorted(files))])


# --- rows


@act()
def lose_rows_of_the_ledger(world: World, random: Random) -> Did:
    """Rows of the ledger of requests are deleted."""
    with closing(sqlite3.connect(world.workspace / "ledger.sqlite")) as ledger, ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = random.choice(sorted(tables))
        column = ledger.execute(f"PRAGMA table_info({table})").fetchone()[1]
        keys = _some([key for (key,) in ledger.execute(f"SELECT {column} FROM {table}")], random)
        ledger.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(key,) for key in keys])
    return Did(f"deleted {len(keys)} rows of {table}")


@act()
def delete_mlflow_run(world: World, random: Random) -> Did | None:
    """A run is deleted in MLflow."""
    client = world.mlflow
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    if not runs:
        return None
    run = random.choice(runs)
    client.delete_run(run.info.run_id)
    return Did(f"deleted the MLflow run {run.info.run_name}")


@act()
def delete_mlflow_artifact(world: World, random: Random) -> Did | None:
    """A file of an MLflow run is deleted or damaged."""
    files = [each for each in sorted((world.workspace / "mlflow-artifacts").rglob("*")) if each.is_file()]
    if not files:
        return None
    file = random.choice(files)
    file.write_bytes(file.read_bytes()[:100])
    return Did(f"cut {file.relative_to(world.workspace)}")


@act()
def delete_experiment(world: World, random: Random) -> Did | None:
    """The experiment is deleted in MLflow."""
    experiment = world.mlflow.get_experiment_by_name("anime-genre")
    if experiment is None:
        return None
    world.mlflow.delete_experiment(experiment.experiment_id)
    return Did("deleted the experiment")


@act()
def edit_registry(world: World, random: Random) -> Did | None:
    """Version, model, alias or tag are deleted or moved in MLflow's registry."""
    client, name = world.mlflow, read_settings().model_name
    versions = client.search_model_versions(f"name = '{name}'")
    if not versions:
        return None
    version = random.choice(versions).version
    edit = random.choice(("delete version", "delete model", "delete alias", "move alias", "delete tag"))
    if edit == "delete version":
        client.delete_model_version(name, version)
    elif edit == "delete model":
        client.delete_registered_model(name)
    elif edit == "delete alias":
        client.delete_registered_model_alias(name, "champion")
    elif edit == "move alias":
        client.set_registered_model_alias(name, "champion", version)
    else:
        client.delete_model_version_tag(name, version, random.choice(("bundle_sha256", "bundle_uri", "collection")))
    return Did(f"{edit}, version {version} of {len(versions)}")


@act()
def delete_in_prefect(world: World, random: Random) -> Did:
    """Limits, artifacts or past runs are deleted in Prefect."""
    what = random.choice(("limits", "artifacts", "runs"))
    with world.prefect() as client:
        if what == "limits":
            for limit in client.read_global_concurrency_limits():
                client.delete_global_concurrency_limit_by_name(limit.name)
        elif what == "artifacts":
            for artifact in client.read_artifacts():
                client.delete_artifact(artifact.id)
        else:
            for run in client.read_flow_runs():
                if run.state is not None and run.state.is_final():
                    client.delete_flow_run(run.id)
    return Did(f"deleted {what} in Prefect")


# --- processes


@act("during")
def kill_run(world: World, random: Random) -> Did:
    """A signal ends the run."""
    number = random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    if psutil.pid_exists(world.run_process):
        os.kill(world.run_process, number)
    return Did(f"{number.name} to the run")


@act()
def kill_service(world: World, random: Random) -> Did:
    """A service of the stack is killed. The stack ends, and a person starts it again."""
    name = random.choice(sorted(_SERVICES))
    for process in world.processes("-m", _SERVICES[name]):
        process.kill()
    return Did(f"killed {name}", undo=world.restart)


@act()
def kill_viewer(world: World, random: Random) -> Did:
    """TensorBoard, the page or the revision that serves is killed."""
    name = random.choice(sorted(_VIEWERS))
    for process in world.processes(_VIEWERS[name]):
        process.kill()
    return Did(f"killed {name}")


@act()
def kill_revision(world: World, random: Random) -> Did:
    """The processes of all revisions are killed."""
    killed = world.processes("functions_framework")
    for process in killed:
        process.kill()
    return Did(f"killed {len(killed)} processes of the function")


@act()
def kill_stack(world: World, random: Random) -> Did:
    """The command `up` is killed, and a person starts it again."""
    number = random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
    world.stop(number)
    return Did(f"{number.name} to up", undo=world.restart)


# --- traffic, settings, disk


@act()
def move_traffic(world: World, random: Random) -> Did | None:
    """Another tool sends the traffic, or half of it, to another revision."""
    settings = read_settings()
    cloud_run = CloudRun(settings)
    live, revisions = cloud_run.live(settings.service), cloud_run.revisions(settings.service)
    others = [each.name for each in revisions if each.ready and live and each.name != live.name]
    if live is None or not others:
        return None
    other, percent = random.choice(others), random.choice((100, 100, 40))
    shares = {other: percent, live.name: 100 - percent}
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    traffic = [{"type": kind, "revision": name, "percent": share} for name, share in shares.items() if share]
    name = f"projects/{settings.google_project}/locations/{settings.google_region}/services/{settings.service}"
    requests.patch(
        f"{settings.cloud_run_endpoint}/v2/{name}?updateMask=traffic",
        json={"traffic": traffic},
        headers={"Authorization": f"Bearer {os.environ['ANIME_GENRE_CLOUD_RUN_TOKEN']}"},
        timeout=60,
    ).raise_for_status()
    return Did(f"sent {percent} % of the traffic from {live.name} to {other}")


@act("before")
def change_settings(world: World, random: Random) -> Did:
    """The run has another setting."""
    environment, options = random.choice(
        (
            ({"ANIME_GENRE_CORS_ORIGINS": "https://example.org"}, []),
            ({"ANIME_GENRE_FUNCTION_MEMORY": "2Gi"}, []),
            ({"ANIME_GENRE_POSTER_HOSTS": "example.org"}, []),
            ({}, ["--min-posters", "12"]),
            ({}, ["--image-size", "40"]),
            ({}, ["--min-posters", "1000"]),
            ({}, ["--seasons", "2016-winter..2019-fall"]),
            ({}, ["--refresh"]),
            ({}, ["--details", "5"]),
        )
    )
    return Did(f"settings {environment or options}", environment=environment, options=options)


@act("before")
def limit_files(world: World, random: Random) -> Did:
    """No file can grow beyond some kilobytes, as on a full disk."""
    limit = random.choice((1_000, 30_000, 300_000, 3_000_000))
    return Did(f"files of at most {limit} bytes", file_limit=limit)
