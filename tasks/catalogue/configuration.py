"""The settings of collecting, from which the options of the command line and the forms in Prefect are generated."""

from dataclasses import dataclass
from typing import Literal, get_args

from ml.configuration import Checked, PreprocessConfig, setting
from ml.errors import SettingError

Label = Literal["genres", "themes", "demographics"]
"""A list of the catalogue that can label titles."""
LABELS: tuple[str, ...] = get_args(Label)
GENRES = LABELS[0]


@dataclass(frozen=True)
class DatasetConfig(PreprocessConfig):
    """Which labels a catalogue's titles have, and how their posters become a dataset."""

    labels: tuple[Label, ...] = setting(
        ("genres",), "Labels", "What is predicted; a title needs labels of each chosen kind.", min_length=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.labels if name not in LABELS]:
            raise SettingError(f"Unknown labels '{unknown[0]}'; choose from {', '.join(LABELS)}.")


@dataclass(frozen=True)
class DriftLimits(Checked):
    """How much a new catalogue may differ from the last good one."""

    max_lost_titles: float = setting(
        0.05, "Lost titles", "Largest share of the last catalogue's titles that may be missing.", ge=0, le=1
    )
    max_lost_genres: float = setting(
        0.05, "Lost genres", "Largest share of the last catalogue's titles that may lose their genres.", ge=0, le=1
    )
    max_lost_posters: float = setting(
        0.05, "Lost posters", "Largest share of the last catalogue's titles that may lose their poster.", ge=0, le=1
    )
    max_emptied: float = setting(
        0.2, "Emptied fields", "Largest share of the last catalogue's titles that may lose another field.", ge=0, le=1
    )
    max_unknown_genres: float = setting(
        0.05, "Unknown genres", "Largest share of titles that may have genres not seen before.", ge=0, le=1
    )
    max_unread_cards: float = setting(
        0.01, "Unread cards", "Largest share of the pages' titles that may be unreadable; 3 always may.", ge=0, le=1
    )


@dataclass(frozen=True)
class CollectConfig(DriftLimits):
    """How the site is read, and how much a new catalogue may differ from the last good one."""

    requests_per_second: float | None = setting(
        None,
        "Pages per second",
        "Largest number of page requests per second; by default 1, and unlimited for addresses of this machine.",
        ge=0.001,
    )
    poster_requests_per_second: float | None = setting(
        None,
        "Posters per second",
        "Largest number of poster requests per second; by default 4, and unlimited for addresses of this machine.",
        ge=0.001,
    )
    timeout_seconds: float = setting(
        10.0,
        "Timeout (seconds)",
        "Seconds without data after which a request is retried. A whole response may take six times as long, and 50 "
        "seconds more per megabyte.",
        ge=0.1,
    )
    details: int = setting(
        300,
        "Detail pages",
        "Largest number of detail pages to read in a run, those of test titles first, then validation, most "
        "popular titles first; they name franchises and ratings.",
        ge=0,
        given=1000,
    )
    refresh: bool = setting(False, "Refresh", "Re-fetch all season pages, including those that are not due.")
