"""Versions of code and packages that two machines compare before one trains for the other."""

import pytest

from infra.errors import ConfigurationError
from tasks.versions import check_versions, training_versions


def test_versions_are_those_of_installed_packages_without_their_builds() -> None:
    versions = training_versions()
    assert {"anime-genre", "torch", "numpy", "onnx"} <= set(versions)
    assert not any("+" in version for version in versions.values())
    check_versions(versions)


def test_versions_that_differ_are_named() -> None:
    here = training_versions()
    with pytest.raises(ConfigurationError, match=f"Its machine has torch {here['torch']} instead of 0.1. Install"):
        check_versions(here | {"torch": "0.1"})
    with pytest.raises(ConfigurationError, match=r"has torch .* instead of 0.1, numpy .* instead of 0.2 and 1 more"):
        check_versions(here | {"torch": "0.1", "numpy": "0.2", "anime-genre": "other code"})


def test_package_that_only_one_machine_has_is_ignored() -> None:
    check_versions({"timm": training_versions().get("timm", "1"), "another": "1"})
    check_versions({})
