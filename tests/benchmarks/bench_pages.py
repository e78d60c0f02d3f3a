"""Compares the page parsers with BeautifulSoup's tree of the whole page and with lxml's parser alone.

    PYTHONPATH=. python tests/benchmarks/bench_pages.py [--data FOLDER] [--runs 5]

The pages are real ones: `myanimelist/pages.zip` and `myanimelist/replay.zip` in FOLDER (`../shared`, or
ANIME_GENRE_REAL_DATA). The three take turns. Figures are medians of the runs.
"""

import argparse
import os
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from bs4 import BeautifulSoup
from lxml.html import document_fromstring

from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.season_pages import parse_season_page

Parser = Callable[[str], object]
KINDS: tuple[tuple[str, str, Parser], ...] = (
    ("pages.zip", "season/", parse_season_page),
    ("pages.zip", "anime/", parse_detail_page),
    ("replay.zip", "season/", parse_season_page),
)


def pages_of(archive: Path, folder: str) -> list[str]:
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.startswith(folder) and name.endswith(".html")]
        return [file.read(name).decode("utf-8") for name in sorted(names)]


def seconds(parse: Parser, pages: list[str]) -> float:
    began = time.perf_counter()
    for page in pages:
        parse(page)
    return time.perf_counter() - began


def turns(parsers: tuple[Parser, ...], pages: list[str], runs: int) -> list[tuple[float, ...]]:
    """Seconds of each parser for all pages, per run. A first run warms up and is dropped."""
    return [tuple(seconds(parse, pages) for parse in parsers) for _ in range(runs + 1)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(arguments.data) / "myanimelist"
    for archive, kind, parse in KINDS:
        if not (folder / archive).exists():
            parser.error(f"{folder / archive} does not exist; set --data to the folder of the real data")
        pages = pages_of(folder / archive, kind)
        runs = turns((parse, lambda page: BeautifulSoup(page, "lxml"), document_fromstring), pages, arguments.runs)
        per_second = statistics.median(len(pages) / ours for ours, _, _ in runs)
        faster = statistics.median(whole_tree / ours for ours, whole_tree, _ in runs)
        slower = statistics.median(ours / bare for ours, _, bare in runs)
        print(
            f"{parse.__name__}, {archive}: {per_second:.1f} pages per second "
            f"({len(pages)} pages, {sum(map(len, pages)) / len(pages) / 1e6:.2f} MB each), "
            f"{faster:.2f} times as fast as BeautifulSoup's whole tree, {slower:.2f} times as long as lxml alone"
        )


if __name__ == "__main__":
    main()
