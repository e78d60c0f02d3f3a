"""The rules of the house: imports point down, and the exceptions are one tree, drawn as it is."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import infra
import ml
import serving.bundle
import serving.function
import tasks
from serving.bundle.errors import AnimeGenreError

ROOT = Path(__file__).parent.parent
ERROR_MODULES = ("serving.bundle.errors", "serving.function.errors", "ml.errors", "infra.errors", "tasks.errors")


def test_imports_only_point_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None) == 0


def test_the_top_level_is_the_one_that_was_agreed() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {"flows", "infra", "ml", "serving", "tasks"}


def all_subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(all_subclasses(child) for child in kind.__subclasses__()))


def test_every_error_stands_in_the_drawing_of_its_module() -> None:
    for name in ERROR_MODULES:
        importlib.import_module(name)
    for kind in all_subclasses(AnimeGenreError):
        if kind.__module__.startswith(("serving", "ml", "infra", "tasks")):
            drawing = importlib.import_module(kind.__module__).__doc__ or ""
            assert re.search(rf"\b{kind.__name__}\b", drawing), f"{kind.__name__} in {kind.__module__}"


def test_errors_are_defined_in_the_error_modules_alone() -> None:
    for package in (infra, ml, serving.bundle, serving.function, tasks):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    kinds = [kind for kind in all_subclasses(AnimeGenreError) if not kind.__module__.startswith("test")]
    assert {kind.__module__ for kind in kinds} <= set(ERROR_MODULES)


def test_whether_an_error_is_retryable_is_said_by_its_type() -> None:
    retryable = {kind.__name__ for kind in all_subclasses(AnimeGenreError) if kind.retryable}
    assert retryable == {
        *("ServiceUnavailable", "SiteUnavailable", "SiteBusy"),
        *("BrokenImageError", "PageCutError"),
    }
