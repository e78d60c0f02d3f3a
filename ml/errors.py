"""What can go wrong while learning.

    AnimeGenreError
    └── MLError                 anything in `ml/`
        ├── SettingError            a setting of a value that cannot be
        ├── DatasetError            too few posters or genres, a table that cannot be read
        ├── WeightsError            weights that cannot be read or do not fit the backbone
        │   └── WeightsUnavailable      weights that could not be downloaded
        ├── TrainingError           training that cannot start or has diverged
        └── MissingPackageError     a package that only this step needs is not installed

The message is one sentence for a person.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.bundle.errors import AnimeGenreError


class MLError(AnimeGenreError):
    """Root of the errors of learning."""


class SettingError(MLError):
    """A setting of a value that cannot be."""


class DatasetError(MLError):
    """Posters, genres or a table from which nothing can be learned."""


class WeightsError(MLError):
    """Weights that cannot be read or do not fit the backbone."""


class WeightsUnavailable(WeightsError):
    """Weights that could not be downloaded."""


class TrainingError(MLError):
    """Training that cannot start, or has diverged."""


class MissingPackageError(MLError):
    """A package that only this step needs is not installed."""


@contextmanager
def needs_package(what: str) -> Iterator[None]:
    """Turn the ImportError of an import in this block into a MissingPackageError: `what` needs it."""
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise MissingPackageError(
            f"{what} needs the package '{package}': install it with `pip install {package}`."
        ) from error
