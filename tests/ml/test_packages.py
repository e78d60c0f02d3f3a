"""`ml` needs a few packages and what they require, so that it runs on machines without the rest of the project."""

import csv
import subprocess
import sys
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml.data.decoding import Poster

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[2]
NEEDED = (
    *("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pillow", "onnx", "onnxscript", "onnxruntime"),
    *("safetensors", "optuna", "imagehash", "jinja2", "tqdm", "tensorboard", "pyarrow"),
)
PROGRAM = '''
import importlib, sys

class Hiding:
    """A finder that does not find blocked modules, as if they were not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = ".".join(name.split(".")[:2]) in blocked
        return None if hidden else self.finder.find_spec(name, path, target)

blocked = set(sys.stdin.read().split())
sys.meta_path[:] = map(Hiding, sys.meta_path)
for name in ("prefect", "mlflow", "flask", "google.cloud.storage", "google.auth", "aiohttp", "requests", "bs4"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was imported")
from ml.__main__ import main
sys.modules["optuna"] = None  # as if it were missing
if main(sys.argv[1:]) != 1:
    sys.exit("training began without a package")
del sys.modules["optuna"]
sys.exit(main(sys.argv[1:]))
'''


def test_training_needs_only_the_packages_of_ml_and_reports_a_missing_one_before_it_begins(
    posters: list[Poster], tmp_path: Path
) -> None:
    with (tmp_path / "posters.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "genres", "file"])
        writer.writerows([poster.id, "|".join(g.name for g in poster.genres), poster.file.name] for poster in posters)
    arguments = [
        *("train", "--catalogue", "posters.csv", "--posters", str(posters[0].file.parent), "--output", "bundle"),
        *("--image-size", "32", "--min-posters", "10", "--min-posters-per-part", "2", "--weights", "none"),
        *("--candidates", "scratch", "--trials", "1", "--epochs", "1", "--device", "cpu"),
    ]
    home = tmp_path / "home"
    home.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input="\n".join(_blocked_modules()),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("Error: ") and "needs the package 'optuna'" in run.stderr.splitlines()[0]
    assert "Traceback" not in run.stderr
    assert (tmp_path / "bundle" / "report.html").exists()
    assert not list(home.iterdir())


def _blocked_modules() -> set[str]:
    """Modules and packages, to a depth of two, of all installed distributions that `NEEDED` does not require."""
    needed = _required(NEEDED) | {"anime-genre"}
    allowed: set[str] = set()
    others: set[str] = set()
    for each in distributions():
        (allowed if canonicalize_name(each.name) in needed else others).update(_modules(each))
    return others - allowed


def _required(names: tuple[str, ...]) -> set[str]:
    """The distributions with these names and all that they require, directly or not."""
    found: set[tuple[str, str]] = set()  # name and extra
    left = [(canonicalize_name(name), "") for name in names]
    while left:
        name, extra = left.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}


def _modules(package: Distribution) -> set[str]:
    """Names such as `google` and `google.cloud`; the first one alone would block other packages of a namespace."""
    paths = [file for file in package.files or () if file.suffix in (".py", ".so") and ".." not in file.parts]
    parts = [(*file.parts[:-1], file.name.partition(".")[0]) for file in paths]
    return {".".join(part for part in each[:depth] if part != "__init__") for each in parts for depth in (1, 2)}
