"""Train, validation and test parts by franchise, drawn once and kept.

In a random split, half of all test titles have siblings in the training part, and a model that copies a sibling's
genres scores well without reading a pixel. So each franchise belongs to one part, drawn from a hash of its key. The
table of parts only grows. Titles whose posters look alike count as one franchise. Test titles that may be siblings of
training titles are left out of the test part until their relations are known.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain
from typing import TYPE_CHECKING, Self

import pandas as pd

from ml.data.franchise_keys import rare_words, title_franchises
from ml.errors import DatasetError

if TYPE_CHECKING:
    from scipy.cluster.hierarchy import DisjointSet

TRAIN, VALIDATION, TEST, LEFT_OUT, SUSPECT = "train", "validation", "test", "left_out", "suspect"
PARTS = (TRAIN, VALIDATION, TEST)
PARTS_VERSION = 2
"""Version of the rules by which titles become franchises. Each version has a table of parts of its own."""
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_COLUMNS = ["id", "franchise", "part"]
_MEND = "Restore an earlier version of it."


def draw_part(franchise: str) -> str:
    """The part of a new franchise, drawn from the hash of its key: 70 % train, 15 % validation, 15 % test."""
    draw = int.from_bytes(hashlib.sha256(franchise.encode()).digest()[:8]) / 2**64
    if draw < _TEST_SHARE:
        return TEST
    return VALIDATION if draw < _TEST_SHARE + _VALIDATION_SHARE else TRAIN


def franchises(
    titles: Mapping[str, str],
    related: Mapping[str, Iterable[str]] | None = None,
    alike: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """The franchise key of each title by id. Titles that are related or whose posters look alike share a key.

    Keys are made from the titles (`ml.data.franchise_keys`). `related` gives the related ids of each id; ids that are
    not in `titles` still connect those that they name, and those that name them. `alike` are pairs of ids (see
    `ml.data.duplicates.look_alikes`).
    """
    keys = title_franchises(titles)
    pairs = ((id, other) for id, others in (related or {}).items() for other in others)
    return join_franchises(keys, chain(pairs, alike))


def join_franchises(keys: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The franchise key of each title by id, where each pair of ids belongs to one franchise.

    The key of a joined franchise is the alphabetically first key of its titles.
    """
    groups = _group(chain(_members(keys), ((("title", one), ("title", other)) for one, other in pairs)))
    first: dict[_Member, str] = {}
    for id, key in keys.items():
        group = groups["title", id]
        first[group] = min(first.get(group, key), key)
    return {id: first[groups["title", id]] for id in keys}


def without_suspects(
    parts: Mapping[str, str],
    titles: Mapping[str, str],
    franchise_of: Mapping[str, str],
    known: Collection[str] = (),
    named: Collection[str] = (),
) -> dict[str, str]:
    """The part of each title by id, where test titles that may be siblings of training titles get `SUSPECT`.

    Validation titles count as training titles. `known` are the ids of titles whose relations are all known. A relation
    stands on the pages of both titles, so a pair with one of them is no suspect. `named` are the ids of titles whose
    franchise a table names. It may not name that of their siblings, so only a pair of two of them is no suspect.
    """
    words_of = rare_words(titles, franchise_of)
    training: defaultdict[str, set[tuple[str, bool]]] = defaultdict(set)
    for id, words in words_of.items():
        if parts[id] in (TRAIN, VALIDATION) and id not in known:
            for word in words:
                training[word].add((franchise_of[id], id in named))

    def may_have_sibling(id: str) -> bool:
        return any(
            franchise != franchise_of[id] and not (is_named and id in named)
            for word in words_of[id]
            for franchise, is_named in training[word]
        )

    suspected = {id for id in words_of if parts[id] == TEST and id not in known and may_have_sibling(id)}
    return {id: SUSPECT if id in suspected else part for id, part in parts.items()}


def relations_notice(
    titles: Mapping[str, str],
    related: Mapping[str, Iterable[str]],
    parts: Mapping[str, str],
    known: Collection[str],
) -> str:
    """Sentences about how well titles alone find the known relations, and how many test titles have unknown ones.

    The keys of titles do not use relations, so their errors on known relations estimate those on unknown ones. `parts`
    is as in `without_suspects`, and `known` includes its `named`.
    """
    franchise_of = title_franchises(titles)
    words_of = rare_words(titles, franchise_of)
    both = ((id, other) for id in titles.keys() & related.keys() for other in related[id] if other in titles)
    links = {(min(pair), max(pair)) for pair in both}
    part = {id: draw_part(franchise) for id, franchise in franchise_of.items()}
    apart = [link for link in links if part[link[0]] != part[link[1]]]
    missed = sum(words_of[one].isdisjoint(words_of[other]) for one, other in apart)
    test = [id for id, part in parts.items() if part == TEST]
    unknown = sum(id not in known for id in test)
    found = f"Titles alone put {len(apart)} of {len(links)} known relations in different parts, {missed} unsuspected. "
    return (
        f"{found if links else ''}The relations of {unknown} of {len(test)} test titles are unknown: some may be "
        "siblings of training titles with other names and posters."
    )


@dataclass
class PartTable:
    """The part of each title. Rows are added, but never change."""

    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Franchise and part of each title by id."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the table from CSV text. Raises DatasetError if it is damaged."""
        try:
            table = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise DatasetError(f"The table of parts is damaged: {str(error).strip()}. {_MEND}") from error
        if list(table) != _COLUMNS:
            raise DatasetError(f"The table of parts must have the columns {', '.join(_COLUMNS)}. {_MEND}")
        if (damaged := table["id"][~table["part"].isin(PARTS) | table["id"].duplicated()]).size:
            raise DatasetError(f"The table of parts is damaged at the title '{damaged.iloc[0]}'. {_MEND}")
        return cls({id: (franchise, part) for id, franchise, part in table.itertuples(index=False)})

    def text(self) -> str:
        """The table as CSV, in the order in which rows were added."""
        rows = [(id, *row) for id, row in self.rows.items()]
        return str(pd.DataFrame(rows, columns=_COLUMNS, dtype=str).to_csv(index=False, lineterminator="\n"))

    def assign(self, franchise_of: Mapping[str, str]) -> dict[str, str]:
        """The part of each title of `franchise_of` (franchise key by id). New titles are added to the table.

        A new title gets the part of its franchise; a new franchise draws its part. If franchises of different parts
        turn out to be one, its titles in test keep their part (or those in validation if none is in test). The other
        titles get `LEFT_OUT`, and new titles get the part that was kept.
        """
        groups = _group(chain(_members(franchise_of), _members({id: row[0] for id, row in self.rows.items()})))
        drawn: defaultdict[_Member, set[str]] = defaultdict(set)
        for id, (_, part) in self.rows.items():
            drawn[groups["title", id]].add(part)
        parts: dict[str, str] = {}
        for id in sorted(franchise_of):
            franchise = franchise_of[id]
            kept = max(drawn[groups["title", id]] or {draw_part(franchise)}, key=PARTS.index)
            if id not in self.rows:
                self.rows[id] = franchise, kept
            parts[id] = kept if self.rows[id][1] == kept else LEFT_OUT
        return parts

    def redrawn(self, franchise_of: Mapping[str, str]) -> Self:
        """A new table with the titles of `franchise_of` (franchise key by id), drawn by the present rules.

        A franchise whose titles have one part in this table keeps it, so that an earlier model has not seen most of the
        new test part. The other franchises draw their part again.
        """
        drawn: defaultdict[str, set[str]] = defaultdict(set)
        for id, franchise in franchise_of.items():
            if id in self.rows:
                drawn[franchise].add(self.rows[id][1])
        table = type(self)()
        for id in sorted(franchise_of):
            franchise = franchise_of[id]
            (part,) = drawn[franchise] if len(drawn[franchise]) == 1 else (draw_part(franchise),)
            table.rows[id] = franchise, part
        return table


_Member = tuple[str, str]
"""A title by its id, or a franchise by its key."""


def _members(franchise_of: Mapping[str, str]) -> Iterable[tuple[_Member, _Member]]:
    return ((("title", id), ("franchise", key)) for id, key in franchise_of.items())


def _group(pairs: Iterable[tuple[_Member, _Member]]) -> "DisjointSet":
    """The disjoint sets in which the members of each pair are together."""
    from scipy.cluster.hierarchy import DisjointSet  # a quarter of the time in which the collector is imported

    groups = DisjointSet()
    for one, other in pairs:
        groups.add(one)
        groups.add(other)
        groups.merge(one, other)
    return groups
