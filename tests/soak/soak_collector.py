"""Soak test of the collector on the replayed site: faults, rate limits, kills and changed pages.

    PYTHONPATH=. python tests/soak/soak_collector.py [--data FOLDER] [--only faults kills ...] [--seed 0]

The site is `replay/serve.py` in FOLDER (`../shared`, or ANIME_GENRE_REAL_DATA). Each part prints its measurements. The
exit code is 1 if a check fails. The whole test takes about fifteen minutes.
"""

import argparse
import asyncio
import gzip
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from infra.local.processes import free_port
from ml.configuration import PreprocessConfig
from ml.data.dataset import dataset_key
from ml.data.splits import PartTable, franchises
from serving.bundle.errors import AnimeGenreError
from serving.bundle.files import sha256_of_file
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.crawl.ledger import poster_name
from tasks.myanimelist.source import MyAnimeList
from tasks.preprocess import labelled_posters, usable_titles
from tests.replayed_site import replayed

SEASONS = "1974-winter..2024-fall"
LIMIT = 20  # requests per second
FAULTS = 0.1
KILLS = 20
IN_FLIGHT = 4  # connections to the posters' host; the site gets one

failures: list[str] = []


def check(condition: bool, what: str) -> None:
    """Print whether a condition holds, and record a failure."""
    print(f"  {'ok' if condition else 'FAILED'}: {what}", flush=True)
    if not condition:
        failures.append(what)


@dataclass
class Collected:
    """The result of a run of the collector, and the seconds of its parts."""

    posters: dict[str, str]
    records: int
    titles: str
    pages_seconds: float
    posters_seconds: float
    poster_requests: int
    table: pd.DataFrame


def collect(folder: Path, url: str, seasons: str = SEASONS, **settings: object) -> Collected:
    """Run the collector in this process."""
    config = CollectConfig(**settings)  # type: ignore[arg-type]
    with Collector(folder, MyAnimeList(url), config) as collector:
        began = time.monotonic()
        catalogue = asyncio.run(collector.read_catalogue(seasons))
        collector.replace_last_good(seasons, catalogue)
        read = time.monotonic()
        table = asyncio.run(collector.download_posters(catalogue))
        ended = time.monotonic()
    posters = {id: sha256 for id, sha256 in zip(table["id"], table["sha256"], strict=True) if sha256}
    for id, sha256 in posters.items():
        assert sha256_of_file(folder / "posters" / poster_name(id)) == sha256
    return Collected(
        posters=posters,
        records=len(catalogue),
        titles=titles(folder, url),
        pages_seconds=read - began,
        posters_seconds=ended - read,
        poster_requests=collector.traffics[-1].requests,
        table=table,
    )


def titles(folder: Path, url: str) -> str:
    """The hash of the catalogue without the site's URL, whose port differs."""
    return hashlib.sha256((folder / "catalogue.csv").read_text().replace(url, "").encode()).hexdigest()


def key_of(folder: Path, table: pd.DataFrame) -> str:
    """The key of the dataset that the step preprocess would build."""
    usable, _ = usable_titles(read_catalogue(folder / "catalogue.csv"), table, MyAnimeList())
    franchise_of = franchises(dict(zip(usable["id"], usable["title"], strict=True)))
    parts = PartTable().assign(franchise_of)
    labelled = labelled_posters(usable, {i: (franchise_of[i], parts[i]) for i in franchise_of}, folder / "posters")
    return dataset_key(labelled, PreprocessConfig())


def busiest_second(moments: list[float]) -> int:
    """The largest number of requests in any window of one second."""
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def is_faulty(path: str) -> bool:
    """Whether the first two requests for a path get a fault."""
    return int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < FAULTS


def check_faults(data: Path, folder: Path, seed: int) -> None:
    """Faults and a rate limit do not change the result."""
    with replayed(data, folder) as site:
        clean = collect(folder / "clean", site.url)
    print(f"  without faults: {clean.records} titles, {len(clean.posters)} posters")
    for name, pace in (("unknown limit", None), ("configured limit", LIMIT)):
        with replayed(data, folder, rate=LIMIT, faults=FAULTS) as site:
            began = time.monotonic()
            result = collect(
                folder / name.replace(" ", "-"),
                site.url,
                timeout_seconds=3,
                requests_per_second=pace,
                poster_requests_per_second=pace,
            )
            seconds = time.monotonic() - began
            time.sleep(20)  # the log has hanging requests only after this time
            requests = site.requests()
        refused = [request for request in requests if request["status"] == 429]
        # Requests in flight at the first 429 do not count.
        limited = min((request["time"] for request in refused), default=requests[0]["time"])
        later = sorted(r["time"] for r in requests if r["time"] > limited + (0.2 if refused else 0) and not late(r))
        counts, refusals = Counter(r["path"] for r in requests), Counter(r["path"] for r in refused)
        too_often = [
            path
            for path, times in counts.items()
            if times > 1 + 2 * is_faulty(path) + refusals[path] + (path == "/robots.txt")
        ]
        print(
            f"  {name}: {len(requests)} requests in {seconds:.0f} s, {len(refused)} with status 429, at most "
            f"{busiest_second(later)} per second afterwards, {sum(map(is_faulty, counts))} of {len(counts)} URLs faulty"
        )
        check(result.titles == clean.titles, f"{name}: the catalogue is the same as without faults")
        check(result.posters == clean.posters, f"{name}: the hashes of {len(result.posters)} posters are the same")
        check(busiest_second(later) <= LIMIT, f"{name}: at most {LIMIT} requests per second after the first 429")
        check(not too_often, f"{name}: no URL is requested more often than its faults require {too_often[:3]}")


def late(request: dict) -> bool:
    """Whether the log has the end of a response, 20 seconds after its request (the fault "hang")."""
    draw = int(hashlib.sha256(request["path"].encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return draw < FAULTS and int(draw / FAULTS * 5) == 2


def check_kills(data: Path, folder: Path, seed: int) -> None:
    """After a kill at any request, the next run continues."""
    with replayed(data, folder) as site:
        clean = collect(folder / "clean-again", site.url)
        expected = len(site.requests())
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(1, expected), KILLS))
    with replayed(data, folder) as site:
        workspace = folder / "killed"
        command = [
            *(sys.executable, "-m", "flows.cli", "collect", "--site-url", site.url, "--seasons", SEASONS),
            *("--workspace", str(workspace)),
        ]
        allowed = 0
        for moment in moments:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while process.poll() is None and site.log.read_bytes().count(b"\n") < moment:
                time.sleep(0.002)
            check(process.poll() is None, f"the run is killed while it is running, at request {moment}")
            process.kill()
            process.wait()
            posters_began = any(request["path"].startswith("/cdn/") for request in site.requests())
            allowed += (IN_FLIGHT if posters_began else 1) + 1
        killed_at = site.log.read_bytes().count(b"\n")
        damaged = [path.name for path in workspace.glob("pages/*.gz") if not is_intact(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        requests = site.requests()
        result = collect(workspace, site.url)
        after = len(site.requests())
    extra = len(requests) - expected
    print(
        f"  {KILLS} kills over {killed_at} requests, then a full run: {len(requests)} requests, {expected} without "
        f"kills, {extra} more ({extra / KILLS:.2f} per kill)"
    )
    check(result.titles == clean.titles and result.posters == clean.posters, "the result is the same as without kills")
    check(
        extra <= allowed,
        f"at most the requests in flight (1 page, {IN_FLIGHT} posters) and one more per kill: {allowed}",
    )
    check(not damaged, "no kept page is incomplete")
    check(after == len(requests), "another run makes no request")


def is_intact(path: Path) -> bool:
    """Whether the hash of a kept page matches its name."""
    return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() == path.name.removesuffix(".html.gz")


def check_second_run(data: Path, folder: Path, seed: int) -> None:
    """A second run makes no request, is fast, and gives the same dataset."""
    pace = {"requests_per_second": LIMIT, "poster_requests_per_second": LIMIT}
    with replayed(data, folder) as site:
        first = collect(folder / "twice", site.url, **pace)
        pages = len([r for r in site.requests() if r["path"].startswith("/anime/")])
        requests = len(site.requests())
        second = collect(folder / "twice", site.url, **pace)
        again = len(site.requests()) - requests
    seconds = [run.pages_seconds + run.posters_seconds for run in (first, second)]
    ratio = seconds[1] / seconds[0]
    keys = [key_of(folder / "twice", run.table) for run in (first, second)]
    print(f"  at {LIMIT} requests per second: first run {seconds[0]:.1f} s, second {seconds[1]:.2f} s ({ratio:.3f})")
    print(
        f"  {pages} pages in {first.pages_seconds:.2f} s, "
        f"{first.poster_requests} posters in {first.posters_seconds:.2f} s"
    )
    check(again == 0, f"the second run makes no request ({again})")
    check(second.poster_requests == 0, "no poster is requested")
    check(keys[0] == keys[1], f"the dataset key is the same ({keys[0][:12]})")
    check(ratio < 0.1, "it takes less than a tenth of the time")
    allowed = 1.05 * first.poster_requests / LIMIT
    check(first.posters_seconds <= allowed, f"{first.poster_requests} requests take at most {allowed:.2f} s")


def check_drift(data: Path, folder: Path, seed: int) -> None:
    """Changed pages stop the run and the last good catalogue stays; a new season is accepted."""
    port = free_port()
    workspace = folder / "drift"
    with replayed(data, folder, port) as site:
        collect(workspace, site.url, "1974-winter..2024-summer")
        before = (workspace / "catalogue.csv").read_bytes()
    changes: dict[str, Callable[[str], str]] = {
        "a renamed CSS class": lambda page: page.replace("seasonal-anime js-seasonal-anime", "season-card"),
        "another renamed CSS class": lambda page: page.replace("js-score", "js-rating"),
        "genres gone": lambda page: re.sub(r'<span class="genre">.*?</span>', "", page, flags=re.DOTALL),
        "half of the cards gone": half_of_the_cards,
        "a login page": lambda page: "<html><head><title>Login</title></head><body><form></form></body></html>",
    }
    for name, change in changes.items():
        pages = folder / "changed.zip"
        changed_pages(data, pages, change)
        with replayed(data, folder, port, pages=pages) as site:
            try:
                collect(workspace, site.url, "1974-winter..2024-summer", refresh=True)
                outcome = "accepted"
            except AnimeGenreError as error:
                outcome = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
        print(f"  {name}: {outcome}")
        check(outcome != "accepted", f"{name} stops the run")
        check((workspace / "catalogue.csv").read_bytes() == before, "the last good catalogue stays")
    with replayed(data, folder, port) as site:
        result = collect(workspace, site.url, SEASONS)
    known = len(before.splitlines()) - 1
    check(result.records > known, f"a new season is accepted: {result.records} titles, {known} before")


def half_of_the_cards(page: str) -> str:
    """A season page without every second card."""
    parts = re.split(r'(?=<div class="js-anime-category-producer seasonal-anime)', page)
    return parts[0] + "".join(parts[1:-1:2]) + (parts[-1] if len(parts) > 1 else "")


def changed_pages(data: Path, into: Path, change: Callable[[str], str]) -> None:
    """Write the archive of season pages with each page changed."""
    with (
        zipfile.ZipFile(data / "myanimelist" / "replay.zip") as pages,
        zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as changed,
    ):
        for name in pages.namelist():
            changed.writestr(name, change(pages.read(name).decode("utf-8")))


CHECKS = {"faults": check_faults, "kills": check_kills, "second run": check_second_run, "drift": check_drift}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = Path(arguments.data).absolute()
    if not (data / "replay" / "serve.py").exists():
        parser.error(f"{data} has no replay/serve.py; set --data to the folder of the real data")
    for name in arguments.only:
        print(f"{name}: {CHECKS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[name](data, Path(folder), arguments.seed)
    if failures:
        sys.exit(f"{len(failures)} checks failed.")
    print("All checks passed.")


if __name__ == "__main__":
    main()
