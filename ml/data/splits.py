"""Train, validation and test parts by franchise, drawn once and kept.

In a random split, half of all test titles have siblings in the training part, and a model that copies a sibling's
genres scores well without reading a pixel. So each franchise belongs to one part, drawn from a hash of its key. The
table of parts only grows. Titles whose posters look alike count as one franchise.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain
from typing import Self

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from ml.errors import DatasetError

TRAIN, VALIDATION, TEST, LEFT_OUT = "train", "validation", "test", "left_out"
PARTS = (TRAIN, VALIDATION, TEST)
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_COLUMNS = ["id", "franchise", "part"]
_MEND = "Restore an earlier version of it."

# A subtitle follows ": ", " - ", a tilde or a bracket. "Re:Zero" and "Fate/stay night" have none.
_SUBTITLE = re.compile(r"(?<=.)(?::\s|\s[-\u2013\u2014]+\s|\s?[~〜(\[「]).*")
_LEADING_FORM = re.compile(r"^(?:gekijou?ban|eiga|zoku|shin)\s+")
_ORDINAL = r"(?:\d+(?:st|nd|rd|th)|first|second|third|fourth|fifth|final|the final)"
_TRAILING_FORM = re.compile(
    rf"\s+(?:{_ORDINAL}\s+(?:season|stage|series|part|cour)"
    r"|(?:season|part|cour|vol|volume|chapter|episode|movie|stage)\s+(?:\d+|[ivx]+)"
    r"|(?:the\s+)?(?:movies?|gekijou?ban|eiga|ova|oad|ona|tv|specials?|recaps?|soushuuhen|picture drama|"
    r"season|part|pilot|final|next|new)"
    r"|s?\d+|[ivx]{2,}|[rsxz]|2nd|3rd|[4-9]th)$"
)


def franchise_key(title: str) -> str:
    """The franchise that a title names: the title without season, part, form, numeral and subtitle.

    Titles with the same key count as one franchise. A key that is too broad makes the parts a little less balanced,
    but a key that is too narrow leaks, so the rules prefer broad keys.
    """
    folded = unicodedata.normalize("NFKC", title).casefold().strip()
    key = _words(_SUBTITLE.sub("", folded))
    key = _LEADING_FORM.sub("", key)
    while (shorter := _TRAILING_FORM.sub("", key)) != key:
        key = shorter
    return key or _words(folded) or folded


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

    `related` gives the related ids of each id. Ids that are not in `titles` still connect the titles that name them.
    `alike` are pairs of ids (see `ml.data.duplicates.look_alikes`).
    """
    keys = {id: franchise_key(title) or id for id, title in titles.items()}
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


_Member = tuple[str, str]
"""A title by its id, or a franchise by its key."""


def _members(franchise_of: Mapping[str, str]) -> Iterable[tuple[_Member, _Member]]:
    return ((("title", id), ("franchise", key)) for id, key in franchise_of.items())


def _group(pairs: Iterable[tuple[_Member, _Member]]) -> DisjointSet:
    """The disjoint sets in which the members of each pair are together."""
    groups = DisjointSet()
    for one, other in pairs:
        groups.add(one)
        groups.add(other)
        groups.merge(one, other)
    return groups


def _words(text: str) -> str:
    """The letters and digits of a text, with single spaces between words."""
    return " ".join(re.findall(r"\w+", text))
