"""What a person may set about collecting; the command line's help and the forms are made from it."""

from dataclasses import dataclass

from ml.configuration import Checked, setting


@dataclass(frozen=True)
class DriftLimits(Checked):
    """How different a new catalogue may be from the last good one."""

    max_lost_titles: float = setting(0.05, "Share of the last catalogue's titles that may be gone.", 0)
    max_lost_genres: float = setting(0.05, "Share of its titles that may have lost their genres.", 0)
    max_lost_posters: float = setting(0.05, "Share of its titles that may have lost their poster's address.", 0)
    max_emptied: float = setting(0.2, "Share of its titles that may have lost any other field.", 0)
    max_unknown_genres: float = setting(0.05, "Share of titles that may have genres nobody has seen before.", 0)


@dataclass(frozen=True)
class CollectConfig(DriftLimits):
    """How the site is read, and how different a new catalogue may be from the last good one."""

    requests_per_second: float | None = setting(
        None, "Pages asked for a second, at most. By default one, and no limit on this machine's own addresses.", 0.001
    )
    poster_requests_per_second: float | None = setting(
        None,
        "Posters asked for a second, at most. By default four, and no limit on this machine's own addresses.",
        0.001,
    )
    timeout_seconds: float = setting(10.0, "The longest silence of the site before it is asked anew.", 0.1)
    details: int = setting(
        0,
        "Titles' own pages that a run reads at most, most popular titles first: they tell franchises and ratings. "
        "Without a number 1000.",
        0,
        given=1000,
    )
    refresh: bool = setting(False, "Ask for all season pages, also those whose time has not come.")
