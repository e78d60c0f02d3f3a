"""Rows of posters on one machine and on a Dask cluster whose workers share only the bucket and the scheduler."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import infra.cluster
import ml.data.shards
import tasks.poster_rows
from infra.cluster import run_on_cluster
from infra.errors import ConfigurationError, ServiceUnavailable, WorkerError, WorkerUnavailable
from infra.settings import MAIN_COLLECTION
from infra.store import Store
from ml.data.shards import Shards
from ml.reporting import NullReporter
from serving.bundle.errors import AnimeGenreError
from tasks.crawl.mirror import poster_key
from tasks.poster_rows import complete_rows
from tasks.versions import training_versions
from tests.certificates import certificate_for_localhost, pem
from tests.dask_cluster import Cluster, dask_cluster
from tests.faults import Fault, fault_proxy
from tests.shard_work import FailingJob, MeanColours, fail
from tests.storage import new_bucket, storage_emulator
from tests.tasks.test_preprocess import drawn

pytestmark = pytest.mark.stack

POSTERS, ROWS_PER_SHARD = 24, 6


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storage_emulator(tmp_path_factory.mktemp("storage"), "shared") as url:
        yield url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with dask_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class Machine:
    """This process as a machine with a workspace, and the posters of its bucket by sha256 with their ids."""

    def __init__(self, store: Store, folder: Path, calls: Path, set_environment: Callable[[str, str], None]) -> None:
        self.store, self.folder, self._set = store, folder, set_environment
        self.work = MeanColours(str(calls))
        self.posters: dict[str, str] = {}
        calls.mkdir()
        set_environment("ANIME_GENRE_BUCKET", store.name)
        self.move("workspace")

    def add(self, content: bytes) -> None:
        id = str(len(self.posters) + 1)
        self.store.write(poster_key(id), content)
        self.posters[hashlib.sha256(content).hexdigest()] = id

    def move(self, workspace: str) -> None:
        """Work in another workspace, as another machine does."""
        self.workspace = self.folder / workspace
        self._set("ANIME_GENRE_WORKSPACE", str(self.workspace))

    def use(self, cluster: Cluster) -> None:
        self._set("ANIME_GENRE_DASK", cluster.address)

    @property
    def worker_environment(self) -> dict[str, str]:
        return {"ANIME_GENRE_BUCKET": self.store.name, "ANIME_GENRE_DASK": ""}

    def complete(self) -> Shards:
        return complete_rows(self.work, MAIN_COLLECTION, self.posters, NullReporter())

    def calls(self) -> int:
        return len([file for file in Path(self.work.calls).iterdir() if file != self.work.closed])

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.workspace / self.work.key).glob("*.[nj]*")}

    @contextmanager
    def at_work(self, jobs: int = 1) -> Iterator[list[AnimeGenreError]]:
        """Begin the work in a thread, and do the block once some jobs are at it. Then they go on to the end.

        The list has the error of the work at the end.
        """
        errors: list[AnimeGenreError] = []

        def complete() -> None:
            try:
                self.complete()
            except AnimeGenreError as error:
                errors.append(error)

        self.work.closed.touch()
        thread = threading.Thread(target=complete)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while self.calls() < jobs and thread.is_alive():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield errors
        finally:
            self.work.closed.unlink()
            thread.join()


@pytest.fixture
def machine(storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage_url)
    monkeypatch.setenv("ANIME_GENRE_SERVICE_TIMEOUT_SECONDS", "5")
    for module in (ml.data.shards, tasks.poster_rows):
        monkeypatch.setattr(module, "FILLED_ROWS", ROWS_PER_SHARD)
    machine = Machine(new_bucket(storage_url, tmp_path), tmp_path, tmp_path / "calls", monkeypatch.setenv)
    for number in range(POSTERS):
        machine.add(drawn(number))
    return machine


@pytest.fixture
def worker(cluster: Cluster, machine: Machine) -> Iterator[Callable[..., Cluster]]:
    """Gives the cluster a worker with these variables and options. It has no other ones than those of the test."""

    def add(environment: dict[str, str] | None = None, **how: list[str]) -> Cluster:
        cluster.add_worker(machine.worker_environment | (environment or {}), **how)
        machine.use(cluster)
        return cluster

    yield add
    for process in cluster.workers:
        process.kill()
        process.wait()


def test_rows_of_two_workers_equal_those_of_one_machine_byte_for_byte(
    machine: Machine, worker: Callable[..., Cluster]
) -> None:
    machine.add(b"no image")
    here = machine.complete()
    expected = machine.files()
    assert len(expected) == 2 * (POSTERS // ROWS_PER_SHARD + 1)
    assert np.isnan(here.rows(list(machine.posters))[-1]).all()
    for key in machine.store.keys("features/"):
        machine.store.delete(key)
    worker()
    cluster = worker()
    machine.move("another")
    machine.complete()
    assert machine.files() == expected
    assert set(machine.store.keys("features/")) == {f"features/colours-1/{name}" for name in expected}
    left = [path for workspace in cluster.workspaces[-2:] for path in workspace.rglob("*") if path.is_file()]
    assert left == []  # neither posters nor pixels stay on a worker


def test_rows_of_the_bucket_are_computed_nowhere_again(machine: Machine) -> None:
    machine.complete()
    calls, expected = machine.calls(), machine.files()
    machine.move("fresh")
    machine.add(drawn(POSTERS))
    shards = machine.complete()
    assert machine.calls() == calls + 1
    assert machine.files().items() > expected.items()
    assert shards.missing(machine.posters) == []
    assert not (machine.workspace / "posters" / "1.jpg").exists()  # no poster is fetched whose row is known


def test_rows_that_are_damaged_in_the_bucket_are_computed_and_uploaded_again(machine: Machine) -> None:
    machine.complete()
    expected = machine.files()
    for name in list(expected)[:3]:
        machine.store.write(f"{machine.work.key}/{name}", expected[name][:-5] + b"wrong")
    machine.move("fresh")
    assert machine.complete().missing(machine.posters) == []
    for number, name in enumerate(expected):
        assert machine.store.read(f"{machine.work.key}/{name}") == machine.files()[name], number


def test_worker_that_is_killed_costs_only_its_shard_and_its_folder_is_removed(
    machine: Machine, worker: Callable[..., Cluster], tmp_path: Path
) -> None:
    shared = {"ANIME_GENRE_WORKSPACE": str(tmp_path / "shared")}
    worker(shared)
    cluster = worker(shared)
    with machine.at_work(jobs=2) as errors:
        before = set((tmp_path / "shared").glob(".job-*"))
        cluster.workers[-1].kill()
        worker(shared)
    assert len(before) == 4  # a folder and a lock for each worker
    assert errors == []
    assert [path for path in (tmp_path / "shared").rglob("*") if path.is_file()] == []
    assert len(machine.files()) == 2 * POSTERS // ROWS_PER_SHARD
    batches = POSTERS // ROWS_PER_SHARD * 2  # of four posters and of two
    assert batches < machine.calls() <= batches + 2


def test_scheduler_that_is_lost_ends_the_work_with_a_retryable_error(machine: Machine, tmp_path: Path) -> None:
    with dask_cluster(tmp_path) as cluster:
        cluster.add_worker(machine.worker_environment)
        machine.use(cluster)
        with machine.at_work() as errors:
            cluster.scheduler.kill()
    (error,) = errors
    assert isinstance(error, ServiceUnavailable) and error.retryable
    assert str(error) == f"The connection to the Dask scheduler {cluster.address} was lost."


def test_worker_with_other_versions_is_refused_by_name(
    machine: Machine, worker: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker()
    here = training_versions()
    monkeypatch.setattr(tasks.poster_rows, "training_versions", lambda: {**here, "pillow": "1.0"})
    with pytest.raises(
        WorkerError, match=r"^The Dask worker tcp://\S+: Its machine has pillow [\d.]+ instead of 1\.0\."
    ):
        machine.complete()
    assert machine.calls() == 0


def test_worker_without_the_buckets_rights_or_without_the_bucket_is_named(
    machine: Machine, worker: Callable[..., Cluster], storage_url: str
) -> None:
    with fault_proxy(storage_url, Fault(f"b/{machine.store.name}/o", status=403)) as proxy:
        worker({"STORAGE_EMULATOR_HOST": proxy.url, "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS": "1"})
        with pytest.raises(WorkerError, match=r"^The Dask worker tcp://\S+: .* is not permitted"):
            machine.complete()
        proxy.faults[:] = [Fault(f"b/{machine.store.name}/o", status=503)]
        with pytest.raises(WorkerUnavailable, match=r"^The Dask worker tcp://\S+: "):
            machine.complete()


def test_worker_with_a_full_disk_is_named(machine: Machine, worker: Callable[..., Cluster]) -> None:
    worker(prefix=["prlimit", "--fsize=15000"])
    with pytest.raises(WorkerError, match=r"^The Dask worker tcp://\S+: .* cannot be written \(File too large\)"):
        machine.complete()


def test_job_is_run_again_only_for_an_error_that_a_retry_may_help(
    machine: Machine, worker: Callable[..., Cluster]
) -> None:
    cluster, calls = worker(), 0
    for error, times in ((WorkerError("Full."), 1), (WorkerUnavailable("Busy."), 3)):
        with pytest.raises(type(error), match=f"^{error}$"):
            list(run_on_cluster(cluster.address, fail, [FailingJob(machine.work.calls, error)]))
        calls += times
        assert machine.calls() == calls


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:8786", "tcp://dask.example:8786"])
def test_scheduler_beyond_this_machine_must_be_encrypted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("ANIME_GENRE_DASK", address)
    with pytest.raises(
        ConfigurationError, match=f"The Dask scheduler {address} is on another machine and not encrypted"
    ):
        machine.complete()


def test_scheduler_that_is_not_there_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.cluster, "_CONNECT_SECONDS", 1)
    monkeypatch.setenv("ANIME_GENRE_DASK", "tcp://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match=r"The Dask scheduler tcp://127\.0\.0\.1:9 is not reachable"):
        machine.complete()


def test_cluster_that_loses_its_last_worker_ends_the_work(
    machine: Machine, worker: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = worker()
    monkeypatch.setattr(infra.cluster, "_WORKER_SECONDS", 5)
    with machine.at_work() as errors:
        cluster.workers[-1].kill()
    assert isinstance(errors[0], ServiceUnavailable) and "has had no worker for 5 s" in str(errors[0])


def test_worker_with_code_that_lacks_the_work_is_told(
    machine: Machine, worker: Callable[..., Cluster], tmp_path: Path
) -> None:
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "tasks.py").touch()  # not a package, so that no other finder adds the module
    worker({"PYTHONPATH": str(tmp_path / "earlier")})
    with pytest.raises(WorkerError, match=r"has no module tasks\.poster_rows\. Install anime-genre"):
        machine.complete()


def test_scheduler_without_workers_is_told_with_the_command_that_starts_one(
    machine: Machine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.cluster, "_WORKER_SECONDS", 1)
    machine.use(cluster)
    with pytest.raises(ServiceUnavailable, match=f"Start one with `dask worker {cluster.address}`"):
        machine.complete()


def test_encrypted_cluster_works_with_its_certificates_only(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask.config

    both, key = certificate_for_localhost(tmp_path)
    (tmp_path / "key.pem").write_bytes(pem(key))
    files = ["--tls-ca-file", str(both), "--tls-cert", str(both), "--tls-key", str(tmp_path / "key.pem")]
    with dask_cluster(tmp_path, ["--protocol", "tls", *files]) as cluster:
        assert cluster.address.startswith("tls://")
        cluster.add_worker(machine.worker_environment, ["--protocol", "tls", *files])
        machine.use(cluster)
        with pytest.raises(ConfigurationError, match="DASK_DISTRIBUTED__COMM__TLS__CA_FILE"):
            machine.complete()
        tls = {"ca-file": str(both), "client.cert": str(both), "client.key": str(tmp_path / "key.pem")}
        with dask.config.set({f"distributed.comm.tls.{name}": file for name, file in tls.items()}):
            assert machine.complete().missing(machine.posters) == []
