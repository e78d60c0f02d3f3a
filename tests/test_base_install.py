"""Without the extra `pipeline`: predictions, the page and the collector work, other commands name what is missing."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.faulty_site import FaultySite, faulty_site
from tests.serving.conftest import write_bundle

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


BASE, EXTRA = names_of(PROJECT["dependencies"]), names_of(PROJECT["optional-dependencies"]["pipeline"])
# The modules that only the extra installs. Several packages may share a module, such as `google`.
MODULES = [
    module
    for module, distributions in packages_distributions().items()
    if (names := set(map(canonicalize_name, distributions))) & EXTRA and not names & BASE
]
WITHOUT_EXTRA = f"import sys; sys.modules.update(dict.fromkeys({MODULES!r}))"


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process in which no package of the extra can be imported."""
    command = [sys.executable, "-c", f"{WITHOUT_EXTRA}; {code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(f"from flows.cli import main; sys.exit(main({[str(each) for each in arguments]!r}))")


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with faulty_site(titles=36) as site:
        yield site


def test_extra_has_the_large_packages() -> None:
    assert {"torch", "prefect", "mlflow", "sklearn", "functions_framework"} <= set(MODULES)


def test_predictions_work_without_the_extra(tmp_path: Path) -> None:
    bundle, poster = write_bundle(tmp_path / "bundle"), tmp_path / "poster.png"
    Image.new("RGB", (40, 60), (200, 30, 30)).save(poster)
    result = run_command("predict", bundle, poster)
    assert (result.returncode, result.stderr) == (0, "") and "Action" in result.stdout


def test_monitor_works_without_the_extra(tmp_path: Path) -> None:
    genres = [{"name": "Action", "probability": 0.5}]
    (tmp_path / "predictions").write_text(json.dumps({"file": "p.jpg", "genres": genres}))
    poster = {"width": 2, "height": 3, "brightness": 0.5, "probabilities": {"Action": 0.5}}
    request = {"method": "POST", "path": "/", "status": 200, "milliseconds": {"total": 9}, "posters": 1}
    line = request | {"model_version": "3", "bundle": "9f86d081", "predictions": [poster], "refusals": {}}
    (tmp_path / "log").write_text(json.dumps(line))
    result = run_command("monitor", tmp_path / "log", "--reference", tmp_path / "predictions")
    assert (result.returncode, result.stderr) == (0, "") and "No genre shifted" in result.stdout


def test_collector_works_without_the_extra(site: FaultySite, tmp_path: Path) -> None:
    options = ("--seasons", "2015-winter..2019-fall", "--workspace", tmp_path)
    result = run_command("collect", "--site-url", site.url, *options)
    assert result.returncode == 0, result.stderr
    assert "36 titles" in result.stdout


def test_page_works_without_the_extra() -> None:
    code = "from serving.web.app import create_app; client = create_app().test_client(); "
    result = run(
        f"import os; os.environ['FUNCTION_URL'] = 'http://127.0.0.1:9'; {code}print(client.get('/anime').status)"
    )
    assert (result.returncode, result.stdout.strip()) == (0, "200 OK"), result.stderr


@pytest.mark.parametrize("command", ["retrain --no-crawl", "up", "train --catalogue t.csv --posters p --output o"])
def test_other_commands_name_what_is_missing(command: str, tmp_path: Path) -> None:
    workspace = () if command.startswith("train") else ("--workspace", tmp_path / "workspace")
    result = run_command(*command.split(), *workspace)
    assert result.returncode == 1
    assert "which is not installed. Run `pip install '.[pipeline]'` first." in result.stderr
    assert "Traceback" not in result.stderr
