"""What may go wrong: each act is one function, which does it and says what it did.

An act that only a person can undo returns how. All acts of `ACTS` are chosen by `state_fuzzer` with the same chance.

A rollout is the end of a run that puts a new model live. Its acts choose one of `BOUNDARIES`: the run stops itself
right after this request, and is then killed, for example.
"""

import os
import re
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import psutil
import requests

import serving
from infra.cloud_run import CloudRun
from infra.settings import read_settings
from tests.damage import DAMAGES
from tests.state_fuzzer import Act, Did, World
from tests.state_runs import Conditions, Fault
from tests.storage import damage, delete

ACTS: list[Act] = []

BOUNDARIES: dict[str, Fault] = {
    "model_logged": Fault(r"POST \S*/logged-models", "stop"),
    "version_created": Fault(r"POST \S*/model-versions/create", "stop"),
    "version_described": Fault(r"PATCH \S*/model-versions/update", "stop"),
    "bundle_uploaded": Fault(r'POST \S*/upload/.*bundles/\w+/manifest\.json"', "stop"),
    "rollout_leased": Fault(r'POST \S*/upload/.*"rollout\.json"', "stop", number=2),
    "source_uploaded": Fault(r'POST \S*/upload/.*functions/\w+\.zip"', "stop"),
    "build_submitted": Fault(r"POST \S*/builds:submit", "stop"),
    "revision_deployed": Fault(r"PATCH \S*/services/\S*template", "stop"),
    "record_written": Fault(r'POST \S*/upload/.*deployments/\w+\.json"', "stop"),
    "traffic_sent": Fault(r"PATCH \S*/services/\S*annotations", "stop"),
    "address_checked": Fault(r"GET \S*/health ", "stop"),
    "champion_set": Fault(r'POST \S*/registered-models/alias .*"champion"', "stop"),
    "previous_set": Fault(r'POST \S*/registered-models/alias .*"previous"', "stop"),
    "history_written": Fault(r'POST \S*/upload/.*rollouts/[^"]*\.json"', "stop"),
    "version_tagged": Fault(r"POST \S*/model-versions/set-tag .*better_than_champion", "stop"),
    "lease_released": Fault(r"DELETE \S*/rollout\.json", "stop", number=2),
}
"""The requests of a rollout that change something, in their order. A run takes the lease twice: it looks for a rollout
of a run that was killed first."""
_OF_BUILDS = ("source_uploaded", "build_submitted")
_STEPS = {
    f"{folder}_uploaded": Fault(rf'POST \S*/upload/.*"{folder}', "stop")
    for folder in ("pages", "catalogues", "posters", "datasets", "trainings")
}

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


def act(
    moment: Literal["any", "before", "during"] = "any", stops_function: bool = False, loses_results: bool = False
) -> Callable[[Callable[[World, Random], Did | None]], Act]:
    """Add a function to `ACTS`. The arguments are those of `Act`."""

    def add(do: Callable[[World, Random], Did | None]) -> Act:
        ACTS.append(Act(do.__name__, do, moment, stops_function, loses_results))
        return ACTS[-1]

    return add


# --- objects and files


@act(loses_results=True)
def lose_objects(world: World, random: Random) -> Did | None:
    """Some objects of one folder of the bucket are deleted."""
    keys = _some(world.store.keys(_folder(world, random)), random)
    for key in keys:
        delete(world.store, key)
    return Did(f"deleted gs://{', '.join(keys)}") if keys else None


@act(loses_results=True)
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


@act("before", stops_function=True, loses_results=True)
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


@act("before", stops_function=True)
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


@act(loses_results=True)
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
def cut_mlflow_artifact(world: World, random: Random) -> Did | None:
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


@act(stops_function=True)
def kill_service(world: World, random: Random) -> Did:
    """A service of the stack is killed. The stack ends, and a person starts it again."""
    name = random.choice(sorted(_SERVICES))
    for process in world.processes("-m", _SERVICES[name]):
        process.kill()
    return Did(f"killed {name}", undo=world.restart)


@act()
def kill_viewer(world: World, random: Random) -> Did:
    """TensorBoard or the page is killed."""
    name = random.choice(sorted(_VIEWERS))
    for process in world.processes(_VIEWERS[name]):
        process.kill()
    return Did(f"killed {name}")


@act(stops_function=True)
def kill_revision(world: World, random: Random) -> Did:
    """The processes of all revisions are killed."""
    killed = world.processes("functions_framework")
    for process in killed:
        process.kill()
    return Did(f"killed {len(killed)} processes of the function")


@act(stops_function=True)
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
    live, revisions = cloud_run.live(), cloud_run.revisions()
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
    return Did(f"settings {environment or options}", conditions=Conditions(environment), options=options)


@act("before")
def limit_files(world: World, random: Random) -> Did:
    """No file can grow beyond some kilobytes, as on a full disk."""
    limit = random.choice((1_000, 30_000, 300_000, 3_000_000))
    return Did(f"files of at most {limit} bytes", conditions=Conditions(file_limit=limit))


@act("before", stops_function=True)
def move_workspace(world: World, random: Random) -> Did:
    """A person moves the workspace of the stopped stack to another folder."""
    world.stop()
    other = world.workspace.with_name(f"workspace-{random.randrange(10**6)}")
    world.workspace = world.workspace.rename(other)
    world.start()
    return Did(f"moved the workspace to {other.name}")


@act()
def start_another_pipeline(world: World, random: Random) -> Did:
    """A pipeline of another workspace starts on the same bucket. It waits, or ends and says who uses the bucket."""
    workspace = world.output / f"another-{random.randrange(10**6)}"
    return Did("started another pipeline", another_run=world.start_another_run(workspace, _new_model(random)))


# --- the rollout


@act("before")
def set_clock_back(world: World, random: Random) -> Did:
    """The clock of a run that puts a model live is an hour late."""
    conditions = Conditions(clock_seconds=-3600)
    return Did("the clock is an hour late", conditions=conditions, options=_new_model(random), repeats=True)


@act("before", loses_results=True)
def damage_new_bundle(world: World, random: Random) -> Did:
    """Another tool damages a file of the new bundle in the bucket, or replaces it by that of another bundle."""

    def do() -> str:
        keys = world.store.listing("bundles/")
        newest = max(keys, key=lambda key: keys[key].written).rpartition("/")[0]
        key = random.choice([each for each in keys if each.startswith(newest)])
        others = [each for each in keys if each.endswith(Path(key).name) and each != key]
        if others and random.random() < 0.3:
            world.store.write(key, world.store.read(random.choice(others)))
            return f"replaced {key} by that of another bundle"
        how = random.choice(DAMAGES)
        damage(world.store, key, how)
        return f"{how.__name__} {key}"

    return _at("bundle_uploaded", do, world, random)


@act("before")
def lose_source_of_build(world: World, random: Random) -> Did:
    """The source of the function is gone when it is built."""

    def do() -> str:
        keys = world.store.keys("functions/")
        for key in keys:
            delete(world.store, key)
        return f"deleted {len(keys)} sources"

    return _at("source_uploaded", do, world, random)


@act("before")
def break_source(world: World, random: Random) -> Did:
    """The function's source ends with an error when it starts."""
    return Did(
        "a source that does not start",
        conditions=Conditions(serving=_serving(world, random, "main", "_bundle = Bundle()", "raise OSError")),
        options=_new_model(random),
    )


@act("before")
def change_predictions(world: World, random: Random) -> Did:
    """The function's source gives other predictions than the model."""
    decide = "genre.decide(probability)"
    changed = _serving(world, random, "inference", decide, decide.replace("probability", "probability / 2"))
    return Did("a source with other predictions", conditions=Conditions(serving=changed), options=_new_model(random))


@act("before")
def change_source(world: World, random: Random) -> Did:
    """The function's source has changed, but not the model."""
    return Did("another source", conditions=Conditions(serving=_serving(world, random)))


@act("before")
def disturb_service(world: World, random: Random) -> Did:
    """A service is unavailable for some requests of a rollout, or its responses are lost."""
    settings = read_settings()
    live = CloudRun(settings).live()
    addresses = {
        "storage": os.environ["STORAGE_EMULATOR_HOST"],
        "Cloud Run": settings.cloud_run_endpoint,
        "MLflow": settings.tracking_uri,
        "function": live.url if live else None,
    }
    name = random.choice(sorted(addresses))
    does: Literal["unavailable", "no response"] = random.choice(("unavailable", "no response"))
    fault = Fault(re.escape(str(addresses[name])), does, random.choice((1, 3, 10, 30)), random.choice((1, 3, 10**6)))
    what = f"{name}: {does} from request {fault.number} on, {fault.times} times"
    return Did(what, conditions=Conditions(faults=[fault]), options=_new_model(random))


@act("before")
def lose_response(world: World, random: Random) -> Did:
    """The response to a request that changes something is lost."""
    name = random.choice(sorted(BOUNDARIES))
    fault = replace(BOUNDARIES[name], does="no response")
    return Did(
        f"no response: {name}",
        conditions=Conditions(faults=[fault], serving=_serving(world, random) if name in _OF_BUILDS else None),
        options=_new_model(random),
        repeats=True,
    )


@act("before", loses_results=True)
def use_another_tool(world: World, random: Random) -> Did:
    """Another tool moves the traffic, or deletes or moves something in MLflow, during a rollout."""
    other = random.choice((move_traffic, move_traffic, edit_registry, edit_registry, delete_experiment))

    def do() -> str:
        did = other.do(world, random)
        return did.what if did else "nothing to do"

    return _at(random.choice(sorted(BOUNDARIES)), do, world, random)


def _kill(boundary: str, world: World, random: Random) -> Did:
    def do() -> str:
        os.kill(world.run_process, signal.SIGKILL)
        return "SIGKILL"

    return _at(boundary, do, world, random)


def _fill_disk(boundary: str, world: World, random: Random) -> Did:
    """The disk of a run is full from some request on."""

    def do() -> str:
        resource.prlimit(world.run_process, resource.RLIMIT_FSIZE, (1000, 1000))
        return "the disk is full"

    return _at(boundary, do, world, random)


ACTS += [Act(f"kill_after_{name}", partial(_kill, name), "before") for name in BOUNDARIES]
ACTS += [Act(f"fill_disk_after_{name}", partial(_fill_disk, name), "before") for name in (*_STEPS, *BOUNDARIES)]


def _at(boundary: str, do: Callable[[], str], world: World, random: Random) -> Did:
    """Do something right after a request of a run that puts a new model live."""
    fault = (_STEPS | BOUNDARIES)[boundary]
    return Did(
        f"at {boundary}",
        conditions=Conditions(faults=[fault], serving=_serving(world, random) if boundary in _OF_BUILDS else None),
        options=_new_model(random),
        at_stop=do,
        repeats=True,
    )


def _new_model(random: Random) -> list[str]:
    return ["--seed", str(random.randrange(1000, 10**6)), "--promote", "always"]


def _serving(world: World, random: Random, module: str = "main", old: str = "", new: str = "") -> str:
    """A copy of the folder `serving`, with a change in a module of the function."""
    folder = world.output / f"serving-{random.randrange(10**6)}"
    shutil.copytree(Path(serving.__file__).parent, folder, ignore=shutil.ignore_patterns("web", "__pycache__"))
    file = folder / "function" / f"{module}.py"
    source = file.read_text()
    assert old in source
    file.write_text(f"{source.replace(old, new) if old else source}# {folder.name}\n")
    return str(folder)
