"""Measures how well titles alone put related titles into one part, on relations of real pages.

    PYTHONPATH=. python tests/benchmarks/bench_franchises.py [--data FOLDER] [--copies 5]

The titles are those of the season pages, detail pages and poster sets in FOLDER (`../shared`, or
ANIME_GENRE_REAL_DATA), the relations those of its detail pages. They are divided at random into two halves: rules are
tuned on the first one, and the second one says what they are worth. A part of a franchise is drawn from a hash, so a
link between two franchises is apart by chance. The expected share is therefore the share of links between two
franchises, times the probability that two draws differ.
"""

import argparse
import csv
import io
import os
import random
import time
import zipfile
from collections import Counter
from pathlib import Path

from ml.data.franchise_keys import rare_words, title_franchises
from ml.data.splits import TEST, TRAIN, VALIDATION, PartTable, draw_part, franchises, without_suspects
from tasks.catalogue.titles import Title
from tasks.errors import PageError
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.season_pages import parse_season_page

_STRONG = ("Sequel", "Prequel")
_WEAK = ("Character", "Other")
_APART = 1 - (0.70**2 + 2 * 0.15**2)
_DRAWS = 20
Link = tuple[str, str]


def read_data(data: Path) -> tuple[dict[str, str], dict[str, set[Link]], dict[str, list[str]]]:
    """The titles by id, the links by "sequels" and "others", and the related ids of each title with a page."""
    titles: dict[str, str] = {}
    links: dict[str, set[Link]] = {"sequels": set(), "others": set()}
    related: dict[str, list[str]] = {}
    for name in ("pages.zip", "replay.zip"):
        with zipfile.ZipFile(data / "myanimelist" / name) as archive:
            for page in archive.namelist():
                if page.startswith("season/") and page.endswith(".html"):
                    entries = parse_season_page(archive.read(page))
                    titles |= {entry.id: entry.title for entry in entries if isinstance(entry, Title)}
                elif page.endswith(".html"):
                    try:
                        details = parse_detail_page(archive.read(page))
                    except PageError:
                        continue  # pages of another kind, to test the parser with
                    titles.setdefault(details.id, details.title)
                    related[details.id] = [other.id for other in details.related if other.relation != "Character"]
                    for other in details.related:
                        titles.setdefault(other.id, other.title)
                        if other.relation not in _WEAK:
                            kind = "sequels" if other.relation in _STRONG else "others"
                            links[kind].add((min(details.id, other.id), max(details.id, other.id)))
    for name in ("anime", "anime-more"):
        with zipfile.ZipFile(data / "posters" / f"{name}.zip") as archive:
            text = archive.read(next(each for each in archive.namelist() if each.endswith(".csv"))).decode()
            for row in csv.DictReader(io.StringIO(text)):
                titles.setdefault(row["mal_id"], row["title"])
    links["others"] -= links["sequels"]
    return titles, links, related


def kept_share(titles: dict[str, str], franchise_of: dict[str, str]) -> float:
    """The mean share of test titles that are kept, over draws of other parts."""
    shares = []
    for draw in range(_DRAWS):
        part_of = {franchise: draw_part(f"{draw} {franchise}") for franchise in franchise_of.values()}
        drawn = {id: part_of[franchise] for id, franchise in franchise_of.items()}
        kept = without_suspects(drawn, titles, franchise_of, ())
        shares.append(list(kept.values()).count(TEST) / list(drawn.values()).count(TEST))
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--copies", type=int, default=5, help="times that the titles are repeated to measure the speed")
    arguments = parser.parse_args()
    titles, links, related = read_data(Path(arguments.data))
    franchise_of = title_franchises(titles)
    words_of = rare_words(titles, franchise_of)
    print(f"{len(titles)} titles, {len(set(franchise_of.values()))} franchises, {len(related)} detail pages")
    shuffled = random.Random(0).sample(sorted(links["sequels"]), len(links["sequels"]))
    middle = len(shuffled) // 2
    for name, chosen in (
        ("sequels, first half", shuffled[:middle]),
        ("sequels, second half", shuffled[middle:]),
        ("sequels, all", shuffled),
        ("other strong relations", sorted(links["others"])),
    ):
        differ = [link for link in chosen if franchise_of[link[0]] != franchise_of[link[1]]]
        apart = [link for link in differ if len({draw_part(franchise_of[id]) for id in link}) == 2]
        missed = [link for link in differ if words_of[link[0]].isdisjoint(words_of[link[1]])]
        print(
            f"{name}: {len(chosen)} links, {len(differ)} of two franchises; in different parts {len(apart)} "
            f"(expected {_APART * len(differ) / len(chosen):.1%}), unsuspected as well "
            f"{len(set(apart) & set(missed))} (expected {_APART * len(missed) / len(chosen):.1%})"
        )
    print(f"test titles kept: {kept_share(titles, franchise_of):.1%}")

    joined = franchises(titles, related)
    parts = without_suspects(PartTable().assign(joined), titles, joined, related.keys())
    leaks = sum(
        {parts[one], parts[other]} in ({TEST, TRAIN}, {TEST, VALIDATION})
        for one, other in links["sequels"] | links["others"]
    )
    print(f"with the pages at hand: {leaks} links lead from a test title into another part")
    for franchise, size in Counter(franchise_of.values()).most_common(10):
        print(f"  {size} titles ({size / len(titles):.2%}): {franchise}")
    many = {
        f"{copy} {id}": f"{title} {'abcdefgh'[copy] * 6}"
        for copy in range(arguments.copies)
        for id, title in titles.items()
    }
    began = time.process_time()
    rare_words(many, title_franchises(many))
    print(f"franchises and suspects of {len(many)} titles: {time.process_time() - began:.1f} s of CPU time")


if __name__ == "__main__":
    main()
