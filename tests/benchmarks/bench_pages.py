"""Pages parsed per second, and how that compares with building BeautifulSoup's tree of the whole page.

    python tests/benchmarks/bench_pages.py [--data FOLDER] [--runs 5]

The pages are real ones: `myanimelist/pages.zip` in FOLDER (`../shared`, or where ANIME_GENRE_REAL_DATA points).
"""

import argparse
import os
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from bs4 import BeautifulSoup

from tasks.myanimelist.pages import parse_detail_page, parse_season_page

PARSERS: dict[str, Callable[[str], object]] = {"season": parse_season_page, "anime": parse_detail_page}


def seconds(parse: Callable[[str], object], pages: list[str], runs: int) -> float:
    """The median time that all the pages take."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        for page in pages:
            parse(page)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pages", type=int, default=24, help="pages of each kind, evenly drawn")
    arguments = parser.parse_args()
    archive = Path(arguments.data) / "myanimelist" / "pages.zip"
    if not archive.exists():
        parser.error(f"there is no {archive}; --data names the folder of the real data")
    with zipfile.ZipFile(archive) as file:
        for folder, parse in PARSERS.items():
            names = sorted(name for name in file.namelist() if name.startswith(f"{folder}/"))
            drawn = names[:: max(1, len(names) // arguments.pages)]
            pages = [file.read(name).decode("utf-8") for name in drawn if name.endswith(".html")]
            ours = seconds(parse, pages, arguments.runs)
            whole_tree = seconds(lambda page: BeautifulSoup(page, "lxml"), pages, arguments.runs)
            size = sum(map(len, pages)) / 1e6
            print(
                f"{parse.__name__}: {len(pages) / ours:.1f} pages a second ({size / ours:.1f} MB/s; "
                f"{len(pages)} pages, {size / len(pages):.2f} MB each), "
                f"{whole_tree / ours:.2f} times as fast as the whole tree"
            )


if __name__ == "__main__":
    main()
