"""Compares a new catalogue with the last good one, to notice that the site has changed its pages."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ml.data.franchise_keys import franchise_key
from tasks.catalogue.catalogue_table import LIST_SEPARATOR
from tasks.catalogue.configuration import DriftLimits
from tasks.catalogue.last_good import LastGood
from tasks.catalogue.source import Source
from tasks.catalogue.unread_cards import NONE, UnreadEntry
from tasks.errors import DriftError

# Fewer titles than these may be chance, whatever their share.
_MIN_TITLES = 3
# So few titles that cannot be read never stop a run.
_FEW_UNREAD = 3
# Numbers that fall to a tenth are read wrong ("174K" as 174). The share is above it because they are rounded.
_NUMBERS, _FALLEN, _FALLEN_SHARE = ["score", "members", "episodes"], 0.11, 0.5
# If nearly all new titles lack genres, or a poster, the pages are not understood.
_NEW_SHARE, _MIN_NEW_TITLES = 0.9, 20
# Of the titles of one group. One missing page is a small share of all titles.
_GROUP_SHARE = 0.5
_NAMED = 3  # measures in a message
_FIELDS = ["type", "source", "start_date", "episodes", "score", "members", "themes", "demographics", "studios"]
_COMPARED = ["title", "genre_ids", "poster_url", *_FIELDS]
_OTHER_TITLE = "have another title"


@dataclass(frozen=True)
class Measure:
    """How many titles (`count`) of how many (`of`) changed in one way, and the largest share (0 to 1) that is fine.

    Fewer titles than `least` are fine, whatever their share.
    """

    name: str
    count: int
    of: int
    limit: float
    least: int = _MIN_TITLES

    @property
    def share(self) -> float:
        """The share of titles, 0 to 1."""
        return self.count / self.of if self.of else 0.0

    @property
    def drifted(self) -> bool:
        """Whether the share is above the limit."""
        return self.count >= self.least and self.share > self.limit

    def row(self) -> dict[str, str | int]:
        """The measure as a row of a table."""
        return {
            "what": self.name,
            "titles": self.count,
            "of": self.of,
            "share": f"{self.share:.1%}",
            "limit": f"{self.limit:.0%}",
            "verdict": "STOP" if self.drifted else "fine",
        }


def compare(
    last: LastGood, now: pd.DataFrame, source: Source, limits: DriftLimits, unread: Sequence[UnreadEntry] = ()
) -> list[Measure]:
    """How the new catalogue `now` differs from the last good one. `unread` are the entries that could not be read.

    A title is another one if it names another franchise. Many of them mean that the source has renumbered its
    titles. All would become one franchise, because the table of parts joins the old and the new franchise of an id.

    Compares the titles that the new catalogue has to include. Groups, such as seasons, in which nothing changed do not
    count: their pages were probably not read again, and would hide what happened to the others.
    """
    before = last.titles.assign(group=source.group_of(last.titles))
    joined = before.merge(now, on="id", how="left", suffixes=("", "_now"), indicator="found")
    is_gone = joined["found"] == "left_only"
    differs = is_gone | pd.concat([joined[name] != joined[f"{name}_now"] for name in _COMPARED], axis=1).any(axis=1)
    changed_groups = joined.loc[differs & last.selected, "group"]
    is_compared = joined["group"].isin(changed_groups)
    old, kept = joined[is_compared], joined[is_compared & ~is_gone]
    added = now[~now["id"].isin(before["id"])]
    many_added = added if len(added) >= _MIN_NEW_TITLES else added[:0]

    def emptied(name: str, what: str, limit: float) -> Measure:
        had = kept[kept[name] != ""]
        return Measure(what, _count(had[f"{name}_now"] == ""), len(had), limit)

    def without(name: str, what: str) -> Measure:
        return Measure(what, _count(many_added[name] == ""), len(many_added), _NEW_SHARE)

    def fallen(name: str) -> Measure:
        before, after = pd.to_numeric(kept[name]), pd.to_numeric(kept[f"{name}_now"])
        fell = _count((before > 0) & (after <= _FALLEN * before))
        return Measure(f"{name} fell to a tenth", fell, _count((before > 0) & after.notna()), _FALLEN_SHARE)

    renamed = kept[kept["title"] != kept["title_now"]]
    other_titles = renamed["title"].map(franchise_key) != renamed["title_now"].map(franchise_key)
    cards = len(now) + sum(entry.record == NONE for entry in unread) if unread else 0
    return [
        Measure("titles lost", len(old) - len(kept), len(old), limits.max_lost_titles),
        _worst_group(old),
        emptied("genres", "lost their genres", limits.max_lost_genres),
        emptied("poster_url", "lost their poster", limits.max_lost_posters),
        Measure(_OTHER_TITLE, _count(other_titles), len(kept), limits.max_lost_titles),
        *(emptied(name, f"lost their {name.replace('_', ' ')}", limits.max_emptied) for name in _FIELDS),
        _unknown_genres(before, pd.concat([kept["genre_ids_now"], added["genre_ids"]]), source, limits),
        without("genres", "new, without genres"),
        without("poster_url", "new, without poster"),
        *map(fallen, _NUMBERS),
        Measure("titles not read", len(unread), cards, limits.max_unread_cards, _FEW_UNREAD + 1),
    ]


def _count(mask: "pd.Series[bool]") -> int:
    return int(mask.sum())


def _worst_group(old: pd.DataFrame) -> Measure:
    """The group that lost the most titles."""
    lost = old.loc[old["found"] == "left_only", "group"].value_counts().sort_index()
    if lost.empty:
        return Measure("lost of one group", 0, 0, _GROUP_SHARE)
    worst = lost[lost == lost.max()].index[-1]
    return Measure(f"lost of {worst or 'the whole'}", int(lost[worst]), _count(old["group"] == worst), _GROUP_SHARE)


def _unknown_genres(before: pd.DataFrame, genre_ids: "pd.Series[str]", source: Source, limits: DriftLimits) -> Measure:
    """The titles with a genre that neither the source nor the last good catalogue knows; none if both know no ids."""
    known = {*map(str, source.genre_ids), *before["genre_ids"].str.split(LIST_SEPARATOR).explode()} - {""}
    each = genre_ids.reset_index(drop=True).str.split(LIST_SEPARATOR).explode()
    unknown = each[~each.isin({"", *known})].index.nunique() if known else 0
    return Measure("have an unknown genre", unknown, len(genre_ids), limits.max_unknown_genres)


def check(measures: Sequence[Measure]) -> None:
    """Check that no measure is above its limit.

    Raises:
        DriftError: one is. Its details are the table of measures.
    """
    drifted = [measure.name for measure in measures if measure.drifted]
    details = "\n".join(map(_line, measures))
    if _OTHER_TITLE in drifted:
        raise DriftError(
            "Many ids have another title than in the last good catalogue, as if they were renumbered. Choose "
            "lasting ids (--columns id=NAME) and another --collection, or raise --max-lost-titles for one run if only "
            "names have changed.",
            details,
        )
    if drifted:
        more = f" and {len(drifted) - _NAMED} more" if len(drifted) > _NAMED else ""
        raise DriftError(
            f"The new catalogue differs too much from the last good one ({', '.join(drifted[:_NAMED])}{more}). "
            "Run again to re-fetch the pages, or raise the limits for one run if the change is correct.",
            details,
        )


def _line(measure: Measure) -> str:
    verdict = "  <- STOP" if measure.drifted else ""
    numbers = f"{measure.count:>6} of {measure.of:<6}{measure.share:>7.1%}  limit {measure.limit:.0%}"
    return f"  {measure.name:<26}{numbers}{verdict}"
