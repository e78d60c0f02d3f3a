"""Features and predictions of real posters on Dask workers: one is killed, then the scheduler is lost.

    PYTHONPATH=. python tests/soak/soak_cluster.py [--data ../shared] [--posters 1100]

The posters are those of `anime-more.zip`, and generated ones for the rest. Features are those of ResNet18 with the
weights of the data's folder. Predictions are those of a ResNet18 with random weights. Workers have workspaces of their
own and share only the bucket (the local stand-in) and the scheduler. For both:

1. This machine computes all rows, without Dask. Their files are what the others are compared with.
2. Two workers compute them again. One of them is killed with SIGKILL once the first shard is in the bucket.
3. The scheduler is killed once the first shard is in the bucket: the error must be retryable. The next run, on another
   cluster, must compute only what is missing.

Printed are the seconds. The exit code is 1 if files differ or something was computed twice.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from infra.settings import MAIN_COLLECTION, read_settings
from infra.store import Store
from ml.compute import choose_compute
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import build_dataset
from ml.data.decoding import Poster
from ml.networks.backbones import Backbone, read_backbone
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.features import Pretrained
from serving.bundle.errors import AnimeGenreError
from serving.bundle.model import Model
from tasks.bundles import upload_bundle
from tasks.catalogue_predictions import PredictionWork
from tasks.crawl.mirror import poster_key
from tasks.features import StoredFeatures
from tasks.poster_rows import complete_rows
from tests.benchmarks.bench_preprocess import write_posters
from tests.benchmarks.random_resnet18 import write_resnet18
from tests.dask_cluster import Cluster, dask_cluster
from tests.no_checkpoints import NoCheckpoints
from tests.storage import new_bucket, storage_emulator


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--posters", type=int, default=1100, help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, storage_emulator(Path(name), "shared") as url:
        folder = Path(name)
        store = new_bucket(url, folder)
        os.environ |= {
            "STORAGE_EMULATOR_HOST": url,
            "ANIME_GENRE_BUCKET": store.name,
            "ANIME_GENRE_WORKSPACE": str(folder / "workspace"),
        }
        archive = arguments.data / "posters" / "anime-more.zip"
        posters = write_posters(folder / "posters", archive, arguments.posters)
        store.upload({poster_key(poster.id): poster.file for poster in posters})
        weights = arguments.data / "weights" / "resnet18-imagenet-backbone.safetensors"
        faults = 0
        for work in (
            Features(posters, read_backbone("resnet18", str(weights), folder)),
            Predictions(posters, store, folder / "bundle"),
        ):
            faults += Trial(work, store, folder / type(work).__name__).run()
    return 1 if faults else 0


class Rows(Protocol):
    """What is computed for each poster. `prefix` is where the bucket has it."""

    prefix: str

    def complete(self) -> None:
        """Compute all that is missing."""


class Features:
    """The features of a backbone, as training computes them."""

    prefix = "features/"

    def __init__(self, posters: list[Poster], backbone: Backbone) -> None:
        self._backbone = backbone
        config = PreprocessConfig(min_posters=5, min_posters_per_part=1)
        self._dataset = build_dataset(posters, read_settings().workspace, config, NullReporter())

    def complete(self) -> None:
        settings = read_settings()
        bench = Bench(self._dataset, TrainConfig(), self._backbone, choose_compute("cpu"), NoCheckpoints())
        shutil.rmtree(settings.workspace / "features", ignore_errors=True)  # the bucket's are what counts
        Pretrained.load(bench, NullReporter(), StoredFeatures(Store(settings), settings))


class Predictions:
    """A bundle's predictions, as `predict-catalogue` computes them."""

    prefix = "predictions/"

    def __init__(self, posters: list[Poster], store: Store, bundle: Path) -> None:
        model = Model.load(write_resnet18(bundle))
        upload_bundle(store, bundle, model.sha256)
        self._work = PredictionWork(model.sha256, len(model.manifest.genres), model.manifest.preprocessing.size)
        self._id_of = {poster.sha256: poster.id for poster in posters}

    def complete(self) -> None:
        shutil.rmtree(read_settings().workspace / "predictions", ignore_errors=True)
        complete_rows(self._work, MAIN_COLLECTION, self._id_of, NullReporter())


class Trial:
    """One kind of rows here, on workers of which one is killed, and with a scheduler that is lost."""

    def __init__(self, rows: Rows, store: Store, folder: Path) -> None:
        self._rows, self._store, self._folder = rows, store, folder
        self._faults = 0

    def run(self) -> int:
        """Run it and return the number of faults."""
        print(f"{type(self._rows).__name__}:", flush=True)
        self._timed("this machine", self._rows.complete)
        expected = self._files()
        print(f"  {len(expected) // 2} shards")

        self._forget()
        with self._cluster("killed") as cluster:
            killer = self._after_first_shard(cluster.workers[0])
            self._timed("two workers, one of them killed", self._rows.complete)
            killer.join()
        self._expect("files of two workers equal those of one machine", self._files() == expected)

        self._forget()
        with self._cluster("lost") as cluster:
            killer = self._after_first_shard(cluster.scheduler)
            self._timed("a lost scheduler", lambda: self._expect("the error is retryable", self._is_retryable()))
            killer.join()
        done = self._store.listing(self._rows.prefix)
        with self._cluster("again"):
            self._timed("the next run", self._rows.complete)
        after = self._store.listing(self._rows.prefix)
        print(f"  {len(done) // 2} shards were complete before it")
        self._expect("complete shards are kept", all(after[key] == each for key, each in done.items()))
        self._expect("all files are the same", self._files() == expected)
        self._forget()
        return self._faults

    def _timed(self, what: str, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        print(f"  {what}: {time.monotonic() - began:.0f} s", flush=True)

    def _expect(self, what: str, is_so: bool) -> None:
        print(f"  {'ok' if is_so else 'FAULT'}: {what}", flush=True)
        self._faults += not is_so

    def _is_retryable(self) -> bool:
        try:
            self._rows.complete()
        except AnimeGenreError as error:
            print(f"  {error.message}")
            return error.retryable
        return False

    @contextmanager
    def _cluster(self, name: str) -> Iterator[Cluster]:
        """Two workers with one core each, which this process uses inside the block."""
        folder = self._folder / name
        folder.mkdir(parents=True)
        with dask_cluster(folder) as cluster:
            cpus = sorted(os.sched_getaffinity(0))
            for cpu in (cpus[0], cpus[-1]):
                cluster.add_worker({"ANIME_GENRE_DASK": ""}, prefix=["taskset", "-c", str(cpu)])
            os.environ["ANIME_GENRE_DASK"] = cluster.address
            yield cluster
            os.environ["ANIME_GENRE_DASK"] = ""

    def _after_first_shard(self, process: "subprocess.Popen[bytes]") -> threading.Thread:
        """Kill a process, in a thread, once the bucket has the first shard."""

        def kill() -> None:
            while not any(key.endswith(".json") for key in self._store.keys(self._rows.prefix)):
                time.sleep(0.2)
            process.kill()

        thread = threading.Thread(target=kill)
        thread.start()
        return thread

    def _files(self) -> dict[str, str]:
        return self._store.checksums(self._rows.prefix)

    def _forget(self) -> None:
        for key in self._store.keys(self._rows.prefix):
            self._store.delete(key)


if __name__ == "__main__":
    sys.exit(main())
