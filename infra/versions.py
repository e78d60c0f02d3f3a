"""The code and the packages on which results depend: machines that work on one thing must have the same."""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_FOLDERS = ("infra", "ml", "serving/bundle", "tasks")
_PACKAGES = ("numpy", "onnxruntime", "pillow", "torch", "torchvision", "timm")


@cache
def versions() -> Mapping[str, str]:
    """The versions on this machine, by name: Python's, those of packages, and the hash of the project's code.

    Builds of one version, such as torch's for CPU and for CUDA, count as the same.
    """
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        try:
            found[package] = version(package).partition("+")[0]
        except PackageNotFoundError:
            found[package] = "missing"
    code = hashlib.sha256()
    for file in sorted(file for folder in _FOLDERS for file in (_ROOT / folder).rglob("*.py")):
        code.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return {**found, "the code of anime-genre": code.hexdigest()[:12]}


def difference(theirs: Mapping[str, str]) -> str:
    """How another machine's versions differ from those here, as a list of words; empty if they do not."""
    here = versions()
    return ", ".join(
        f"{name} {here.get(name, 'missing')} instead of {theirs.get(name, 'missing')}"
        for name in sorted({*here, *theirs})
        if here.get(name) != theirs.get(name)
    )
