import pytest

from ml.errors import MissingPackageError, needs_package


def test_needs_package_names_the_missing_package() -> None:
    sentence = "The search needs the package 'no_such_package': install it"
    with pytest.raises(MissingPackageError, match=sentence), needs_package("The search"):
        import no_such_package.part  # type: ignore[import-not-found]  # noqa: F401
