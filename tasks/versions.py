"""The versions that determine a training: another machine must have the same ones, or it would train something else."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra.errors import ConfigurationError
from serving.bundle.files import sha256_of

_CODE = "anime-genre"
_FOLDERS = ("ml", "tasks", "infra", "serving/bundle")
_PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "optuna", "pillow"),
    *("onnx", "onnxscript", "onnxruntime"),
)


@cache
def training_versions() -> dict[str, str]:
    """The version of each installed package, and for this project's code its hash.

    What follows a `+`, such as in `2.14.1+cu128`, names a build for other devices. It is omitted.
    """
    found = {_CODE: code_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def check_versions(wanted: Mapping[str, str]) -> None:
    """Check that this machine has the versions of another one. Packages that only one of them has are ignored.

    Raises:
        ConfigurationError: the message names the versions that differ.
    """
    here = training_versions()
    others = [
        f"{name} {here[name]} instead of {wanted[name]}"
        for name in (*_PACKAGES, _CODE)
        if name in here and wanted.get(name, here[name]) != here[name]
    ]
    if others:
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        raise ConfigurationError(
            f"Its machine has {', '.join(others[:2])}{more}. Install the versions of the run there, and start its "
            "worker again.",
            "\n".join(others) if more else "",
        )


@cache
def code_version() -> str:
    """The beginning of the hash of the code that collects and trains."""
    root = Path(__file__).parents[1]
    files = sorted(file.relative_to(root) for folder in _FOLDERS for file in (root / folder).rglob("*.py"))
    return sha256_of(b"".join(bytes(file) + b"\0" + (root / file).read_bytes() for file in files))[:12]
