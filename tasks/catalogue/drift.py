"""Has the site changed so that the new catalogue would spoil the old one? Two catalogues in, a table out."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tasks.catalogue.configuration import DriftLimits
from tasks.catalogue.titles import GENRE_IDS, AnimeRecord
from tasks.errors import DriftError

# Fewer titles than these are chance, whatever share they are.
_FEWEST = 3
# Of titles that are new, so many share no genres, or no poster, only where the pages are not read as they are meant.
_LARGEST_SHARE_OF_NEW, _FEWEST_NEW = 0.9, 20
# Of one season's titles; a page that is gone, or another season's in its place, is few titles of all.
_OF_A_SEASON = 0.5
_FIELDS = ("type", "source", "start_date", "episodes", "score", "members", "themes", "demographics", "studios")


@dataclass(frozen=True)
class Measure:
    """So many titles (`count`) of those that could (`of`), and the share of them from which on it is drift."""

    name: str
    count: int
    of: int
    limit: float

    @property
    def share(self) -> float:
        """Count by number."""
        return self.count / self.of if self.of else 0.0

    @property
    def drifted(self) -> bool:
        """Whether it is past the limit."""
        return self.count >= _FEWEST and self.share > self.limit

    def row(self) -> dict[str, str | int]:
        """The row of a table for people."""
        verdict = "STOP" if self.drifted else "fine"
        share, limit = f"{self.share:.1%}", f"{self.limit:.0%}"
        return {
            "what": self.name,
            "titles": self.count,
            "of": self.of,
            "share": share,
            "limit": limit,
            "verdict": verdict,
        }


def compare(
    before: Sequence[AnimeRecord], now: Sequence[AnimeRecord], seasons: Collection[str], limits: DriftLimits
) -> list[Measure]:
    """How the new catalogue (`now`) differs from the last good one (`before`, empty for the first).

    Compared are the titles of the `seasons` that both were made of, and of these only such where anything at all
    changed: pages that were not read again would hide what happened to those that were.
    """
    new_of = {record.mal_id: record for record in now}
    touched = {
        record.season
        for record in before
        if record.season in seasons and _measured(new_of.get(record.mal_id)) != _measured(record)
    }
    old = [record for record in before if record.season in touched]
    both = [(record, new_of[record.mal_id]) for record in old if record.mal_id in new_of]
    known_ids = GENRE_IDS.union(*(record.genre_ids for record in before))
    before_ids = {record.mal_id for record in before}
    added = [record for record in now if record.mal_id not in before_ids]
    changed = [new for _, new in both] + added
    unknown = [record for record in changed if not known_ids.issuperset(record.genre_ids)]
    large = added if len(added) >= _FEWEST_NEW else []

    def emptied(name: str, what: str, limit: float) -> Measure:
        had = [new for record, new in both if getattr(record, name)]
        return Measure(what, sum(not getattr(new, name) for new in had), len(had), limit)

    def lacking(name: str, what: str) -> Measure:
        return Measure(what, sum(not getattr(new, name) for new in large), len(large), _LARGEST_SHARE_OF_NEW)

    gone_of: Counter[str | None] = Counter(record.season for record in old if record.mal_id not in new_of)
    worst = max(gone_of, key=lambda season: (gone_of[season], str(season)), default=None)
    return [
        Measure("titles lost", len(old) - len(both), len(old), limits.max_lost_titles),
        Measure(f"lost of {worst or 'a season'}", gone_of[worst], sum(r.season == worst for r in old), _OF_A_SEASON),
        emptied("genres", "lost their genres", limits.max_lost_genres),
        emptied("poster_url", "lost their poster", limits.max_lost_posters),
        *(emptied(name, f"lost their {name.replace('_', ' ')}", limits.max_emptied) for name in _FIELDS),
        Measure("have an unknown genre", len(unknown), len(changed), limits.max_unknown_genres),
        lacking("genres", "new, without genres"),
        lacking("poster_url", "new, without poster"),
    ]


def check(measures: Sequence[Measure]) -> None:
    """See to it that nothing is past its limit.

    Raises:
        DriftError: something is; the message has the table.
    """
    drifted = [measure for measure in measures if measure.drifted]
    if drifted:
        raise DriftError(
            f"The new catalogue is not as catalogues were ({', '.join(m.name for m in drifted)}). The last good one "
            "stays, if there is one, and the pages are asked for again in the next run. Has the site changed?\n"
            + "\n".join(map(_line, measures))
            + "\nIf this is as it should be, raise the limit for one run."
        )


def _line(measure: Measure) -> str:
    verdict = "  <- STOP" if measure.drifted else ""
    numbers = f"{measure.count:>6} of {measure.of:<6}{measure.share:>7.1%}  limit {measure.limit:.0%}"
    return f"  {measure.name:<26}{numbers}{verdict}"


def _measured(record: AnimeRecord | None) -> object:
    """What is compared of a title."""
    return record and (record.genre_ids, record.poster_url, *(getattr(record, name) for name in _FIELDS))
