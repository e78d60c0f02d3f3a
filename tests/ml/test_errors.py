import subprocess
import sys
from pathlib import Path

import pytest

from ml.errors import MissingPackageError, needs_package

ROOT = Path(__file__).parents[2]


def test_needs_package_names_the_missing_package() -> None:
    sentence = "The search needs the package 'no_such_package': install it"
    with pytest.raises(MissingPackageError, match=sentence), needs_package("The search"):
        import no_such_package.part  # type: ignore[import-not-found]  # noqa: F401


@pytest.mark.train
def test_check_packages_writes_nothing_to_the_home_folder(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "from ml.export.bundle_writer import check_packages; check_packages()"],
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    assert not list(tmp_path.rglob("*"))


@pytest.mark.train
def test_missing_package_is_reported_before_training(tmp_path: Path) -> None:
    """Python raises ImportError for a module that is None in sys.modules."""
    code = "import sys; sys.modules['optuna'] = None; from ml.__main__ import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, "train", "--catalogue", "a.csv", "--posters", "b", "--output", "absent/c"],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "needs the package 'optuna'" in run.stderr
    assert "Traceback" not in run.stderr
