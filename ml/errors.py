"""The exceptions of `ml`.

    AnimeGenreError
    └── MLError                     base class of all others
        ├── SettingError            an invalid setting value
        ├── DatasetError            too few posters or genres, or an unreadable table
        ├── WeightsError            weights that are unreadable or do not fit the backbone
        │   └── WeightsUnavailable      weights that could not be downloaded; a retry may help
        ├── TrainingError           a training that cannot start or has diverged
        └── MissingPackageError     a required package is not installed

Messages are complete sentences that are shown to users.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from serving.bundle.errors import AnimeGenreError


class MLError(AnimeGenreError):
    """Base class of the exceptions of `ml`."""


class SettingError(MLError):
    """A setting has an invalid value."""


class DatasetError(MLError):
    """Too few posters or genres to learn from, or an unreadable table or dataset."""


class WeightsError(MLError):
    """Weights are unreadable or do not fit the backbone."""


class WeightsUnavailable(WeightsError):
    """Weights could not be downloaded. A retry may help."""

    retryable: ClassVar[bool] = True


class TrainingError(MLError):
    """A training cannot start or has diverged."""


class MissingPackageError(MLError):
    """A package that this step requires is not installed."""


@contextmanager
def needs_package(what: str) -> Iterator[None]:
    """Raise MissingPackageError if an import in this block fails. The message says that `what` needs the package."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise MissingPackageError(
            f"{what} needs the package '{package}': install it with `pip install {package}`."
        ) from error
