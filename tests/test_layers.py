"""The top-level packages, and the documented trees of exceptions. `make lint` checks the import contracts."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from serving.bundle.errors import AnimeGenreError

ROOT = Path(__file__).parent.parent
ERROR_MODULES = [
    importlib.import_module(name)
    for name in ("serving.bundle.errors", "serving.function.errors", "ml.errors", "infra.errors", "tasks.errors")
]
ERRORS = {
    name: kind
    for module in ERROR_MODULES
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, AnimeGenreError)
}


def test_top_level_packages_are_the_five_of_the_design() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {"flows", "infra", "ml", "serving", "tasks"}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_error_is_in_the_tree_of_its_module(name: str) -> None:
    assert re.search(rf"\b{name}\b", importlib.import_module(ERRORS[name].__module__).__doc__ or "")


def test_errors_are_defined_only_in_error_modules() -> None:
    modules = {Path(module.__file__ or "") for module in ERROR_MODULES}
    elsewhere = []
    for package in ("flows", "infra", "ml", "serving/bundle", "serving/function", "tasks"):
        for path in {*(ROOT / package).rglob("*.py")} - modules:
            classes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))
            elsewhere += [node.name for node in classes if {ast.unparse(base) for base in node.bases} & ERRORS.keys()]
    assert elsewhere == []


def test_errors_that_are_retryable_are_these() -> None:
    assert {name for name, kind in ERRORS.items() if kind.retryable} == {
        *("ServiceUnavailable", "FunctionDown", "OutdatedError", "SiteUnavailable", "SiteBusy"),
        "RobotsUnavailable",
        *("BrokenImageError", "PageCutError", "WeightsUnavailable", "WorkerLost", "WorkerUnavailable"),
    }
