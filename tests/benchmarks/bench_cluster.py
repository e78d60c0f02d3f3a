"""Predictions of many posters on this machine and on Dask workers, compared with decoding and the model alone.

    PYTHONPATH=. python tests/benchmarks/bench_cluster.py [--posters 8192] [--runs 3]
        [--sides alone,here,fresh,one,single,two]

alone     decodes the poster files with all CPUs, then predicts them; keeps nothing
here      `complete_rows` without Dask: pixels, rows and their upload
fresh     the same in an empty workspace, which fetches the posters from the bucket
one       a Dask worker with all CPUs; it fetches the posters too
single    a Dask worker with one CPU
two       two Dask workers with one CPU each

The model is a ResNet18 of 256 x 256 pixels with random weights. The posters are those of bench_preprocess.py. Figures
are medians (minimum to maximum) of the runs; the sides take turns. The bucket is the local stand-in.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from infra.settings import MAIN_COLLECTION
from infra.store import Store
from ml.data.decoding import Poster
from ml.data.shards import FILLED_ROWS
from ml.reporting import NullReporter
from serving.bundle.image import decode
from serving.bundle.model import Model, available_cpus
from tasks.bundles import upload_bundle
from tasks.catalogue_predictions import PredictionWork
from tasks.crawl.ledger import poster_name
from tasks.crawl.mirror import poster_key
from tasks.poster_rows import complete_rows
from tests.benchmarks.bench_preprocess import write_posters
from tests.benchmarks.random_resnet18 import write_resnet18
from tests.dask_cluster import Cluster, dask_cluster
from tests.faults import fault_proxy
from tests.storage import new_bucket, storage_emulator

_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--posters", type=int, default=16 * FILLED_ROWS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sides", default="alone,here,fresh,one,single,two")
    arguments = parser.parse_args()
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        posters = write_posters(folder / "posters", Path(arguments.data) / "posters" / "anime.zip", arguments.posters)
        url = held.enter_context(storage_emulator(folder, "shared"))
        store = new_bucket(url, folder)
        os.environ |= {
            "STORAGE_EMULATOR_HOST": url,
            "ANIME_GENRE_BUCKET": store.name,
            "ANIME_GENRE_WORKSPACE": str(folder / "workspace"),
        }
        store.upload({poster_key(poster.id): poster.file for poster in posters})
        model = Model.load(write_resnet18(folder / "bundle"))
        upload_bundle(store, folder / "bundle", model.sha256)
        work = PredictionWork(model.sha256, len(model.manifest.genres), model.manifest.preprocessing.size)
        bench = Bench(folder, store, posters, model, work)
        cpus = sorted(os.sched_getaffinity(0))
        every, first, second = (",".join(map(str, some)) for some in (cpus, cpus[:1], cpus[-1:]))
        clusters: dict[str, Cluster] = {}
        chosen = arguments.sides.split(",")
        for name, workers in (("one", [every]), ("single", [first]), ("two", [first, second])):
            if name not in chosen:
                continue
            (folder / name).mkdir()
            clusters[name] = held.enter_context(dask_cluster(folder / name))
            for which in workers:
                clusters[name].add_worker({"ANIME_GENRE_DASK": ""}, prefix=["taskset", "-c", which])
        sides: dict[str, Callable[[], None]] = {"alone": bench.alone, "here": bench.here, "fresh": bench.here}
        sides |= {name: lambda cluster=cluster: bench.on(cluster) for name, cluster in clusters.items()}  # type: ignore[misc]
        seconds: dict[str, list[float]] = {name: [] for name in sides if name in chosen}
        for run in range(arguments.runs + 1):
            # The first run warms up with few posters: workers import their packages.
            bench.posters = posters if run else posters[:_BATCH]
            for name in seconds:
                bench.forget(keeps_posters=name != "fresh")
                start = time.perf_counter()
                sides[name]()
                if run:
                    seconds[name].append(time.perf_counter() - start)
        count = len(posters)
        print(f"{count} posters, {available_cpus()} CPUs, in {-(-count // FILLED_ROWS)} shards")
        for name, times in seconds.items():
            print(f"  {name:7} {count / statistics.median(times):6.1f} posters per second")
        for name, other, what in (
            ("alone", "here", "rate of here as a share of alone's"),
            ("one", "here", "time of one as a multiple of here's"),
            ("one", "fresh", "time of one as a multiple of fresh's"),
            ("single", "two", "speed-up of two workers against one of the same size"),
        ):
            if not {name, other} <= set(chosen):
                continue
            ratios = [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
            print(f"  {what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        bench.posters = posters[: 4 * FILLED_ROWS]
        print(f"  requests to the bucket for {len(bench.posters)} posters: {bench.requests(held)}")


class Bench:
    """The sides of the comparison."""

    def __init__(self, folder: Path, store: Store, posters: list[Poster], model: Model, work: PredictionWork) -> None:
        self._folder, self._store, self._model, self._work = folder, store, model, work
        self.posters = posters

    def forget(self, keeps_posters: bool = True) -> None:
        """Delete all rows and, unless it keeps them, the posters of the workspace."""
        for key in self._store.keys(f"{self._work.key}/"):
            self._store.delete(key)
        workspace = self._folder / "workspace"
        shutil.rmtree(workspace, ignore_errors=True)
        (workspace / "posters").mkdir(parents=True)
        for poster in self.posters if keeps_posters else []:
            os.link(poster.file, workspace / "posters" / poster_name(poster.id))
        os.environ["ANIME_GENRE_DASK"] = ""

    def alone(self) -> None:
        size = self._work.image_size
        with ThreadPoolExecutor(available_cpus()) as pool:
            for start in range(0, len(self.posters), _BATCH):
                some = self.posters[start : start + _BATCH]
                images = np.stack(list(pool.map(lambda poster: decode(poster.file.read_bytes(), size), some)))
                self._model.probabilities(images)

    def here(self) -> None:
        id_of = {poster.sha256: poster.id for poster in self.posters}
        complete_rows(self._work, MAIN_COLLECTION, id_of, NullReporter())

    def on(self, cluster: Cluster) -> None:
        os.environ["ANIME_GENRE_DASK"] = cluster.address
        self.here()

    def requests(self, held: ExitStack) -> dict[str, int]:
        """The number of requests of `here`, with all posters in the workspace, by method."""
        counts: Counter[str] = Counter()
        proxy = held.enter_context(fault_proxy(os.environ["STORAGE_EMULATOR_HOST"]))
        seen = proxy.fault_of
        proxy.fault_of = lambda request_line: (counts.update([request_line.split()[0]]), seen(request_line))[1]  # type: ignore[method-assign]
        self.forget()
        os.environ["STORAGE_EMULATOR_HOST"] = proxy.url
        self.here()
        return dict(counts)


if __name__ == "__main__":
    main()
